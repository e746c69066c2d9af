"""Which keys are used is told until it is taken, whatever becomes of a report."""

import asyncio
from collections.abc import Mapping
from typing import cast

import msgspec

from athena.proxy.used_keys import UsedKeys
from athena.router.upstream import Reply, UpstreamClient


class Registry:
    """Takes reports as an Admin API does, once it has failed as its `faults` say; `hangs` answers none."""

    def __init__(self, *faults: Exception | int, hangs: bool = False) -> None:
        self.taken: list[list[int]] = []
        self.asked, self.told = asyncio.Event(), asyncio.Event()
        self._faults = list(faults)
        self._hangs = hangs

    async def post(self, _: str, body: bytes, *, headers: Mapping[str, str], within: float) -> Reply:
        assert headers["authorization"]
        assert within > 0
        self.asked.set()
        if self._hangs:
            self._hangs = False
            await asyncio.sleep(60)
        fault = self._faults.pop(0) if self._faults else 204
        if isinstance(fault, Exception):
            raise fault
        if fault == 204:
            self.taken.append(msgspec.json.decode(body)["ids"])
            self.told.set()
        return Reply(status=fault, headers={}, body=b"")


def used(registry: Registry, every: float) -> UsedKeys:
    """Return what reports to it."""
    return UsedKeys(cast(UpstreamClient, registry), url="http://admin.example.internal", token="t", every=every)


async def test_what_was_refused_or_failed_is_told_again() -> None:
    registry = Registry(RuntimeError("a fault of ours"), 503)
    async with used(registry, every=0.01) as keys:
        keys.note(2)
        keys.note(1)
        await asyncio.wait_for(registry.told.wait(), 10)
    assert registry.taken == [[1, 2]]


async def test_a_report_that_the_end_of_the_process_breaks_off_is_made_once_more() -> None:
    registry = Registry(hangs=True)
    async with used(registry, every=0.01) as keys:
        keys.note(1)
        await asyncio.wait_for(registry.asked.wait(), 10)
    assert registry.taken == [[1]]
