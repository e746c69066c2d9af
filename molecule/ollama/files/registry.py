#!/usr/bin/env python3
"""A registry of models as Ollama pulls from it: manifests, and blobs that are elsewhere, in ranges. Archives as well.

usage: registry.py PORT

It serves a folder of models of Ollama's. With a file `hold` in its own folder, it sends half of the next blob that is
not small, and then nothing for as long as anybody waits; with a file `slow`, all of it, a little at a time. `journal`
has what it sent of every blob.
"""

import json
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(__file__).parent
HOLD, SLOW, JOURNAL = FOLDER / "hold", FOLDER / "slow", FOLDER / "journal"
SMALL = 100_000
LITTLE, PAUSE_SECONDS = 10_000, 0.2
ADDRESS = ("127.0.0.1", int(sys.argv[1]))


class Registry(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.serve(with_body=True)

    def do_HEAD(self) -> None:
        self.serve(with_body=False)

    def serve(self, with_body: bool) -> None:
        if found := re.fullmatch(r"/v2/([^/]+/[^/]+)/manifests/([^/]+)", self.path):
            self.file(FOLDER / "models/manifests/registry.ollama.ai" / found[1] / found[2], with_body)
        elif found := re.fullmatch(r"/v2/[^/]+/[^/]+/blobs/(sha256:[0-9a-f]+)", self.path):
            if with_body:
                # Under another name of the host: so does the public one, and Ollama relies on that.
                self.head(307, 0, Location=f"http://localhost:{ADDRESS[1]}/data/{found[1]}")
            else:
                self.file(self.blob(found[1]), with_body=False)
        elif found := re.fullmatch(r"/data/(sha256:[0-9a-f]+)", self.path):
            self.data(self.blob(found[1]).read_bytes())
        elif found := re.fullmatch(r"/archives/([a-z0-9.-]+)", self.path):
            self.file(FOLDER / "archives" / found[1], with_body)
        else:
            self.head(404, 0)

    def blob(self, digest: str) -> Path:
        return FOLDER / "models/blobs" / digest.replace(":", "-")

    def head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def file(self, path: Path, with_body: bool) -> None:
        if not path.is_file():
            self.head(404, 0)
            return
        self.head(200, path.stat().st_size)
        if with_body:
            self.wfile.write(path.read_bytes())

    def data(self, blob: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), int(asked[2])) if asked else (0, len(blob) - 1)
        part = blob[first : last + 1]
        is_held = HOLD.exists() and len(part) > SMALL
        sent = part[: len(part) // 2] if is_held else part
        self.head(206, len(part), **{"Content-Range": f"bytes {first}-{last}/{len(blob)}"})
        if not self.send(sent, is_slow=SLOW.exists() and len(part) > SMALL):
            return
        with JOURNAL.open("a") as journal:
            journal.write(json.dumps({"blob": self.path, "first": first, "sent": len(sent), "of": len(blob)}) + "\n")
        if is_held:
            HOLD.unlink()
            time.sleep(60)

    def send(self, content: bytes, is_slow: bool) -> bool:
        """Return whether all of it went: whoever pulls may end, to go on later."""
        step = LITTLE if is_slow else max(1, len(content))
        try:
            for start in range(0, len(content), step):
                self.wfile.write(content[start : start + step])
                time.sleep(PAUSE_SECONDS if is_slow else 0)
            self.wfile.flush()
        except ConnectionError:
            return False
        return True

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(ADDRESS, Registry).serve_forever()
