#!/usr/bin/env python3
"""A hub of models with one model, as far as its client asks for that. usage: hub.py PORT REPOSITORY REVISION FOLDER"""

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPOSITORY, REVISION, FOLDER = sys.argv[2], sys.argv[3], Path(sys.argv[4])


class Hub(BaseHTTPRequestHandler):
    """The answers that `huggingface_hub` needs for a snapshot of a revision."""

    def do_GET(self) -> None:
        model, files = f"/api/models/{REPOSITORY}", f"/{REPOSITORY}/resolve/{REVISION}/"
        path, entries = self.path.partition("?")[0], sorted(FOLDER.iterdir())
        if path == f"{model}/revision/{REVISION}":
            body = {"id": REPOSITORY, "sha": REVISION, "siblings": [{"rfilename": entry.name} for entry in entries]}
            self.reply(200, json.dumps(body).encode(), "application/json")
        elif path == f"{model}/tree/{REVISION}":
            tree = [
                {"type": "file", "path": entry.name, "size": entry.stat().st_size, "oid": "0" * 40} for entry in entries
            ]
            self.reply(200, json.dumps(tree).encode(), "application/json")
        elif path.startswith(files) and (FOLDER / path.removeprefix(files)).is_file():
            self.reply(200, (FOLDER / path.removeprefix(files)).read_bytes(), "application/octet-stream")
        else:
            self.reply(404, b"{}", "application/json")

    do_HEAD = do_GET  # noqa: N815  # as the class before has it

    def reply(self, status: int, body: bytes, kind: str) -> None:
        """Answer with what the client looks at: which revision it is, and a tag of the content."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hub).serve_forever()
