"""Let other hosts copy models: the files of those that are whole, over HTTP, to be read only.

usage: share_models.py FOLDER ADDRESS PORT

    /                 the models: {NAME: [KEY, …]}
    /NAME/KEY.json    the manifest of one, which says that it is whole
    /NAME/KEY/PATH    a file of it, or the rest of it from a byte on (`Range: bytes=N-`), for a copy that was cut off

Nothing else is given away: what the manifest does not name is not there.
"""

from __future__ import annotations  # a host's Python may be 3.9

import json
import re
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

PART = re.compile(r"(?!\.)[A-Za-z0-9._-]+")
FROM = re.compile(r"bytes=(\d+)-")
SILENCE_SECONDS = 60


def models_in(folder: Path) -> dict[str, list[str]]:
    """Return name → keys of the models that are whole."""
    found: dict[str, list[str]] = {}
    for manifest in sorted(folder.glob("[!.]*/[!.]*.json")):
        if manifest.with_suffix("").is_dir():
            found.setdefault(manifest.parent.name, []).append(manifest.stem)
    return found


def file_of(folder: Path, path: str) -> Path | None:
    """Return the file that a path of a request names; None where there is none to be given away."""
    name, _, rest = unquote(path).lstrip("/").partition("/")
    key, _, inside = rest.partition("/")
    manifest = folder / name / (f"{key}.json" if inside else key)
    if not (PART.fullmatch(name) and PART.fullmatch(key) and manifest.suffix == ".json"):
        return None
    if not inside:
        return manifest if manifest.is_file() else None
    try:
        files = json.loads(manifest.read_text())["files"]
    except (OSError, ValueError, KeyError):
        return None
    return folder / name / key / inside if inside in files else None


class Handler(BaseHTTPRequestHandler):
    """One caller."""

    protocol_version = "HTTP/1.1"
    timeout = SILENCE_SECONDS
    folder: Path

    def models(self) -> dict[str, list[str]]:
        """Return what there is to copy."""
        return models_in(self.folder)

    def file(self) -> Path | None:
        """Return the file that is asked for; None where there is none to be given away."""
        return file_of(self.folder, self.path)

    def do_GET(self) -> None:
        """Give away a file, or the list of models."""
        if self.path == "/":
            self.tell(json.dumps(self.models()).encode())
            return
        path = self.file()
        if path is None or not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with path.open("rb") as file:
            size = path.stat().st_size
            asked = FROM.fullmatch(self.headers.get("Range", ""))
            begin = int(asked[1]) if asked else 0
            if begin > size:
                self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
            self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
            if asked:
                self.send_header("Content-Range", f"bytes {begin}-{max(begin, size - 1)}/{size}")
            self.send_header("Content-Length", str(size - begin))
            self.end_headers()
            if begin < size:
                self.connection.sendfile(file, begin)

    def tell(self, words: bytes) -> None:
        """Answer with JSON."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(words)))
        self.end_headers()
        self.wfile.write(words)


def main(folder: str, address: str, port: str, kind: type[Handler] = Handler) -> None:
    """Serve until somebody ends it; `kind` knows what is to be given away."""
    handler = type("HandlerOfFolder", (kind,), {"folder": Path(folder)})
    with ThreadingHTTPServer((address, int(port)), handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
