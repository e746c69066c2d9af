#!/usr/bin/env python3
"""What stands for Grafana's server: it listens where its settings say, and lets the account of its first start in.

As Grafana does, it takes the password of `admin` when it makes its database and at no later start, puts the content of
a file in the place of `$__file{…}`, and tells the one that started it when it is ready.
"""

import base64
import configparser
import json
import os
import re
import socket
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

SETTINGS = configparser.ConfigParser(interpolation=None)
PATHS: dict[str, Path] = {}


def setting(section: str, name: str) -> str:
    """Return a setting, read from the file that it names if it names one."""
    value = SETTINGS[section][name]
    named = re.fullmatch(r"\$__file\{(.+)\}", value)
    return Path(named[1]).read_text().strip() if named else value


class Server(BaseHTTPRequestHandler):
    """Answers what the role and its test ask."""

    def do_GET(self) -> None:
        """Tell of the version; of the account only to itself."""
        told = {"version": Path("/usr/share/grafana/VERSION").read_text().strip(), "database": "ok"}
        account = base64.b64encode(f"admin:{(PATHS['data'] / 'grafana.db').read_text()}".encode()).decode()
        allowed = self.path == "/api/health" or self.headers.get("authorization") == f"Basic {account}"
        self.send_response(200 if allowed else 401)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(told if allowed else {}).encode())


def main() -> None:
    """Serve."""
    for argument in sys.argv[1:]:
        if argument.startswith("--config="):
            SETTINGS.read(argument.partition("=")[2])
        if argument.startswith("cfg:default.paths."):
            name, _, path = argument.removeprefix("cfg:default.paths.").partition("=")
            PATHS[name] = Path(path)
    database = PATHS["data"] / "grafana.db"
    if not database.exists():
        database.write_text(setting("security", "admin_password"))
    assert setting("security", "secret_key")
    # What it may not read it would not start with.
    for kind in ("datasources", "dashboards"):
        for file in (PATHS["provisioning"] / kind).iterdir():
            file.read_text()
    server = HTTPServer((setting("server", "http_addr"), int(setting("server", "http_port"))), Server)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    server.serve_forever()


if __name__ == "__main__":
    main()
