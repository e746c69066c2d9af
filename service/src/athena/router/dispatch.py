"""Brings one call to an engine that answers it: the engines of its route in order, until one gives a first token."""

import asyncio
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from random import Random
from time import time

import structlog

from athena.observability import identity
from athena.router.attempt import Attempt, Books
from athena.router.call import Call
from athena.router.engines.base import Engine
from athena.router.errors import BackendError, FailureKind, NoBackendError, RequestRejectedError
from athena.router.gate import Gate
from athena.router.gates import Gates
from athena.router.judge import Judge, Why, why
from athena.router.needing import fitting
from athena.router.policy import Failure, blames_engine, falls_back, nowhere, verdict
from athena.router.reply import OpenReply
from athena.router.routes import Door, Route, enter, line_up, route_of
from athena.router.snapshot import Configuration
from athena.router.ticket import Ticket
from athena.router.told_reply import ToldReply, tell_prompt
from athena.router.types import Backend, BackendType, Snapshot, Target
from athena.router.upstream import UpstreamClient
from athena.router.upstream_reply import OK, UpstreamReply

ERROR_BODY_LIMIT = 64 * 1024  # bytes of an engine's error answer that are read
_LONGEST_REST = 3600.0  # seconds that an engine may ask to be left alone, whatever it says
_FORGOTTEN_SECONDS = 3.0  # beyond its time, after which a trial is left to requests
log = structlog.get_logger()

__all__ = ["Dispatcher", "OpenReply"]


