#!/usr/bin/env python3
"""Have an Admin API and a proxy on an embedded PostgreSQL, until SIGTERM. usage: control_plane.py FOLDER

FOLDER gets `pid`, `ports` and the logs; it has `token`. Runs with the tests of the service on its path.
"""

import json
import os
import signal
import sys
from pathlib import Path

from athena.db import migrate
from tests.support.postgres import PostgresServer
from tests.support.processes import Server


def main(folder: Path) -> None:
    """Start one after the other, tell where they are, and end them backwards."""
    token = (folder / "token").read_text().strip()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    (folder / "pid").write_text(f"{os.getpid()}\n")
    database, servers = PostgresServer(), []
    try:
        database.start()
        migrate.upgrade(database.url())
        servers.append(
            Server("admin", folder / "admin.log", {"DATABASE_URL": database.url(), "ADMIN_API_TOKEN": token})
        )
        router = {"ADMIN_API_URL": servers[0].url, "ADMIN_API_TOKEN": token, "OLLAMA_URL": "http://127.0.0.1:9"}
        servers.append(Server("proxy", folder / "proxy.log", router))
        (folder / "ports.new").write_text(json.dumps({"admin": servers[0].port, "proxy": servers[1].port}))
        (folder / "ports.new").rename(folder / "ports")
        signal.pause()
    finally:
        for server in reversed(servers):
            server.kill()
        database.remove()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
