"""The proxy's own HTTP server with any application behind it, on a free port, in a thread of its own."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvloop

from athena.ending import Ending
from athena.proxy.server.limits import Limits
from athena.proxy.server.listener import Server
from athena.proxy.server.run import Service

STARTED_WITHIN_SECONDS = 10.0
ENDING = Ending(grace_seconds=1.0)


@dataclass
class Serving:
    """A server that runs: its address without a trailing slash, itself, its loop and its thread."""

    url: str
    port: int
    server: Server
    loop: asyncio.AbstractEventLoop


@contextmanager
def serving_prompts(application: Service, limits: Limits) -> Iterator[Serving]:
    """Serve the application."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> Server:
        await application.__aenter__()
        server = Server(application, limits)
        await server.start([listener])
        return server

    async def stop(server: Server) -> None:
        await server.stop(ENDING)
        await application.__aexit__(None, None, None)
        await loop.shutdown_asyncgens()

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(STARTED_WITHIN_SECONDS)
    try:
        yield Serving(f"http://127.0.0.1:{port}", port, server, loop)
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        assert not thread.is_alive(), "the application did not end"
        loop.close()
        listener.close()
