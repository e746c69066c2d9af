"""Running figures of the backends: collected in memory, reported to the registry in batches."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from uuid import uuid4

import msgspec
import structlog

from athena.router.batch import Batch, Figure, requests_in
from athena.router.errors import BackendError
from athena.router.judging.comparing import SHORTEST_SECONDS
from athena.router.spool import Spool
from athena.router.upstream import UpstreamClient

__all__ = ["Batch", "Figure", "Figures", "Report", "ReportError", "reporter"]

REPORT_SECONDS = 5.0
POST_SECONDS = 5.0
SPOOL_SECONDS = 30.0  # while figures cannot be reported, how often they are written to the spool
MOST_BATCHES = 10_000  # taken over from earlier processes; each of those leaves two at most
LAST_REPORT_SECONDS = 2.0  # how long the end of the process may wait for the last report
_WRONG = (400, 413, 422)  # statuses that say that the same batch will never be taken
log = structlog.get_logger()


Report = Callable[[Batch], Awaitable[None]]


class ReportError(Exception):
    """A batch was not taken, or it is not known whether it was; `final` says that it never will be."""

    def __init__(self, detail: str, *, final: bool = False) -> None:
        super().__init__(detail)
        self.final = final


class Figures:
    """Collects the figures of each backend. `record` costs a few additions; the reporting runs in the background.

    An async context manager. What cannot be reported is kept and reported later, in two batches at most: the one whose
    fate is unknown, and all that came after it. With a `spool` it survives the end of the process too, a sudden one
    but for the last `spool_every` seconds. Without a `report` nothing is collected.
    """

    def __init__(
        self,
        report: Report | None,
        *,
        spool: Spool | None = None,
        every: float = REPORT_SECONDS,
        spool_every: float = SPOOL_SECONDS,
    ) -> None:
        self._report = report
        self._spool = spool
        self._every = every
        self._spool_every = spool_every
        self._sums: dict[int, Figure] = {}
        # The open sums have their id before they are reported, so that they count once even where the process ends
        # between their report and the removal of their last state from the spool.
        self._open_id = str(uuid4())
        self._sealed: deque[Batch] = deque()  # oldest first; what may have been sent is never changed
        self._task: asyncio.Task[None] | None = None
        self._saving: asyncio.Future[None] | None = None
        self._save_again = 0.0
        self._spooled = False
        self._failing = False

    async def __aenter__(self) -> "Figures":
        if self._report is None:
            log.warning("figures_not_reported", reason="ADMIN_API_TOKEN is not set")
        else:
            self._load()
            self._task = asyncio.create_task(self._run(), name="athena figures")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._saving is not None:
            await asyncio.gather(self._saving, return_exceptions=True)
        await self._report_the_rest()
        self._keep_the_rest()
        if self._spool is not None:
            self._spool.close()

    def record(
        self,
        backend_id: int,
        *,
        error: bool,
        seconds: float,
        completion_tokens: int,
        completion_seconds: float,
        first_token: float | None = None,
    ) -> None:
        """Count one attempt; `seconds` until the whole reply, of which `completion_seconds` were spent writing.

        `first_token` are the seconds until then, given only where they are compared with those of others.
        """
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
            if first_token is not None:
                log_seconds = math.log(max(first_token, SHORTEST_SECONDS))
                sums.times += 1
                sums.logs += log_seconds
                sums.squares += log_seconds * log_seconds

    async def flush(self) -> bool:
        """Report what there is; returns whether all of it was taken."""
        if self._report is None:
            return True
        while self._sealed or self._sums:
            if not self._sealed:
                self._seal()
            batch = self._sealed[0]
            try:
                await self._report(batch)
            except ReportError as error:
                self._note_failure(error)
                if error.final:
                    self._done_with(batch)
                return False
            self._done_with(batch)
            self._failing = False
        return True

    def pending(self) -> dict[int, Figure]:
        """Return the sums that are not known to have been reported, by backend."""
        total: dict[int, Figure] = {}
        for batch in self._unreported():
            for sums in batch.figures:
                total.setdefault(sums.backend_id, Figure(backend_id=sums.backend_id)).add(sums)
        return total

    def _seal(self) -> None:
        self._sealed.append(Batch(batch_id=self._open_id, figures=list(self._sums.values())))
        self._sums = {}
        self._open_id = str(uuid4())

    def _done_with(self, batch: Batch) -> None:
        if self._sealed and self._sealed[0] is batch:  # two may flush at once
            self._sealed.popleft()

    def _unreported(self) -> list[Batch]:
        batches = list(self._sealed)
        if self._sums:
            figures = [msgspec.structs.replace(sums) for sums in self._sums.values()]  # what follows changes the sums
            batches.append(Batch(batch_id=self._open_id, figures=figures))
        return batches

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            try:
                taken = await self.flush()
            except Exception:  # a fault of ours must not end the reporting for good
                log.exception("figures_not_reported")
                taken = False
            if self._spool is not None:
                await self._follow(self._spool, taken=taken)

    async def _follow(self, spool: Spool, *, taken: bool) -> None:
        """Bring the spool up to date where it is time: at once when all was taken, otherwise now and then."""
        now = asyncio.get_running_loop().time()
        if taken and self._spooled:
            await self._save(spool)
        elif not taken and now >= self._save_again:
            self._save_again = now + self._spool_every
            await self._save(spool)

    def _load(self) -> None:
        """Take over what earlier processes could not report."""
        if self._spool is None:
            return
        try:
            found = self._spool.open()
        except OSError as error:
            log.warning("figures_not_spooled", error=str(error))
            self._spool.close()
            self._spool = None
            return
        if len(found) > MOST_BATCHES:
            log.warning("figures_lost", requests=requests_in(found[:-MOST_BATCHES]), reason="too many batches")
            found = found[-MOST_BATCHES:]
        if found:
            self._spooled = True
            self._sealed.extend(found)
            log.info("figures_found", batches=len(found), requests=requests_in(found))

    async def _report_the_rest(self) -> None:
        try:
            async with asyncio.timeout(LAST_REPORT_SECONDS):
                await self.flush()
        except TimeoutError:
            pass  # what is left is kept, or said to be lost
        except Exception:
            log.exception("figures_not_reported")

    async def _save(self, spool: Spool) -> None:
        """Let the spool hold what there is to report now; nobody waits for the disk."""
        batches = self._unreported()
        self._saving = asyncio.ensure_future(asyncio.to_thread(spool.save, batches))
        try:
            await asyncio.shield(self._saving)
        except OSError as error:
            log.warning("figures_not_spooled", error=str(error))
        else:
            self._spooled = bool(batches)

    def _keep_the_rest(self) -> None:
        batches = self._unreported()
        if self._spool is None:
            if batches:
                log.warning("figures_lost", requests=requests_in(batches))
            return
        if not batches and not self._spooled:
            return
        try:
            self._spool.save(batches)
        except OSError as error:
            log.warning("figures_lost", requests=requests_in(batches), error=str(error))
        else:
            if batches:
                log.info("figures_kept", requests=requests_in(batches), file=str(self._spool.file))

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
