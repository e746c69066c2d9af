"""Finds out what the model of each backend does, beside the requests: by what its engine says, and by trying.

One worker has the `Scout`; what it finds is on the board, for all of them.
"""

from http import HTTPStatus
from random import Random
from typing import Any, TypeVar

import msgspec
import structlog

from athena.router import trying
from athena.router.background import Tasks, every
from athena.router.board import CAN, CONTEXT, GENERATED_AT, STATE
from athena.router.breaker import State
from athena.router.engines.mlx import MODEL as MLX_MODEL
from athena.router.errors import BackendError
from athena.router.gate import Gate
from athena.router.gates import UNNAMED, Gates, shown_model
from athena.router.judging.needs import UNKNOWN, Capabilities, Need, Source, from_models, from_show, merged
from athena.router.needing import known
from athena.router.periods import Periods
from athena.router.types import BackendType
from athena.router.upstream import Reply, UpstreamClient

_AT_ONCE = 8  # backends that are asked at the same time
# What is tried where an engine does not say it. mlx_lm.server has tools read where its model's template has a place for
# them; all the rest it is not sent, whatever its model: see its engine.
_TRIED = {BackendType.OPENAI: tuple(Need), BackendType.MLX: (Need.TOOLS,)}
log = structlog.get_logger()


class _Models(msgspec.Struct):
    data: list[dict[str, Any]]


class _Scouted:
    """What the scout knows of one backend, and when it asks again."""

    def __init__(self, try_at: float) -> None:
        self.asking = False
        self.ask_at = 0.0
        self.try_at = try_at
        self.said: dict[Source, Capabilities] = {}


class Scout:
    """Asks each backend of the configuration what its model does. An async context manager."""

    def __init__(self, gates: Gates, upstream: UpstreamClient, periods: Periods, *, random: Random) -> None:
        self._gates = gates
        self._upstream = upstream
        self._periods = periods
        self._random = random
        self._tasks = Tasks()
        self._scouted: dict[Gate, _Scouted] = {}

    async def __aenter__(self) -> "Scout":
        self._tasks.start(every(self._periods.tick, self._look))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.stop()

    def _look(self) -> None:
        now = self._gates.clock()
        free = _AT_ONCE - sum(one.asking for one in self._scouted.values())
        current = set(self._gates)
        for gone in self._scouted.keys() - current:
            del self._scouted[gone]
        for gate in current:
            if shown_model(gate.backend_id, gate.model) == UNNAMED:
                continue
            scouted = self._scouted.get(gate)
            if scouted is None:
                scouted = self._scouted[gate] = _Scouted(now + self._periods.abilities_tried_after)
            if free > 0 and not scouted.asking and now >= scouted.ask_at and gate.cells[STATE] == State.CLOSED:
                free -= 1
                scouted.asking = True
                self._tasks.start(self._ask(gate, scouted))

    async def _ask(self, gate: Gate, scouted: _Scouted) -> None:
        pause = self._periods.abilities_again
        try:
            if gate.engine is BackendType.OLLAMA:
                scouted.said[Source.SHOW] = await self._shown(gate)
            elif gate.engine is BackendType.OPENAI:
                scouted.said[Source.MODELS] = await self._listed(gate)
            pause = self._periods.abilities_every
            if gate.engine in _TRIED:
                if self._gates.clock() >= scouted.try_at:
                    await self._try(gate, scouted)
                pause = max(min(pause, scouted.try_at - self._gates.clock()), self._periods.abilities_again)
        except BackendError:
            pass  # that it does not answer is the prober's matter
        finally:
            scouted.asking = False
            scouted.ask_at = self._gates.clock() + pause * self._random.uniform(0.9, 1.0)
        self._note(gate, merged(scouted.said))

    def _note(self, gate: Gate, found: Capabilities) -> None:
        can, context = known(found)
        if (gate.cells[CAN], gate.cells[CONTEXT]) != (can, context):
            gate.cells[CAN], gate.cells[CONTEXT] = can, context
            log.info(
                "capabilities_found",
                model=gate.model,
                backend_type=gate.engine,
                endpoint=gate.endpoint_url,
                can=[need.name.lower() for need, word in found.can.items() if word],
                cannot=[need.name.lower() for need, word in found.can.items() if not word],
                context_tokens=found.context_tokens,
            )

    # What engines say

    async def _shown(self, gate: Gate) -> Capabilities:
        """Return what Ollama shows; of a model that it does not have it shows nothing."""
        reply = await self._post(gate, "/api/show", msgspec.json.encode({"model": gate.model}))
        shown = _decoded(reply, dict[str, Any])
        return from_show(shown) if shown is not None else UNKNOWN

    async def _listed(self, gate: Gate) -> Capabilities:
        reply = await self._upstream.get(gate.endpoint_url + "/v1/models", within=self._periods.abilities_within)
        models = _decoded(reply, _Models)
        entries = models.data if models is not None else []
        return next((from_models(entry) for entry in entries if entry.get("id") == gate.model), UNKNOWN)

    # What trying shows

    async def _try(self, gate: Gate, scouted: _Scouted) -> None:
        """Ask once for each need that is to be tried, in a slot of the engine's that nobody waits for."""
        if not gate.try_enter():
            return
        scouted.try_at = self._gates.clock() + self._periods.abilities_tried_again
        model = MLX_MODEL if gate.engine is BackendType.MLX else gate.model
        try:
            reply = await self._post(gate, *trying.question(model, None))
            compared = trying.plain(reply.status, reply.body)
            can: dict[Need, bool] = {}
            for need in _TRIED[gate.engine]:
                reply = await self._post(gate, *trying.question(model, need))
                if reply.status == HTTPStatus.OK:
                    # Where it does one thing after the other, a probe for a token waits for this.
                    gate.cells[GENERATED_AT] = self._gates.clock()
                word = trying.shown(need, compared, reply.status, reply.body)
                if word is not None:
                    can[need] = word
        finally:
            gate.leave()
        scouted.said[Source.PROBE] = Capabilities(can=can)
        if compared is not None:
            scouted.try_at = self._gates.clock() + self._periods.abilities_tried_every

    async def _post(self, gate: Gate, path: str, body: bytes) -> Reply:
        return await self._upstream.post(gate.endpoint_url + path, body, within=self._periods.abilities_within)


_T = TypeVar("_T")


def _decoded(reply: Reply, kind: type[_T]) -> _T | None:
    if reply.status != HTTPStatus.OK:
        return None
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
