#!/usr/bin/python3
"""Receive webhooks of Alertmanager, and write down a line of JSON for each: path, token, alerts with their status."""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

PORT, JOURNAL = int(sys.argv[1]), Path(sys.argv[2])


def alerts(message: dict[str, Any]) -> list[dict[str, str]]:
    """Return of each alert in a message its name, status and severity."""
    return [
        {"alert": one["labels"]["alertname"], "status": one["status"], "severity": one["labels"].get("severity", "")}
        for one in message["alerts"]
    ]


class Receiver(BaseHTTPRequestHandler):
    """Answers each webhook with 200, as a person's pager would."""

    def do_POST(self) -> None:
        """Write down what was sent."""
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        with JOURNAL.open("a") as journal:
            journal.write(json.dumps({"path": self.path, "token": token, "alerts": alerts(message)}) + "\n")
        self.send_response(200)
        self.end_headers()


JOURNAL.touch()
HTTPServer(("127.0.0.1", PORT), Receiver).serve_forever()
