"""A server with the pages of a service: health, liveness, a greeting, and a stream that takes four seconds."""

import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GREETING = os.environ.get("GREETING", "hello")
HEALTHY = os.environ.get("HEALTH") == "passing"
STREAM_SECONDS = 4


class Pages(BaseHTTPRequestHandler):
    """The pages."""

    def do_GET(self) -> None:
        """Answer the path that is asked for."""
        if self.path == "/health" and not HEALTHY:
            self.answer(503, "the database does not answer")
        elif self.path == "/stream":
            self.stream()
        else:
            self.answer(200, GREETING)

    def answer(self, status: int, text: str) -> None:
        """Send a whole answer."""
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def stream(self) -> None:
        """Send one word after the other, and `end`."""
        self.send_response(200)
        self.end_headers()
        for _ in range(STREAM_SECONDS * 5):
            self.wfile.write(b"word\n")
            time.sleep(0.2)
        self.wfile.write(b"end\n")

    def log_message(self, *_: object) -> None:
        """Say nothing of requests that went well."""


class Server(ThreadingHTTPServer):
    """A server that finishes what it began before it ends."""

    daemon_threads = False
    request_queue_size = 128


def main() -> None:
    """Serve until told to end."""
    if not HEALTHY:
        sys.stdout.write("cannot reach the database at db.example.internal\n")
    server = Server(("", int(sys.argv[1])), Pages)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.1)
    server.server_close()


if __name__ == "__main__":
    main()
