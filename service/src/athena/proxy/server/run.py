"""Runs a server in a process of its own, from its start to its graceful end."""

import asyncio
import signal
import socket
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import structlog
import uvloop

from athena.ending import Ending
from athena.proxy.server.connection import Application
from athena.proxy.server.limits import Limits
from athena.proxy.server.listener import Server
from athena.proxy.server.workers import HURRY, Lifeline

log = structlog.get_logger()


class Service(Application, AbstractAsyncContextManager[Any], Protocol):
    """An application with parts of its own, which exist while it is entered."""


def run(
    application: Service,
    listeners: Iterable[socket.socket],
    limits: Limits,
    *,
    ending: Ending,
    lifeline: Lifeline | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, and then as long as `ending` says.

    A second SIGINT ends at once. A worker, which has a lifeline, leaves SIGINT to its parent, is hurried by SIGUSR1,
    and ends when its parent is gone. Raises what the application's start raised.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(application, list(listeners), limits, ending, lifeline))


async def _serve(
    application: Service, listeners: list[socket.socket], limits: Limits, ending: Ending, lifeline: Lifeline | None
) -> None:
    told, at_once = asyncio.Event(), asyncio.Event()
    if lifeline is None:
        _obey_signals(told, at_once)
    else:
        _obey_parent(lifeline, told, at_once)
    async with application:
        server = Server(application, limits)
        await server.start(listeners)
        if lifeline is None:
            for listener in listeners:
                host, port = listener.getsockname()[:2]
                log.info("listening", host=host, port=port)
        else:
            lifeline.ready()
        await told.wait()
        stopping = asyncio.ensure_future(server.stop(ending))
        hurried = asyncio.ensure_future(at_once.wait())
        await asyncio.wait([stopping, hurried], return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not stopping.done():
            server.end_now()
        await stopping


def _obey_signals(told: asyncio.Event, at_once: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        (at_once if told.is_set() else told).set()

    loop.add_signal_handler(signal.SIGTERM, told.set)
    loop.add_signal_handler(signal.SIGINT, interrupted)


def _obey_parent(lifeline: Lifeline, told: asyncio.Event, at_once: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def hurry() -> None:
        told.set()
        at_once.set()

    def orphaned() -> None:
        loop.remove_reader(lifeline.descriptor)
        log.error("parent_gone")
        told.set()

    loop.add_signal_handler(signal.SIGTERM, told.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    loop.add_signal_handler(HURRY, hurry)
    loop.add_reader(lifeline.descriptor, orphaned)
