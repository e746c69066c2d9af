"""The HTTP server of the Admin API, the orchestrator and the agent: uvicorn, on a socket that is already bound."""

import socket
from typing import Any

import structlog
import uvicorn

BACKLOG = 2048
log = structlog.get_logger()


class _Server(uvicorn.Server):
    """uvicorn, which says nothing of the address when it is handed a socket."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            log.info("listening", host=host, port=port)


def run(application: Any, listener: socket.socket, *, grace: int) -> None:
    """Serve until SIGTERM or SIGINT, then give open requests `grace` seconds to end.

    Ends by the signal's own handler, or by SystemExit where the application did not start.
    """
    config = uvicorn.Config(
        application,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=grace,
        backlog=BACKLOG,
    )
    _Server(config).run(sockets=[listener])
