"""What became of one request to a FastAPI application, for whoever counts, traces or logs it."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CALLER_LEFT = 499
FAILED = 500
ASKED_ALL_THE_TIME = frozenset({"/health", "/livez", "/metrics", "/api/llm-backends/changes"})
"""The paths of which each request is counted, and nothing else is told: probes, and a long poll."""


class Answer:
    """The status of a request's answer, and the route that it met, once the request has ended."""

    def __init__(self) -> None:
        self.status = 0
        self.route = ""
        """A template such as /api/hosts/{name}, never a path; empty where no operation was met."""

    async def of(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the application answer. What it raises is raised on: the server makes an answer of it."""

        async def note_status(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            await send(message)

        try:
            await app(scope, receive, note_status)
        except Exception:
            self.status = self.status or FAILED
            raise
        finally:
            self.status = self.status or CALLER_LEFT
            # The framework leaves the route that it found here; what found none leaves nothing.
            self.route = getattr(scope.get("route"), "path", "")
