"""The agent at work: a task that probes for each engine, one that reads the host's figures, and the restarts."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Self

import structlog

from athena.agent import jobs
from athena.agent.commands import CommandError, Run
from athena.agent.configuration import AgentConfig, LaunchdJob, SystemdJob
from athena.agent.engine import Engine, LastRestart
from athena.agent.host.figures import Host, HostFigures
from athena.agent.judging import Result, State
from athena.agent.memory import Memory
from athena.agent.probe import Probe
from athena.agent.restarting import Action, Attempts, after, choose, decide, with_restart

log = structlog.get_logger()


class Watcher:
    """Watches the engines of a configuration. An async context manager.

    `noted` is told of each result, `restarted` of each restart and whether it worked, `replaced` of each engine whose
    process was replaced without the agent; `changed` is called when there is something that is worth a report at once.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        host: Host,
        run: Run,
        memory: Memory,
        noted: Callable[[str, Result], None],
        restarted: Callable[[str, bool], None],
        replaced: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self.config = config
        self.figures = HostFigures()
        self.restarting: str | None = None
        self._host = host
        self._run = run
        self._memory = memory
        self._noted = noted
        self._restarted = restarted
        self._replaced = replaced
        self._changed = changed
        before = memory.load()
        self.engines = tuple(Engine(engine, before.get(engine.name, Attempts())) for engine in config.engines)
        self._told = {engine.name: State.STARTING for engine in self.engines}
        self._since = {engine.name: time.time() for engine in self.engines}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lasting: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._lasting = [
            self._start(self._read_figures(), "athena agent figures"),
            *(self._start(self._watch(engine), f"athena agent {engine.name}") for engine in self.engines),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def alive(self) -> bool:
        """Whether every task that watches goes on."""
        return not any(task.done() for task in self._lasting)

    def since(self, engine: Engine) -> float:
        """Return when the engine's state became what it is, in seconds since the epoch."""
        return self._since[engine.name]

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("watch_failed", task=task.get_name(), exc_info=error)

    async def _read_figures(self) -> None:
        while True:
            try:
                self.figures = await self._host.figures()
            except Exception:  # a fault of ours must not end the watching for good
                log.exception("figures_not_read")
            await asyncio.sleep(self.config.figures_seconds)

    # Watching

    async def _watch(self, engine: Engine) -> None:
        probe = Probe(engine.config, self._host)
        try:
            while True:
                try:
                    if self.restarting != engine.name:
                        await self._look_at(engine, probe)
                except Exception:  # a fault of ours must not end the watching for good
                    log.exception("engine_not_probed", engine=engine.name)
                await asyncio.sleep(engine.config.interval_seconds)
        finally:
            await probe.aclose()

    async def _look_at(self, engine: Engine, probe: Probe) -> None:
        job = engine.config.job
        state = await jobs.state_of(job, self._run) if job is not None else jobs.JobState()
        engine.last_end = state.last_end or engine.last_end
        if engine.saw_process(await self._host.process(state.pid) if state.pid is not None else None):
            engine.replaced_at.append(time.time())
            log.warning("engine_process_replaced", engine=engine.name, pid=state.pid, last_end=engine.last_end)
            self._replaced(engine.name)
        result = await probe.ask(
            engine.process, unproven_since=engine.unproven_since, waits=lambda early: self._note(engine, early)
        )
        self._note(engine, result)

    def _note(self, engine: Engine, result: Result) -> None:
        if self.restarting == engine.name:
            return  # it is of the process that is being ended
        engine.note(result)
        self._noted(engine.name, result)
        log.debug("engine_probed", engine=engine.name, outcome=result.outcome, seconds=round(result.seconds, 3))
        self._tell(engine)
        self._decide(engine)

    def _tell(self, engine: Engine) -> None:
        state, before = engine.state, self._told[engine.name]
        if state is before:
            return
        self._told[engine.name] = state
        self._since[engine.name] = time.time()
        tell = log.warning if state in (State.SUSPECT, State.HUNG, State.DOWN, State.WRONG_MODEL) else log.info
        detail = engine.last.detail if engine.last is not None else ""
        tell("engine_state_changed", engine=engine.name, state=state, before=before, detail=detail)
        self._changed()

    # Restarts

    def _decide(self, engine: Engine) -> None:
        now, limits = time.time(), self.config.restarts
        attempts = after(engine.candidate(), now, limits)
        if attempts != engine.attempts:
            given_up = attempts.given_up_at is not None
            reason = decide(engine.candidate(), now, limits).reason
            engine.attempts = attempts
            self._save()
            if given_up:
                log.error(
                    "engine_given_up", engine=engine.name, reason=reason, remedy="mend it and start it anew by hand"
                )
            else:
                log.info("engine_no_longer_given_up", engine=engine.name, state=engine.state)
            self._changed()
        self._tell_reason(engine, now)
        chosen = choose((one.candidate() for one in self.engines), now, limits, running=self.restarting)
        due = next((one for one in self.engines if one.name == chosen), None)
        if due is not None and due.config.job is not None:
            self.restarting = due.name
            self._start(self._restart_engine(due, due.config.job), f"athena agent restart of {due.name}")

    def _tell_reason(self, engine: Engine, now: float) -> None:
        decision = decide(engine.candidate(), now, self.config.restarts)
        waits = decision.action is Action.WAIT
        if waits and not engine.reason:
            log.warning("engine_not_restarted", engine=engine.name, reason=decision.reason)
        engine.reason = decision.reason if decision.action in (Action.WAIT, Action.GIVE_UP) else ""

    async def _restart_engine(self, engine: Engine, job: LaunchdJob | SystemdJob) -> None:
        try:
            begun = time.time()
            reason = decide(engine.candidate(), begun, self.config.restarts).reason
            # Before it happens: were the agent to end in the middle, it would count all the same.
            engine.attempts = with_restart(engine.attempts, begun, self.config.restarts)
            self._save()
            command = jobs.restart_command(job)
            detail = engine.last.detail if engine.last is not None else ""
            log.warning("engine_restart_begun", engine=engine.name, command=command, reason=reason, detail=detail)
            engine.is_being_ended()
            error = await self._carry_out(command)
            seconds = round(time.time() - begun, 3)
            engine.last_restart = LastRestart(at=begun, seconds=seconds, error=error)
            self._restarted(engine.name, error is None)
            if error is None:
                engine.started(time.monotonic())
                log.warning("engine_restarted", engine=engine.name, seconds=seconds)
            else:
                log.error("engine_restart_failed", engine=engine.name, seconds=seconds, error=error)
            self._tell(engine)
            self._changed()
        finally:
            self.restarting = None

    async def _carry_out(self, command: list[str]) -> str | None:
        try:
            await self._run(command, self.config.restarts.timeout_seconds)
        except CommandError as error:
            return error.detail
        return None

    def _save(self) -> None:
        self._memory.save({engine.name: engine.attempts for engine in self.engines})
