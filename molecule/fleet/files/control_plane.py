#!/usr/bin/env python3
"""Have an Admin API and a proxy on an embedded PostgreSQL, until SIGTERM. usage: control_plane.py FOLDER GATEWAY

The Admin API is there twice: for this machine, and at GATEWAY, this machine's address in the network of the hosts.
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


def main(folder: Path, gateway: str) -> None:
    """Start one after the other, tell where they are, and end them backwards."""
    token = (folder / "token").read_text().strip()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    (folder / "pid").write_text(f"{os.getpid()}\n")
    database, servers = PostgresServer(), []
    try:
        database.start()
        migrate.upgrade(database.url())
        admin = {"DATABASE_URL": database.url(), "ADMIN_API_TOKEN": token}
        servers.append(Server("admin", folder / "admin.log", admin))
        router = {"ADMIN_API_URL": servers[0].url, "ADMIN_API_TOKEN": token, "OLLAMA_URL": "http://127.0.0.1:9"}
        servers.append(Server("proxy", folder / "proxy.log", router))
        servers.append(Server("admin", folder / "reports.log", admin, arguments=["--host", gateway]))
        names = ("admin", "proxy", "reports")
        (folder / "ports.new").write_text(json.dumps(dict(zip(names, [one.port for one in servers], strict=True))))
        (folder / "ports.new").rename(folder / "ports")
        signal.pause()
    finally:
        for server in reversed(servers):
            server.kill()
        database.remove()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
