#!/usr/bin/env python3
"""Takes traces by OTLP over HTTP, and writes down each request as a line of hexadecimal digits.

usage: trace_receiver.py PORT FILE
"""

import gzip
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Receiver(BaseHTTPRequestHandler):
    """What a collector sends to."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        with Path(sys.argv[2]).open("a") as file:
            file.write(f"{self.path} {body.hex()}\n")
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
