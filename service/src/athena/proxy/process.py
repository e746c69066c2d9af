"""The model proxy as a process, or as several that share one socket, one board and one set of metrics."""

import socket
from pathlib import Path
from tempfile import TemporaryDirectory

from athena.ending import Ending
from athena.observability import logs
from athena.observability.sharing import SharedMetrics
from athena.proxy.app import create_app
from athena.proxy.server.limits import Limits, memory_limit, raise_file_limit, room_for_bodies
from athena.proxy.server.run import run
from athena.proxy.server.workers import Lifeline, Workers
from athena.router.board import Board
from athena.settings import ProxySettings


def serve(settings: ProxySettings, listener: socket.socket, *, ending: Ending, workers: int) -> bool:
    """Serve on a bound socket until a signal; False says that the workers could not be started."""
    raise_file_limit()
    limits = Limits(all_body_bytes=room_for_bodies(workers, memory_limit()))
    if workers == 1:
        run(create_app(settings), [listener], limits, ending=ending)
        return True
    board = Board(workers)
    with TemporaryDirectory(prefix="athena-proxy-") as folder:

        def work(index: int, lifeline: Lifeline) -> None:
            board.attach(index)
            shared = SharedMetrics(Path(folder), index, workers)
            try:
                proxy = create_app(settings, board=board, shared=shared)
                run(proxy, [listener], limits, ending=ending, lifeline=lifeline)
            finally:
                logs.flush()

        return Workers(workers, listener, work, ending=ending, died=board.forget_worker).run()
