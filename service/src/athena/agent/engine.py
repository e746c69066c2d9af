"""What the agent knows of one engine: the results of its probes since it was started, and what was tried."""

import time
from collections import deque
from collections.abc import Callable

import msgspec

from athena.agent.configuration import EngineConfig
from athena.agent.host.figures import ProcessFigures
from athena.agent.judging import PROVES, Outcome, Result, State, judge
from athena.agent.restarting import Attempts, Candidate
from athena.host_report import REPLACED_AT_MOST

_REMEMBERED = 50  # results; more than any `hung_after`
_UNANSWERED = {Outcome.WAITING, Outcome.SILENT, Outcome.FAILED}
_SAME_PROCESS = 2.0  # seconds by which two looks at the age of one process may differ


class LastRestart(msgspec.Struct, frozen=True, kw_only=True):
    """The last time that the agent had the engine started anew: when (seconds since the epoch), and how that ended.

    `error` is None where it worked.
    """

    at: float
    seconds: float
    error: str | None = None


class Engine:
    """One engine. Times are monotonic seconds, but for those of restarts."""

    def __init__(
        self, config: EngineConfig, attempts: Attempts, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config
        self.attempts = attempts
        self.last_restart: LastRestart | None = None
        self.process: ProcessFigures | None = None
        self.replaced_at: deque[float] = deque(maxlen=REPLACED_AT_MOST)  # when its process was, without the agent
        self.last_end = ""  # how its process ended last, as the service manager says
        self.started_at = clock()
        self.reason = ""  # why it is not started anew though it hangs
        self._clock = clock
        self._results: deque[Result] = deque(maxlen=_REMEMBERED)
        self._was_up = False  # since it was started; known for longer than the results are
        self._known: int | None = None  # the process that was seen last, also once it is gone
        self._ended: int | None = None  # the process that the agent has ended last

    @property
    def name(self) -> str:
        """The name that the configuration gives it."""
        return self.config.name

    @property
    def last(self) -> Result | None:
        """What the last probe has shown."""
        return self._results[-1] if self._results else None

    @property
    def state(self) -> State:
        """The state by what the probes have shown."""
        return judge(
            self._results,
            now=self._clock(),
            started_at=self.started_at,
            grace=0 if self._was_up else self.config.grace_seconds,
            hung_after=self.config.hung_after,
        )

    @property
    def unproven_since(self) -> float | None:
        """When the first of the probes began that have had no answer so far; None where the last one had one."""
        since = None
        for result in reversed(self._results):
            if result.outcome not in _UNANSWERED:
                break
            since = result.begun
        return since

    def candidate(self) -> Candidate:
        """Return the engine as the decision on a restart sees it."""
        return Candidate(
            name=self.name,
            state=self.state,
            can_restart=self.config.job is not None,
            attempts=self.attempts,
            process=self.process.pid if self.process is not None else None,
        )

    def saw_process(self, process: ProcessFigures | None) -> bool:
        """Take note of the process as it is; another one than before has shown nothing yet.

        Return whether it has taken the place of one that was not the agent's to end: the engine has crashed, or
        somebody has started it anew.
        """
        before, self.process = self.process, process
        if process is None:
            return False
        started_at = self._clock() - process.age
        if before is None or before.pid != process.pid:
            if self._results and started_at > self._results[-1].begun + _SAME_PROCESS:
                self._forget()
            self.started_at = started_at
        known, self._known = self._known, process.pid
        return known is not None and known not in (process.pid, self._ended)

    def is_being_ended(self) -> None:
        """Take note that the agent is about to have the engine started anew: its process goes by our doing."""
        self._ended = self._known

    def note(self, result: Result) -> None:
        """Take note of a result; one of a probe that began before the engine was started shows nothing."""
        if result.begun < self.started_at:
            return
        last = self.last
        if last is not None and last.outcome is Outcome.REFUSED and result.outcome is not Outcome.REFUSED:
            self.started(at=result.begun if self.process is None else self.started_at)
        elif last is not None and last.begun == result.begun:
            self._results.pop()  # the same probe, which waited
        self._results.append(result)
        self._was_up = self._was_up or result.outcome in PROVES

    def started(self, at: float) -> None:
        """Forget what was seen: the engine was started at this moment."""
        self._forget()
        self.started_at = at

    def _forget(self) -> None:
        self._results.clear()
        self._was_up = False