class Dispatcher:
    """Opens replies. One per event loop, with the upstream client and the gates that it is handed."""

    def __init__(
        self,
        *,
        configuration: Configuration,
        upstream: UpstreamClient,
        engines: Mapping[BackendType, Engine],
        books: Books,
        gates: Gates,
        ollama_url: str | None,
        random: Random,
        judge: Judge | None = None,
    ) -> None:
        """`judge` is there only where some backends are to be chosen by what was seen. `ollama_url` is None where there
        is no default Ollama.
        """
        self._configuration = configuration
        self._upstream = upstream
        self._engines = engines
        self._books = books
        self._gates = gates
        self._ollama_url = ollama_url
        self._random = random
        self._judge = judge
        self._open_reply = OpenReply if books.content is None else partial(ToldReply, books.content)
        self._snapshot: Snapshot | None = None
        self._routes: dict[str, Route] = {}

    async def open(self, call: Call) -> OpenReply:
        """Return the first reply of the route that has shown its first token, or is whole if no stream is wanted.

        Raises RequestRejectedError where the request is at fault, of which NeedWithoutHomeError where it needs what no
        backend of the model does; QueueFullError where the engines have too much to do;
        NoBackendError where every engine of the route failed (`attempts` says how, `retry_after` when to come back); of
        the latter, ModelNotFoundError where none of them has the model, or there is no engine at all for it.
        """
        if self._configuration.snapshot is not self._snapshot:
            self.follow()
        if self._books.content is not None:
            tell_prompt(self._books.content, call)
        route = self._routes.get(call.model) or await self._route(call.model)
        failures: list[Failure] = []
        remaining = self._candidates(route, call, failures)
        while remaining:
            door = self._enter_past_doubt(remaining) if self._gates.any_in_doubt else None
            if door is None:
                door = remaining[0]
                if not door.gate.try_enter():
                    door = await self._admit(call, remaining)
            if door is None:
                break
            remaining.remove(door)
            try:
                return await self._attempt(call, door, remaining)
            except BackendError as error:
                # A traceback knows this very call: kept with the failures, it would keep the prompt until the collector
                # comes by, which is rare.
                error.__traceback__ = None
                if not error.lets_next_backend_try:
                    raise RequestRejectedError(error.detail, field=error.field) from error
                failures.append(Failure(door.target, error))
                self._note_failure(call, door, error, remaining[0] if remaining else None)
        raise self._verdict(call, failures, remaining)

    def follow(self) -> None:
        """Take over the configuration if it has changed: work out each route, and see to it that it has its gates."""
        snapshot = self._configuration.snapshot
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._routes = {
                model: self._route_of(model, backends) for model, backends in snapshot.routes.items() if backends
            }
            self._gates.keep_only(door.gate for route in self._routes.values() for door in route.doors)

    def judged(self) -> set[Gate]:
        """Return the gates of the engines that are chosen by what was seen, as far as their routes are known."""
        return {door.gate for route in self._routes.values() if route.judged for door in route.doors if door.judged}

    async def doors(self, model: str) -> list[Door]:
        """Return the engines of a model's route, in its order."""
        if self._configuration.snapshot is not self._snapshot:
            self.follow()
        route = self._routes.get(model) or await self._route(model)
        return route.doors

    async def holder(self, model: str) -> Target | None:
        """Return the first engine of a model's route that serves, and holds its model as long as it runs, if any does.

        All but an Ollama do.
        """
        now = self._gates.clock()
        doors = await self.doors(model)
        return next((d.target for d in doors if d.target.engine is not BackendType.OLLAMA and d.gate.usable(now)), None)

    async def why(self, model: str) -> Why:
        """Return how requests for a model go just now, and why; raises NoBackendError where it has no engine."""
        doors = await self.doors(model)
        if not doors:
            raise self._nowhere(model)
        return why(model, doors, self._judge)

    def _route_of(self, model: str, backends: Sequence[Backend]) -> Route:
        known = bool(backends)
        return route_of(
            backends,
            model=model,
            ollama_url=self._ollama_url,
            engines=self._engines,
            gate=partial(self._gates.gate, known=known),
            judged=self._judge.judges if self._judge is not None else None,
        )

    async def _route(self, model: str) -> Route:
        snapshot = self._configuration.snapshot
        backends = await self._configuration.route(model)
        route = self._route_of(model, backends)
        # Callers may ask for any name: only those that the registry knows are worth to be remembered.
        if backends and self._configuration.snapshot is snapshot:
            self._routes[model] = route
        return route

    def _candidates(self, route: Route, call: Call, failures: list[Failure]) -> list[Door]:
        """Return the engines to try, in order; those that the call needs too much of are among the failures."""
        doors = [route.only] if route.only is not None else route.order(self._random, call.caller)
        fit = fitting(call, doors, failures)
        if route.judged and self._judge is not None and len(fit) > 1:
            return self._judge.order(fit, call)
        return fit

    # Coming to a slot

    def _enter_past_doubt(self, doors: Sequence[Door]) -> Door | None:
        """Enter, in place of a first door that is in doubt, another one that has a slot free at once."""
        now = self._gates.clock()
        if not doors[0].gate.in_doubt(now):
            return None
        return next((door for door in doors if not door.gate.in_doubt(now) and door.gate.try_enter()), None)

    async def _admit(self, call: Call, doors: Sequence[Door]) -> Door | None:
        """Return a door whose gate was entered, after having waited for it if need be; None where none is in use.

        Raises QueueFullError.
        """
        gates = self._gates
        since = gates.clock()
        while True:
            now = gates.clock()
            usable = []
            # While a prober looks after the backends no request needs to find out, unless it forgot one.
            due = now if not gates.board.prober_lives(now) else now - _FORGOTTEN_SECONDS
            for door in doors:
                if door.gate.usable(now):
                    usable.append(door)
                elif not usable and door.gate.try_trial(now, due):
                    return door
            if not usable:
                return next((door for door in doors if door.gate.try_anyway()), None)
            entered = enter(usable)
            if entered is not None:
                return entered
            ticket = Ticket(
                asyncio.get_running_loop(),
                caller=call.caller,
                priority=call.priority,
                size=len(call.body),
                since=since,
            )
            line_up(ticket, usable, within=since + gates.queue_seconds - now)
            gates.watch_queues()
            try:
                gate = await ticket.future
            except BaseException:
                ticket.withdraw()
                del ticket  # its error would keep it, and it the error
                raise
            finally:
                self._books.metrics.waited(gates.clock() - now)
            if gate is not None:
                return next(door for door in usable if door.gate is gate)

    # One attempt

    async def _attempt(self, call: Call, door: Door, others: Sequence[Door]) -> OpenReply:
        target, engine = door.target, door.engine
        traces = self._books.traces
        span = traces.attempt(call, target) if traces is not None else None
        try:
            rendered = engine.render(call, target.backend)
            self._books.request_log.routing(call, target)
            upstream = self._upstream.start(
                target.endpoint_url + rendered.path,
                rendered.body,
                rest=rendered.rest,
                fields=identity.field(call.request_id) + (span.fields if span is not None else b""),
                within=door.first_token_seconds if call.stream else door.whole_seconds,
            )
            passthrough = rendered.passthrough
            del rendered  # its body may be a large one of its own
        except BaseException as error:
            if span is not None:
                span.end(error.kind if isinstance(error, BackendError) else type(error).__name__)
            door.gate.abandoned(self._gates.clock(), self._gates.clock())
            raise
        whole = passthrough and not call.stream
        attempt = Attempt(call, door, others, upstream, self._books, whole=whole, span=span)
        try:
            if not upstream.headed:
                await upstream.head()
            if upstream.status != OK:
                await _fail(engine, upstream)
            reply = self._open_reply(call, attempt, upstream, engine.dialect, passthrough=passthrough)
            await reply.begin()
        except BackendError as error:
            upstream.close()
            _settle(attempt, error, upstream)
            raise
        except BaseException:
            upstream.close()
            attempt.abandoned()
            raise
        return reply

    def _note_failure(self, call: Call, door: Door, error: BackendError, following: Door | None) -> None:
        target = door.target
        door.gate.last_failure = f"{error.kind}: {error.own_words}"
        if following is not None:
            self._books.metrics.moved(error.kind)
        fallback = falls_back(target, following.target if following is not None else None)
        log.warning(
            "mlx_failed_falling_back_to_ollama" if fallback else "llm_request_failed",
            error=self._books.words(error),
            kind=error.kind,
            model=call.model,
            backend_type=target.engine,
            endpoint=target.endpoint_url,
            **call.names,
        )

    def _verdict(self, call: Call, failures: list[Failure], closed: Sequence[Door]) -> Exception:
        """Return what to tell a caller; the doors in `closed` were not even tried."""
        if not (failures or closed):
            return self._nowhere(call.model)
        now = self._gates.clock()
        for door in closed:
            breaker = door.gate.breaker
            why = breaker.reason.name.lower() if breaker.reason else "overloaded"
            detail = f"out of the route ({why})"
            if door.gate.last_failure:
                detail += f" since {door.gate.last_failure}"
            failures.append(Failure(door.target, BackendError(FailureKind.OPEN, detail)))
        soonest = min((door.gate.retry_in(now) for door in closed), default=None)
        return verdict(call.model, failures, retry_in=soonest)

    def _nowhere(self, model: str) -> NoBackendError:
        snapshot = self._configuration.snapshot
        return nowhere(model, registry_says=snapshot.complete or model in snapshot.routes)


