"""Brings one call to an engine that answers it: the targets of its route in order, until one gives a first token."""

from collections.abc import Mapping
from http import HTTPStatus
from random import Random

import structlog

from athena.observability.requests import RequestLog
from athena.router.call import Call
from athena.router.engines.base import Engine
from athena.router.errors import BackendError, FailureKind, RequestRejectedError
from athena.router.figures import Figures
from athena.router.policy import Failure, falls_back, targets, verdict
from athena.router.reply import Attempt, OpenReply
from athena.router.snapshot import Configuration
from athena.router.types import BackendType, Target
from athena.router.upstream import UpstreamClient
from athena.router.upstream_reply import UpstreamReply

ERROR_BODY_LIMIT = 64 * 1024  # bytes of an engine's error answer that are read
log = structlog.get_logger()

__all__ = ["Dispatcher", "OpenReply"]


class Dispatcher:
    """Opens replies. One per event loop, with the upstream client that it is handed."""

    def __init__(
        self,
        *,
        configuration: Configuration,
        upstream: UpstreamClient,
        engines: Mapping[BackendType, Engine],
        figures: Figures,
        ollama_url: str,
        random: Random,
        request_log: RequestLog,
    ) -> None:
        self._configuration = configuration
        self._upstream = upstream
        self._engines = engines
        self._figures = figures
        self._ollama_url = ollama_url
        self._random = random
        self._request_log = request_log

    async def open(self, call: Call) -> OpenReply:
        """Return the first reply of the route that has shown its first token, or is whole if no stream is wanted.

        Raises RequestRejectedError where the request is at fault, NoBackendError where every engine of the route failed
        (`attempts` says how, `retry_after` when to come back); of the latter, ModelNotFoundError where none of them has
        the model.
        """
        backends = await self._configuration.route(call.model)
        route = targets(backends, model=call.model, ollama_url=self._ollama_url, random=self._random)
        failures: list[Failure] = []
        for position, target in enumerate(route, start=1):
            try:
                return await self._attempt(call, target)
            except BackendError as error:
                if not error.lets_next_backend_try:
                    raise RequestRejectedError(error.detail, field=error.field) from error
                failures.append(Failure(target, error))
                following = route[position] if position < len(route) else None
                self._log_failure(call, target, error, following)
        raise verdict(call.model, failures)

    async def _attempt(self, call: Call, target: Target) -> OpenReply:
        engine = self._engines[target.engine]
        backend = target.backend
        rendered = engine.render(call, backend)
        self._request_log.routing(call, target)
        attempt = Attempt(call, target, self._figures, self._request_log)
        try:
            upstream = await self._upstream.open(
                target.endpoint_url + rendered.path, rendered.body, within=backend.timeout_seconds
            )
            try:
                if upstream.status != HTTPStatus.OK:
                    await _fail(engine, upstream)
                reply = OpenReply(call, attempt, upstream, engine.dialect, passthrough=rendered.passthrough)
                await reply.begin()
            except BaseException:
                upstream.close()
                raise
        except BackendError as error:
            if error.lets_next_backend_try:  # otherwise the engine is not to blame
                attempt.failed()
            raise
        return reply

    @staticmethod
    def _log_failure(call: Call, target: Target, error: BackendError, following: Target | None) -> None:
        event = "mlx_failed_falling_back_to_ollama" if falls_back(target, following) else "llm_request_failed"
        log.warning(
            event,
            error=error.detail,
            kind=error.kind,
            model=call.model,
            backend_type=target.engine,
            endpoint=target.endpoint_url,
            request_id=call.request_id,
        )


async def _fail(engine: Engine, reply: UpstreamReply) -> None:
    """Raise what an answer that is not 200 means."""
    body = await reply.read_all(ERROR_BODY_LIMIT)
    status = reply.status
    unexpected = BackendError(FailureKind.STATUS, f"status {status} where 200 was expected", upstream_status=status)
    raise engine.failure(status, body) or unexpected
