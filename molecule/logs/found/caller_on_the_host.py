"""What the scenario's tests ask with: Loki, and the services whose lines are looked for."""

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from testinfra.host import Host

LOKI, PROXY, ORCHESTRATOR, ADMIN = (f"http://127.0.0.1:{port}" for port in (3100, 8100, 8001, 8080))
TOKEN = "a-token-of-this-scenario"  # noqa: S105 of a host that ends with the scenario
# The collector reads five times a second, and waits a second for more before it sends.
FOUND_WITHIN_SECONDS = 30.0
# More than any test writes; Loki gives 100 if nothing is said.
MOST_LINES = 5000
HOURS = 6
CLIENT = (
    "import json, sys, urllib.request, urllib.error\n"
    "url, body, headers = json.load(sys.stdin)\n"
    "data = None if body is None else json.dumps(body).encode()\n"
    "request = urllib.request.Request(url, data, {'Content-Type': 'application/json'} | headers)\n"
    "try: reply = urllib.request.urlopen(request, timeout=20)\n"
    "except urllib.error.HTTPError as error: reply = error\n"
    "print(json.dumps([reply.status, reply.read().decode()]))\n"
)
Line = tuple[dict[str, str], str, str]


class Caller:
    """Somebody on the host, with the only client that it has: Python."""

    def __init__(self, host: Host, loki: str = LOKI, hours: float = HOURS) -> None:
        self._host, self._loki, self._nanoseconds = host, loki, int(hours * 3600 * 10**9)

    def ask(self, url: str, body: Any = None, **headers: str) -> tuple[int, str]:
        """Return status and text of an answer; headers with _ for -."""
        given = json.dumps([url, body, {name.replace("_", "-"): value for name, value in headers.items()}])
        status, text = json.loads(self._host.check_output("printf %%s %s | python3 -c %s", given, CLIENT))
        return status, text

    def chat(self, identity: str, text: str = "Hello", model: str = "tiny") -> int:
        """Ask the proxy a question under a request id; return the status."""
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        return self.ask(f"{PROXY}/v1/chat/completions", body, X_Request_ID=identity)[0]

    def lines(self, query: str) -> list[Line]:
        """Return labels with structured metadata, time in nanoseconds and text of each line of the last hours."""
        now = time.time_ns()
        arguments = {"query": query, "limit": MOST_LINES, "start": now - self._nanoseconds, "end": now + 60 * 10**9}
        status, text = self.ask(f"{self._loki}/loki/api/v1/query_range?{urlencode(arguments)}")
        assert status == 200, f"{query}: {text}"
        found = json.loads(text)["data"]["result"]
        return [(stream["stream"], *value[:2]) for stream in found for value in stream["values"]]

    def found(
        self, query: str, enough: Callable[[list[Line]], bool] = bool, within: float = FOUND_WITHIN_SECONDS
    ) -> list[Line]:
        """Return the lines as soon as they are enough; what there is, when they are not within those seconds."""
        until = time.monotonic() + within
        while not enough(lines := self.lines(query)) and time.monotonic() < until:
            time.sleep(1)
        return lines
