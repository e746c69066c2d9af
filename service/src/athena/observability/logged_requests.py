"""A log line for each request to a FastAPI application, so that its id finds it there also where all went well."""

from time import perf_counter

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from athena.observability.answers import ASKED_ALL_THE_TIME, Answer

log = structlog.get_logger()


class LoggedRequests:
    """An ASGI application around another one, which tells of each request at its end: `http_request_completed`.

    The line has `method`, `route` (a template; empty where no operation was met), `status` and `duration` in seconds,
    and nothing else that a caller has sent. It stands within what gives the request its id, and its trace.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and tell of it at its end, however that comes."""
        if scope["type"] != "http" or scope["path"] in ASKED_ALL_THE_TIME:
            await self._app(scope, receive, send)
            return
        began, answer = perf_counter(), Answer()
        try:
            await answer.of(self._app, scope, receive, send)
        finally:
            log.info(
                "http_request_completed",
                method=scope["method"],
                route=answer.route,
                status=answer.status,
                duration=round(perf_counter() - began, 4),
            )
