"""The router's view of the registry: an immutable snapshot, refreshed in the background, that outlives the registry."""

import asyncio
import time
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import structlog

from athena import files
from athena.router.dialects.decoding import BAD_JSON
from athena.router.source import Source, SourceError
from athena.router.types import Backend, Edition, Snapshot

POLL_SECONDS = 25.0  # the longest wait of one long poll
LOOK_UP_SECONDS = 2.0  # the longest that a request waits for a model that is not known yet
LOOK_UP_PAUSE_SECONDS = 1.0  # after a look-up that failed, unknown models have the default for so long
RETRY_SECONDS = (0.5, 5.0)  # the first and the longest pause while the source is out of reach
SETTLE_SECONDS = 0.05  # between two polls: many changes at once are taken over together
KNOWN_MODELS = 4096  # models that are remembered one by one; callers may ask for any name
log = structlog.get_logger()

_EMPTY = Snapshot(version=0, routes={}, complete=False)


class Configuration:
    """The last known configuration. An async context manager: while it is open it keeps itself up to date.

    A change takes effect as soon as the source tells, at the latest after `cache_seconds`. While the source is out of
    reach the last known configuration goes on; with a `state_file` it survives a restart as well. `snapshot` is what is
    known last; it is for others to read.
    """

    def __init__(self, source: Source, *, cache_seconds: float = 60.0, state_file: Path | None = None) -> None:
        self._source = source
        self._cache_seconds = cache_seconds
        self._state_file = state_file
        self.snapshot = _EMPTY
        self._saved = _EMPTY
        self._reachable: bool | None = None
        self._contacted = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None
        self._look_ups: dict[str, asyncio.Task[tuple[Backend, ...]]] = {}
        self._no_look_up_before = 0.0
        self._jitter = Random()  # noqa: S311 - it spreads retries, nothing secret

    async def __aenter__(self) -> "Configuration":
        if self._state_file is not None:
            self.snapshot = self._saved = _read(self._state_file)
        self._following = asyncio.create_task(self._follow(), name="athena configuration")
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks: list[asyncio.Task[Any]] = [*self._look_ups.values()]
        if self._following is not None:
            tasks.append(self._following)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._saving is not None:
            await asyncio.gather(self._saving, return_exceptions=True)

    @property
    def reachable(self) -> bool:
        """Whether the last contact with the source succeeded; false before the first."""
        return self._reachable is True

    async def wait_for_first_contact(self, seconds: float) -> None:
        """Wait until the source has answered, or is known to be out of reach; at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._contacted.wait()
        except TimeoutError:
            pass  # it is neither; the last known configuration holds

    async def route(self, model: str) -> tuple[Backend, ...]:
        """Return the backends of a model in the registry's order, disabled ones included; empty if it has none.

        Waits at most about 2 s, and only for a model that is not known yet.
        """
        snapshot = self.snapshot
        known = snapshot.routes.get(model)
        if known is not None:
            return known
        if snapshot.complete or time.monotonic() < self._no_look_up_before:
            return ()
        look_up = self._look_ups.get(model)
        if look_up is None:
            look_up = self._look_ups[model] = asyncio.create_task(self._look_up(model))
            look_up.add_done_callback(lambda _: self._look_ups.pop(model, None))
        return await asyncio.shield(look_up)  # a caller who leaves takes nothing from the others who wait

    async def _look_up(self, model: str) -> tuple[Backend, ...]:
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS):
                found = await self._source.look_up(model)
        except (SourceError, TimeoutError) as error:
            self._no_look_up_before = time.monotonic() + LOOK_UP_PAUSE_SECONDS
            self._note_unreachable(str(error) or f"no answer within {LOOK_UP_SECONDS:g} s")
            return ()
        self._note_reachable()
        if not self.snapshot.complete:
            routes = dict(self.snapshot.routes)
            while len(routes) >= KNOWN_MODELS:
                del routes[next((name for name, backends in routes.items() if not backends), next(iter(routes)))]
            routes[model] = found
            self.snapshot = msgspec.structs.replace(self.snapshot, routes=routes)
            self._save()
        return found

    async def _follow(self) -> None:
        """Keep the snapshot up to date, for ever."""
        pause, longest = RETRY_SECONDS
        expires = 0.0  # at once
        while True:
            try:
                wait = min(POLL_SECONDS, max(0.0, expires - time.monotonic()))
                # After a failure all is loaded anyway. An Admin API of before refuses to be asked for a database.
                known = self.snapshot.edition if expires else Edition(self.snapshot.version)
                edition = await self._source.changed(known, wait)
                if edition != self.snapshot.edition or time.monotonic() >= expires:
                    await self._refresh(edition)
                    expires = time.monotonic() + self._cache_seconds
            except Exception as error:
                if not isinstance(error, SourceError):  # a fault of ours must not end the following for good
                    log.exception("configuration_not_refreshed")
                self._note_unreachable(str(error))
                expires = 0.0  # whatever was missed meanwhile
                await asyncio.sleep(pause * self._jitter.uniform(0.5, 1.0))
                pause = min(pause * 2, longest)
            else:
                pause = RETRY_SECONDS[0]
                self._contacted.set()
                self._note_reachable()
                await asyncio.sleep(SETTLE_SECONDS)

    async def _refresh(self, edition: Edition) -> None:
        if self._source.whole_table:
            # What is loaded from now on is at least as new as the edition; if newer, the next question tells.
            self.snapshot = msgspec.structs.replace(await self._source.load(), database=edition.database)
        else:
            # Models without a backend are forgotten:
            # anybody may ask for any name.
            used = [model for model, backends in self.snapshot.routes.items() if backends]
            routes = {model: await self._source.look_up(model) for model in used}
            self.snapshot = Snapshot(version=edition.version, database=edition.database, routes=routes, complete=False)
        self._save()

    def _note_reachable(self) -> None:
        if self._reachable is not True:
            self._reachable = True
            log.info("registry_in_reach", version=self.snapshot.version)

    def _note_unreachable(self, detail: str) -> None:
        self._contacted.set()
        if self._reachable is not False:
            self._reachable = False
            log.warning("registry_out_of_reach", error=detail, known_models=len(self.snapshot.routes))

    def _save(self) -> None:
        """See to it that the state file gets the newest snapshot; nobody waits for the disk."""
        if self._state_file is not None and (self._saving is None or self._saving.done()):
            self._saving = asyncio.create_task(self._write_newest(self._state_file), name="athena state file")

    async def _write_newest(self, file: Path) -> None:
        while (newest := _known_only(self.snapshot)) != self._saved:
            try:
                await asyncio.to_thread(files.replace, file, msgspec.json.encode(newest))
            except OSError as error:
                log.warning("router_state_not_saved", file=str(file), error=str(error))
                return
            self._saved = newest


def _known_only(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot without the models that were asked for in vain."""
    routes = {model: backends for model, backends in snapshot.routes.items() if backends}
    return msgspec.structs.replace(snapshot, routes=routes)


def _read(file: Path) -> Snapshot:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Snapshot)
    except FileNotFoundError:
        return _EMPTY
    except (OSError, *BAD_JSON) as error:
        log.warning("router_state_not_read", file=str(file), error=str(error))
        return _EMPTY
