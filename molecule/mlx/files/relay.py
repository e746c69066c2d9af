#!/usr/bin/env python3
"""Stand between a host that copies models and the one that shares them, and be what a network may be.

usage: relay.py PORT URL JOURNAL pass|break|end|spoil BYTES

Weights are files of MLX, and blobs of Ollama that are larger than BYTES.
`break` closes the first connection for weights after BYTES of them, `end` does so and is then there no longer, `spoil`
changes the byte at BYTES of the first weights. All else is passed on. JOURNAL gets a line of JSON for each answer: the
path, from which byte on it was asked for, and how many bytes went through.
"""

import json
import re
import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread

PORT, URL, JOURNAL, MODE, BYTES = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])
WEIGHTS = re.compile(r"\.safetensors$|^/blobs/")


class Relay(BaseHTTPRequestHandler):
    """One connection of a host that copies."""

    protocol_version = "HTTP/1.1"
    is_done, one_at_a_time = MODE == "pass", Lock()

    def do_GET(self) -> None:
        """Pass an answer on, as far as that goes."""
        asked = {"Range": self.headers["Range"]} if "Range" in self.headers else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(URL + self.path, headers=asked)) as answer:  # noqa: S310
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as refusal:
            status, body = refusal.code, refusal.read()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.pass_on(body, int(re.sub(r"\D", "", asked.get("Range", "0"))))

    def pass_on(self, body: bytes, begin: int) -> None:
        """Send the body, or what is left of it."""
        with self.one_at_a_time:
            harms = WEIGHTS.search(self.path) is not None and len(body) > BYTES and not Relay.is_done
            Relay.is_done |= harms
        if harms and MODE == "spoil":
            body = body[:BYTES] + bytes([body[BYTES] ^ 1]) + body[BYTES + 1 :]
        elif harms:
            body = body[:BYTES]
            self.close_connection = True
        self.wfile.write(body)
        with JOURNAL.open("a") as journal:
            journal.write(json.dumps({"path": self.path, "from": begin, "passed": len(body)}) + "\n")
        if harms and MODE == "end":
            Thread(target=self.server.shutdown).start()


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", PORT), Relay).serve_forever()
