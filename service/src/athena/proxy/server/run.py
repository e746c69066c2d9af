"""Runs a server in a process of its own, from its start to its graceful end."""

import asyncio
import signal
import socket
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import structlog
import uvloop

from athena.proxy.server.connection import Application
from athena.proxy.server.limits import Limits
from athena.proxy.server.listener import Server

log = structlog.get_logger()


class Service(Application, AbstractAsyncContextManager[Any], Protocol):
    """An application with parts of its own, which exist while it is entered."""


S = TypeVar("S", bound=Service)


def run(application: Service, listeners: Iterable[socket.socket], limits: Limits, *, grace: float) -> None:
    """Serve until SIGTERM or SIGINT, then give what is being answered `grace` seconds to end.

    A second SIGINT ends at once. Raises what the application's start raised.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(application, list(listeners), limits, grace))


async def _serve(application: Service, listeners: list[socket.socket], limits: Limits, grace: float) -> None:
    loop = asyncio.get_running_loop()
    ending, at_once = asyncio.Event(), asyncio.Event()

    def interrupted() -> None:
        (at_once if ending.is_set() else ending).set()

    loop.add_signal_handler(signal.SIGTERM, ending.set)
    loop.add_signal_handler(signal.SIGINT, interrupted)
    async with application:
        server = Server(application, limits)
        await server.start(listeners)
        for listener in listeners:
            host, port = listener.getsockname()[:2]
            log.info("listening", host=host, port=port)
        await ending.wait()
        stopping = asyncio.ensure_future(server.stop(grace))
        hurried = asyncio.ensure_future(at_once.wait())
        await asyncio.wait([stopping, hurried], return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not stopping.done():
            server.end_now()
        await stopping
