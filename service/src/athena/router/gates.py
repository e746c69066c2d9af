"""All gates of one event loop: made on demand, looked at by one coarse clock, woken by the other workers."""

import asyncio
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from random import Random

from athena.observability.router_metrics import DEFAULT_BACKEND, BackendReading
from athena.router.backend_state import BackendState
from athena.router.board import DOUBTED_UNTIL, Board
from athena.router.gate import Alarm, Gate
from athena.router.policy import concurrency, queue_length
from athena.router.shared_gate import SharedGate
from athena.router.types import BackendType, Target

CLOCK_SECONDS = 0.1  # how often those who wait are looked at
UNNAMED_SLOTS = 64  # for all the models that callers may name and the registry does not know
UNNAMED = "other"


class Gates:
    """Hands out the one gate of each backend. An async context manager, entered in its event loop.

    `queue_seconds` is the longest that a request waits for a slot; `ollama_concurrency` is how many slots an Ollama has
    whose backend does not say. `any_in_doubt` is what `note_doubts` saw: requests need to ask nothing else as a rule.
    `alarm` is that of all gates.
    """

    def __init__(
        self,
        board: Board,
        *,
        queue_seconds: float,
        random: Random,
        ollama_concurrency: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.board = board
        self._ollama_concurrency = ollama_concurrency
        self.queue_seconds = queue_seconds
        self.clock = clock
        self.any_in_doubt = False
        self.alarm = Alarm()
        self._random = random
        self._gates: dict[tuple[BackendType, str, str], Gate] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._bell: int | None = None

    async def __aenter__(self) -> "Gates":
        self._bell = self.board.bell
        if self._bell is not None:
            asyncio.get_running_loop().add_reader(self._bell, self._woken)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._bell is not None:
            asyncio.get_running_loop().remove_reader(self._bell)

    def __iter__(self) -> Iterator[Gate]:
        return iter(tuple(self._gates.values()))

    def __len__(self) -> int:
        return len(self._gates)

    def gate(self, target: Target, *, known: bool) -> Gate:
        """Return the gate of an engine, with the limits that its backend has now.

        The default Ollama's for a model that the registry does not know are few: anybody may ask for any name.
        """
        backend = target.backend
        model = backend.model_name
        if not known:
            model = f"{UNNAMED} {zlib.crc32(model.encode()) % UNNAMED_SLOTS}"
        key = (target.engine, target.endpoint_url, model)
        gate = self._gates.get(key)
        limit = concurrency(backend, target.engine, ollama=self._ollama_concurrency)
        if gate is None:
            make = Gate if self.board.workers == 1 else SharedGate
            gate = self._gates[key] = make(
                self.board,
                self.board.slot(*key),
                backend_id=backend.id,
                model=model,
                engine=target.engine,
                endpoint_url=target.endpoint_url,
                limit=limit,
                max_queue=queue_length(backend, limit),
                random=self._random,
                alarm=self.alarm,
                clock=self.clock,
            )
        elif target.endpoint_url == backend.endpoint_url:
            # A row of its own says more than an `auto` that falls back to the same engine.
            gate.backend_id = backend.id
            gate.limit = limit
            gate.queue.limit = queue_length(backend, limit)
        return gate

    def of_engine(self, engine: BackendType, endpoint_url: str) -> list[Gate]:
        """Return the gates of all models of one engine."""
        return [gate for gate in self._gates.values() if gate.engine is engine and gate.endpoint_url == endpoint_url]

    def doubt(self, engine: BackendType, endpoint_url: str, until: float) -> None:
        """Prefer other engines to this one for a while."""
        for gate in self.of_engine(engine, endpoint_url):
            gate.cells[DOUBTED_UNTIL] = until
        self.note_doubts()

    def end_doubt(self, engine: BackendType, endpoint_url: str, until: float) -> None:
        """End a doubt that was to last until that time; one that another worker has begun since then goes on."""
        for gate in self.of_engine(engine, endpoint_url):
            if gate.cells[DOUBTED_UNTIL] <= until:
                gate.cells[DOUBTED_UNTIL] = 0.0
        self.note_doubts()

    def note_doubts(self) -> None:
        """Take note of what this and other workers doubt."""
        now = self.clock()
        self.any_in_doubt = any(gate.in_doubt(now) for gate in self._gates.values())

    def keep_only(self, current: Iterable[Gate]) -> None:
        """Forget the gates of backends that are no longer in the configuration, once nothing is left at them."""
        kept = set(current)
        for key, gate in tuple(self._gates.items()):
            if gate not in kept and gate.backend_id is not None and not (gate.in_use or gate.queued):
                del self._gates[key]

    def watch_queues(self) -> None:
        """Look at those who wait from now on, until nobody does."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CLOCK_SECONDS, self._look)

    def states(self) -> list[BackendState]:
        """Return what is known of every backend that was asked for or probed, for all workers together."""
        now = self.clock()
        return [gate.state(now) for gate in self._gates.values()]

    def readings(self) -> list[BackendReading]:
        """Return the same for the metrics; the models that the registry does not know count as one."""
        merged: dict[tuple[str, str, str], BackendReading] = {}
        for one in self.states():
            reading = BackendReading(
                backend_id=DEFAULT_BACKEND if one.id is None else str(one.id),
                model=shown_model(one.id, one.model),
                provider=one.engine,
                state=one.state,
                in_use=one.in_use,
                limit=one.limit,
                queued=one.queued,
                trips=one.trips,
            )
            key = (reading.backend_id, reading.model, reading.provider)
            other = merged.get(key)
            merged[key] = reading if other is None else _both(other, reading)
        return list(merged.values())

    def _woken(self) -> None:
        self.board.hear()
        self._look_at_queues()

    def _look(self) -> None:
        self._timer = None
        if self._look_at_queues():
            self.watch_queues()

    def _look_at_queues(self) -> bool:
        now = self.clock()
        waiting = False
        for gate in tuple(self._gates.values()):
            if gate.queued:
                gate.look_at_queue(now, self.queue_seconds)
                waiting = True
        return waiting


def shown_model(backend_id: int | None, model: str) -> str:
    """Return what metrics call the model of a gate: those that the registry does not know are one."""
    return UNNAMED if backend_id is None and model.startswith(UNNAMED + " ") else model


def _both(one: BackendReading, other: BackendReading) -> BackendReading:
    return BackendReading(
        backend_id=one.backend_id,
        model=one.model,
        provider=one.provider,
        state=one.state if one.state != "closed" else other.state,
        in_use=one.in_use + other.in_use,
        limit=one.limit + other.limit,
        queued=one.queued + other.queued,
        trips=one.trips + other.trips,
    )
