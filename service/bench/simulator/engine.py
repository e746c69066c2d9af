"""One simulated engine: loads models, reads prompts, writes replies, shares itself among those it serves."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from enum import Enum, auto

from bench.simulator.machines import LOAD_BYTES_A_SECOND, Machine
from bench.simulator.timeline import Timeline
from bench.simulator.traces import Ask

DONE = 1e-9  # seconds of work; less is a rounding error


class Phase(Enum):
    """What is done for a prompt."""

    LOADING = auto()
    READING = auto()
    WRITING = auto()


class Job:
    """A prompt at an engine. `read` and `write` are the seconds of work left, were it alone; `load` those it loaded."""

    __slots__ = ("ask", "ended", "first", "first_token", "load", "phase", "read", "write")

    def __init__(self, ask: Ask, *, first_token: Callable[[], None], ended: Callable[[], None]) -> None:
        self.ask = ask
        self.first_token = first_token
        self.ended = ended
        self.first = False
        self.load = 0.0
        self.phase = Phase.READING
        self.read = 0.0
        self.write = 0.0


class SimulatedEngine:
    """Processor sharing: those that read share half of it with those that write, or have it all."""

    def __init__(self, machine: Machine, timeline: Timeline) -> None:
        self.machine = machine
        self.loads = 0
        self.pace = 1.0  # 0 where it hangs, less than 1 where it is hot or at work for others
        self.jobs: list[Job] = []
        self._timeline = timeline
        self._advanced_at = timeline.now
        self._version = 0
        self._loaded: OrderedDict[str, float] = OrderedDict()  # model: when it was last used; the latest last
        if machine.keep_alive is None:
            self._loaded.update(dict.fromkeys(machine.speeds, timeline.now))
        self._loading: str | None = None
        self._prompts: dict[str, OrderedDict[int, int]] = {model: OrderedDict() for model in machine.speeds}

    # What is asked of it

    def start(self, job: Job) -> None:
        """Take a prompt."""
        self._advance()
        model = job.ask.model
        job.read, job.write = self.work(job.ask)
        job.phase = Phase.READING if self.has_loaded(model) else Phase.LOADING
        if job.phase is Phase.READING:
            self._use(model)
        self.jobs.append(job)
        self._load_next()
        self._plan()

    def drop(self, job: Job) -> None:
        """Forget a prompt that nobody waits for."""
        self._advance()
        self.jobs.remove(job)
        self._load_next()
        self._plan()

    def set_pace(self, pace: float) -> None:
        """Make it as fast as that from now on."""
        self._advance()
        self.pace = pace
        self._plan()

    # What is known of it, to an oracle

    def work(self, ask: Ask) -> tuple[float, float]:
        """Return how many seconds it reads a prompt and writes its reply, alone and with the model loaded."""
        speed = self.machine.speeds[ask.model]
        known = min(self._prompts[ask.model].get(ask.conversation, 0), ask.known_tokens)
        return self.machine.first + (ask.prompt_tokens - known) / speed.read, ask.reply_tokens / speed.write

    def has_loaded(self, model: str) -> bool:
        """Whether a model is in its memory."""
        used = self._loaded.get(model)
        if used is None:
            return False
        keep = self.machine.keep_alive
        if keep is not None and self._timeline.now - used > keep and not self._at_work(model):
            self._unload(model)
            return False
        return True

    def load_seconds(self, model: str) -> float:
        """Return how long it takes to load a model; 0 where that is done."""
        return 0.0 if self.has_loaded(model) else self.machine.speeds[model].size / LOAD_BYTES_A_SECOND

    # Time

    def _advance(self) -> None:
        seconds = self._timeline.now - self._advanced_at
        self._advanced_at = self._timeline.now
        if seconds > 0:
            reading, writing = self._rates()
            for job in self.jobs:
                if job.phase is Phase.READING:
                    job.read -= seconds * reading
                elif job.phase is Phase.WRITING:
                    job.write -= seconds * writing

    def _rates(self) -> tuple[float, float]:
        return rates(
            sum(job.phase is Phase.READING for job in self.jobs),
            sum(job.phase is Phase.WRITING for job in self.jobs),
            self.machine.gain,
            self.pace,
        )

    def _plan(self) -> None:
        """See to it that the next end of a phase happens."""
        self._version += 1
        reading, writing = self._rates()
        waits = [
            max(job.read, 0.0) / reading if job.phase is Phase.READING else max(job.write, 0.0) / writing
            for job in self.jobs
            if (reading if job.phase is Phase.READING else writing) > 0 and job.phase is not Phase.LOADING
        ]
        if waits:
            version = self._version
            self._timeline.at(self._timeline.now + min(waits), lambda: self._step(version))

    def _step(self, version: int) -> None:
        if version != self._version:
            return
        self._advance()
        told: list[Callable[[], None]] = []
        for job in tuple(self.jobs):
            if job.phase is Phase.READING and job.read <= DONE:
                job.phase = Phase.WRITING
                job.first = True
                told.append(job.first_token)
            elif job.phase is Phase.WRITING and job.write <= DONE:
                self.jobs.remove(job)
                self._remember(job.ask)
                self._use(job.ask.model)
                told.append(job.ended)
        self._load_next()
        self._plan()
        for tell in told:
            tell()

    # Memory

    def _at_work(self, model: str) -> bool:
        return any(job.ask.model == model and job.phase is not Phase.LOADING for job in self.jobs)

    def _use(self, model: str) -> None:
        self._loaded[model] = self._timeline.now
        self._loaded.move_to_end(model)

    def _unload(self, model: str) -> None:
        del self._loaded[model]
        self._prompts[model].clear()

    def _remember(self, ask: Ask) -> None:
        prompts = self._prompts[ask.model]
        prompts[ask.conversation] = ask.prompt_tokens + ask.reply_tokens
        prompts.move_to_end(ask.conversation)
        if len(prompts) > self.machine.prompt_cache:
            prompts.popitem(last=False)

    def _load_next(self) -> None:
        """Begin to load what the first of those waits for that need a model, if there is room or it can be made."""
        if self._loading is not None:
            return
        wanted = next((job.ask.model for job in self.jobs if job.phase is Phase.LOADING), None)
        if wanted is None:
            return
        size = self.machine.speeds[wanted].size
        while self._in_memory() + size > self.machine.memory:
            idle = next((model for model in self._loaded if not self._at_work(model)), None)
            if idle is None:
                return  # the next reply that ends makes room
            self._unload(idle)
        self._loading = wanted
        self.loads += 1
        self._timeline.at(self._timeline.now + size / LOAD_BYTES_A_SECOND, self._has_loaded)

    def _in_memory(self) -> float:
        return sum(self.machine.speeds[model].size for model in self._loaded)

    def _has_loaded(self) -> None:
        self._advance()
        model, self._loading = self._loading, None
        if model is None:
            raise AssertionError("nothing was loading")
        self._use(model)
        for job in self.jobs:
            if job.phase is Phase.LOADING and job.ask.model == model:
                job.phase = Phase.READING
                job.load = self.machine.speeds[model].size / LOAD_BYTES_A_SECOND
        self._load_next()
        self._plan()


def rates(reading: int, writing: int, gain: Sequence[tuple[int, float]], pace: float) -> tuple[float, float]:
    """Return the seconds of work done a second for each prompt that is read and for each reply that is written."""
    share = 0.5 if reading and writing else 1.0
    return (
        pace * share / reading if reading else 0.0,
        pace * share * gained(writing, gain) / writing if writing else 0.0,
    )


def gained(count: int, gain: Sequence[tuple[int, float]]) -> float:
    """Return how much is written with so many at once, as a multiple of one: straight lines between measured points."""
    before = gain[0]
    for point in gain:
        if count <= point[0]:
            span = point[0] - before[0]
            return point[1] if not span else before[1] + (point[1] - before[1]) * (count - before[0]) / span
        before = point
    return before[1]
