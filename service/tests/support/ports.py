"""Ports for servers that are stopped and started again, and for those that are never there."""

import itertools
import os
import random
import socket

# Below the ports that the system gives to outgoing connections: one of those might take a dead server's port.
_PORTS = range(20_000, 32_000)
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_own = _PORTS[_worker::_workers]
_in_turn = itertools.islice(itertools.cycle(_own), random.randrange(len(_own)), None)  # noqa: S311  # nothing secret


def quiet_port() -> int:
    """Return a port on which nobody listens, that no outgoing connection and no other test will be given."""
    while True:
        port = next(_in_turn)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
