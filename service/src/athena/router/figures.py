"""Running figures of the backends: collected in memory, reported to the registry in batches."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import msgspec
import structlog

from athena.router.errors import BackendError
from athena.router.upstream import UpstreamClient

REPORT_SECONDS = 5.0
POST_SECONDS = 5.0
LAST_REPORT_SECONDS = 2.0  # how long the end of the process may wait for the last report
_WRONG = (400, 413, 422)  # statuses that say that the same batch will never be taken
log = structlog.get_logger()


class Figure(msgspec.Struct, kw_only=True):
    """The sums of one backend since the last batch."""

    backend_id: int
    requests: int = 0
    errors: int = 0
    latency_ms_sum: float = 0.0
    completion_tokens: int = 0
    completion_seconds: float = 0.0

    def add(self, other: "Figure") -> None:
        """Add the sums of another time of the same backend."""
        self.requests += other.requests
        self.errors += other.errors
        self.latency_ms_sum += other.latency_ms_sum
        self.completion_tokens += other.completion_tokens
        self.completion_seconds += other.completion_seconds


class Batch(msgspec.Struct, kw_only=True):
    """One report. Its id makes it count once, however often it is sent."""

    batch_id: str
    figures: list[Figure]


Report = Callable[[Batch], Awaitable[None]]


class ReportError(Exception):
    """A batch was not taken, or it is not known whether it was; `final` says that it never will be."""

    def __init__(self, detail: str, *, final: bool = False) -> None:
        super().__init__(detail)
        self.final = final


class Figures:
    """Collects the figures of each backend. `record` costs a few additions; the reporting runs in the background.

    An async context manager. What cannot be reported is kept and reported later, in two batches at most: the one whose
    fate is unknown, and all that came after it. Without a `report` nothing is collected.
    """

    def __init__(self, report: Report | None, *, every: float = REPORT_SECONDS) -> None:
        self._report = report
        self._every = every
        self._sums: dict[int, Figure] = {}
        self._batch: Batch | None = None
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    async def __aenter__(self) -> "Figures":
        if self._report is None:
            log.warning("figures_not_reported", reason="ADMIN_API_TOKEN is not set")
        else:
            self._task = asyncio.create_task(self._run(), name="athena figures")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(LAST_REPORT_SECONDS):
                taken = await self.flush()
        except TimeoutError:
            taken = False
        if not taken:
            log.warning("figures_lost", requests=sum(sums.requests for sums in self.pending().values()))

    def record(
        self, backend_id: int, *, error: bool, seconds: float, completion_tokens: int, completion_seconds: float
    ) -> None:
        """Count one attempt; `seconds` until the whole reply, of which `completion_seconds` were spent writing."""
        if self._report is None:
            return
        sums = self._sums.get(backend_id)
        if sums is None:
            sums = self._sums[backend_id] = Figure(backend_id=backend_id)
        sums.requests += 1
        if error:
            sums.errors += 1
        else:
            sums.latency_ms_sum += seconds * 1000
            sums.completion_tokens += completion_tokens
            sums.completion_seconds += completion_seconds

    async def flush(self) -> bool:
        """Report what there is; returns whether all of it was taken."""
        if self._report is None:
            return True
        while self._batch is not None or self._sums:
            if self._batch is None:
                self._batch = Batch(batch_id=str(uuid4()), figures=list(self._sums.values()))
                self._sums = {}
            try:
                await self._report(self._batch)
            except ReportError as error:
                self._note_failure(error)
                if error.final:
                    self._batch = None
                return False
            self._batch = None
            self._failing = False
        return True

    def pending(self) -> dict[int, Figure]:
        """Return the sums that are not known to have been reported, by backend."""
        total = {backend_id: msgspec.structs.replace(sums) for backend_id, sums in self._sums.items()}
        for sums in self._batch.figures if self._batch is not None else []:
            total.setdefault(sums.backend_id, Figure(backend_id=sums.backend_id)).add(sums)
        return total

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            await self.flush()

    def _note_failure(self, error: ReportError) -> None:
        if error.final:
            log.error("figures_refused", error=str(error))
        elif not self._failing:
            self._failing = True
            log.warning("figures_wait", error=str(error))


def reporter(upstream: UpstreamClient, *, url: str, token: str) -> Report:
    """Return what sends a batch to the Admin API."""
    headers = {"authorization": f"Bearer {token}"}

    async def report(batch: Batch) -> None:
        try:
            reply = await upstream.post(
                f"{url}/api/llm-backends/figures", msgspec.json.encode(batch), headers=headers, within=POST_SECONDS
            )
        except BackendError as error:
            raise ReportError(f"the Admin API at {url} does not answer: {error.detail}") from error
        if reply.status not in (200, 204):
            said = reply.body[:200].decode(errors="replace")
            raise ReportError(f"the Admin API answers {reply.status}: {said}", final=reply.status in _WRONG)

    return report
