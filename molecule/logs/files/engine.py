#!/usr/bin/env python3
"""An Ollama that answers every question with the same words, and an MLX that is well and answers none.

Logs each request as a line of JSON, without its text.
"""

import json
import sys
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER = "the-words-of-the-engine"
FIGURES = {"done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 3, "eval_duration": 30_000_000}
USAGE = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}


class Engine(BaseHTTPRequestHandler):
    """What the router asks of Ollama."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._reply({"version": "0.0.0", "models": [{"name": "tiny", "model": "tiny"}], "data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        model = asked.get("model", "")
        message = {"role": "assistant", "content": ANSWER}
        if not self.path.startswith("/v1/"):
            said = {"message": message} if self.path == "/api/chat" else {"response": ANSWER}
            self._reply({"model": model, "created_at": "2026-01-01T00:00:00Z", **said, **FIGURES})
        elif asked.get("max_tokens") == 1:  # it is only asked how it is
            choice = {"index": 0, "finish_reason": "length", "message": message, "text": ANSWER}
            self._reply({"id": "1", "object": "text_completion", "model": model, "choices": [choice], "usage": USAGE})
        else:
            self._reply({"error": "out of memory"}, status=500)

    def _reply(self, body: dict[str, Any], status: int = 200) -> None:
        content = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the name that the caller uses
        line = {
            "timestamp": datetime.now(UTC).isoformat(),
            "level": "info",
            "service": "engine",
            "event": "engine_request",
            "request_id": self.headers.get("x-request-id", ""),
            "path": self.path,
        }
        sys.stderr.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 11434), Engine).serve_forever()
