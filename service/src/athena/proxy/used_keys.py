"""Tells the registry which API keys are used, once a minute: for people who look for those that nobody needs."""

import asyncio
from contextlib import suppress

import msgspec
import structlog

from athena.router.errors import BackendError
from athena.router.upstream import UpstreamClient

REPORT_SECONDS = 60.0
_POST_SECONDS = 5.0
_LAST_REPORT_SECONDS = 2.0  # how long the end of the process may wait for it
_MOST = 10_000  # in one report
_OK = (200, 204)
log = structlog.get_logger()


class UsedKeys:
    """Collects the ids of keys. An async context manager; what cannot be told is told a minute later."""

    def __init__(self, upstream: UpstreamClient, *, url: str, token: str, every: float = REPORT_SECONDS) -> None:
        self._upstream = upstream
        self._url = f"{url}/api/api-keys/used"
        self._headers = {"authorization": f"Bearer {token}"}
        self._every = every
        self._ids: set[int] = set()
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    async def __aenter__(self) -> "UsedKeys":
        self._task = asyncio.create_task(self._run(), name="athena used keys")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_REPORT_SECONDS):
                    await self._report()

    def note(self, key_id: int) -> None:
        """Take note that a key was used."""
        self._ids.add(key_id)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            try:
                await self._report()
            except Exception:  # a fault of ours must not end the reporting for good
                log.exception("used_keys_not_reported")

    async def _report(self) -> None:
        if not self._ids:
            return
        ids = sorted(self._ids)[:_MOST]
        self._ids.difference_update(ids)
        fault = "broken off"
        try:
            reply = await self._upstream.post(
                self._url, msgspec.json.encode({"ids": ids}), headers=self._headers, within=_POST_SECONDS
            )
            fault = "" if reply.status in _OK else f"the Admin API answers {reply.status}"
        except BackendError as error:
            fault = error.detail
        finally:
            if fault:
                self._ids.update(ids)
        if fault and not self._failing:
            log.warning("used_keys_not_reported", error=fault)
        self._failing = bool(fault)
