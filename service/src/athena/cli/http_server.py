"""The HTTP server of the Admin API, the orchestrator and the agent: uvicorn, on a socket that is already bound."""

import asyncio
import math
import socket
from typing import Any

import structlog
import uvicorn

from athena.ending import Ending

BACKLOG = 2048
log = structlog.get_logger()


class _Server(uvicorn.Server):
    """uvicorn, which says nothing of the address when it is handed a socket, and knows no winding down."""

    def __init__(self, config: uvicorn.Config, ending: Ending) -> None:
        super().__init__(config)
        self._wind_down_seconds = ending.wind_down_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            log.info("listening", host=host, port=port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Nobody ticks any more, and so what goes with every answer stays as it is left here.
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        await asyncio.sleep(self._wind_down_seconds)
        await super().shutdown(sockets)


def run(application: Any, listener: socket.socket, *, ending: Ending) -> None:
    """Serve until SIGTERM or SIGINT, and then as long as `ending` says.

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
        timeout_graceful_shutdown=math.ceil(ending.grace_seconds),
        backlog=BACKLOG,
    )
    _Server(config, ending).run(sockets=[listener])
