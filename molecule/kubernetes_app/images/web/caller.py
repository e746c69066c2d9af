"""A program that calls the server without a pause and counts: fifty requests a second, and two streams at a time."""

import json
import sys
import threading
import time
from http.client import HTTPConnection, HTTPException
from typing import Any

HOST, PORT = sys.argv[1:]
COUNTS: dict[str, Any] = {"answers": 0, "streams": 0, "failures": []}


def get(path: str, ending: bytes) -> None:
    """Read a whole answer over a new connection."""
    connection = HTTPConnection(HOST, int(PORT), timeout=5)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        if reply.status != 200:
            raise HTTPException(f"status {reply.status}")
        if not reply.read().endswith(ending):
            raise HTTPException("an answer without an end")
    finally:
        connection.close()


def call(path: str, counted: str, ending: bytes, pause: float) -> None:
    """Ask again and again."""
    while True:
        try:
            get(path, ending)
            COUNTS[counted] += 1
        except (OSError, HTTPException) as error:
            COUNTS["failures"].append(f"{path}: {error!r}")
        time.sleep(pause)


def wait_for_the_network() -> None:
    """Return once the server answers: the rules of a network with policies know a new pod a moment late."""
    until = time.monotonic() + 10
    while True:
        try:
            get("/", b"")
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            return


def main() -> None:
    """Call, and print the counts once a second."""
    wait_for_the_network()
    for task in [("/", "answers", b"", 0.04), ("/stream", "streams", b"end\n", 0)] * 2:
        threading.Thread(target=call, args=task, daemon=True).start()
    while True:
        time.sleep(1)
        sys.stdout.write(json.dumps(COUNTS) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