def _settle(attempt: Attempt, error: BackendError, upstream: UpstreamReply) -> None:
    """End an attempt by what its failure says about the engine."""
    if attempt.span is not None:
        attempt.span.end(error.kind, detail=error.own_words)
    if not error.lets_next_backend_try or error.kind is FailureKind.UNSUITABLE:
        attempt.abandoned()
    elif blames_engine(attempt.door.target.engine, error):
        attempt.failed(error.kind)
    else:
        attempt.unavailable(_retry_after(upstream), lacks_model=upstream.status == HTTPStatus.NOT_FOUND)


def _retry_after(upstream: UpstreamReply) -> float | None:
    """Return in how many seconds an engine wants to be asked again, if it says so."""
    said = upstream.headers.get("retry-after", "")
    if said.isdecimal():
        seconds = float(said)
    else:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time()
        except (ValueError, OverflowError):  # no date, or one beyond all calendars
            return None
    return min(max(seconds, 0.0), _LONGEST_REST)


async def _fail(engine: Engine, reply: UpstreamReply) -> None:
    """Raise what an answer that is not 200 means."""
    body = await reply.read_all(ERROR_BODY_LIMIT)
    status = reply.status
    unexpected = BackendError(FailureKind.STATUS, f"status {status} where 200 was expected", upstream_status=status)
    raise engine.failure(status, body) or unexpected
