"""A real Redis under a test's control."""

import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

import redis

from tests.support.ports import quiet_port

READY_WITHIN_SECONDS = 10.0


class RedisServer:
    """A redis-server on a free port of 127.0.0.1 that keeps nothing; the same port after every start.

    A context manager: it runs for as long as that is entered, but for what a test stops and starts.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = quiet_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers."""
        program = shutil.which("redis-server")
        assert program is not None, "there is no redis-server: apt-get install redis-server, or brew install redis"
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(program, "--bind", "127.0.0.1", "--port", str(self._port)),
                    *("--save", "", "--appendonly", "no", "--dir", str(self._folder)),
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:
                    assert time.monotonic() < deadline, (self._folder / "redis.log").read_text()
                    time.sleep(0.02)
                else:
                    return

    def stop(self) -> None:
        """End it at once; no harm if it is down already."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
