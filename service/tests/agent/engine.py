"""A stand-in for `mlx_lm.server` as a process: `python -m tests.agent.engine PORT [--model NAME] [--hang] [--dead]`.

As the real one it takes every request at once, in a thread of its own, and generates for one after the other. A prompt
`work=SECONDS` keeps it at work for so long. With `--hang` it greets each request and generates nothing; with `--dead`
its generation has ended, and it answers 404 to all. `/health` is well in any case.
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_generating = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """Answers as HTTP/1.0, and closes."""

    def do_GET(self) -> None:
        """Say that all is well."""
        self._answer(200, b'{"status": "ok"}')

    def do_POST(self) -> None:
        """Greet, wait for the turn of this request, and write one token."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "--dead" in sys.argv:
            self._answer(404, b"generation has ended")
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.flush()
        if "--hang" in sys.argv:
            threading.Event().wait()
        prompt = asked["messages"][-1]["content"]
        with _generating:
            _work(float(prompt.partition("=")[2] or 0))
        token = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "length"}]}
        self.wfile.write(b"data: " + json.dumps(token).encode() + b"\n\ndata: [DONE]\n\n")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class' name
        """Say nothing."""


def _work(seconds: float) -> None:
    """Use the processor, as generation does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(10_000))


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.daemon_threads = True
    server.serve_forever()
