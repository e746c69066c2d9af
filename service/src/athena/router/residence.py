"""Keeps the board told which models are in the memory of an Ollama; no request asks or waits for it."""

from collections.abc import Callable, Iterable

from athena.router.background import Tasks, every
from athena.router.board import RESIDENCE
from athena.router.gate import Gate
from athena.router.gates import Gates
from athena.router.judging.warmth import Residence
from athena.router.probing import Asker, find
from athena.router.types import BackendType

LOOK_SECONDS = 2.0


class Residents:
    """Asks each Ollama that is chosen by it for its loaded models. An async context manager; one worker has it.

    An engine that does not say is not thought to lack anything.
    """

    def __init__(
        self, gates: Gates, asker: Asker, judged: Callable[[], Iterable[Gate]], *, look_every: float = LOOK_SECONDS
    ) -> None:
        """`judged` are the gates whose engines are to be asked."""
        self._gates = gates
        self._asker = asker
        self._judged = judged
        self._every = look_every
        self._tasks = Tasks()
        self._asking: set[str] = set()

    async def __aenter__(self) -> "Residents":
        self._tasks.start(every(self._every, self._look))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.stop()

    def _look(self) -> None:
        for url in {gate.endpoint_url for gate in self._judged() if gate.engine is BackendType.OLLAMA} - self._asking:
            self._asking.add(url)
            self._tasks.start(self._ask(url))

    async def _ask(self, url: str) -> None:
        try:
            listed = await self._asker.loaded(url)
        finally:
            self._asking.discard(url)
        for gate in self._gates.of_engine(BackendType.OLLAMA, url):
            if listed is None:
                gate.cells[RESIDENCE] = Residence.UNKNOWN
            else:
                gate.cells[RESIDENCE] = Residence.LOADED if find(gate.model, listed) else Residence.AWAY
