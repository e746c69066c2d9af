"""`athena backends drain` against a real Admin API, and proxies whose metrics a test writes."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.admin import AdminApi
from tests.support.ports import quiet_port
from tests.support.processes import athena

MAC, OTHER = "http://mac.example.internal:8080", "http://other.example.internal:8080"


@contextmanager
def proxy(*busy: int, version: int = 1000) -> Iterator[str]:
    """Serve metrics of a proxy that has so many requests at backend 1, one number for each look; the last one stays."""
    counts = list(busy)

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            count = counts.pop(0) if len(counts) > 1 else counts[0]
            body = (
                f'athena_backend_in_use{{backend_id="1",model="m",provider="mlx"}} {count}\n'
                f"athena_configuration_version {version}\n"
            ).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Metrics) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def access(api: AdminApi) -> dict[str, str]:
    return {"ADMIN_API_URL": api.base_url, "ADMIN_API_TOKEN": api.token}


def enabled(api: AdminApi) -> list[bool]:
    return [row["enabled"] for row in api.client.get("/api/llm-backends").json()]


def test_what_is_at_the_endpoints_is_disabled_and_the_requests_there_are_waited_for(admin_api: AdminApi) -> None:
    admin_api.add("m", backend_type="mlx", endpoint_url=MAC)
    admin_api.add("m", backend_type="mlx", endpoint_url=OTHER, priority=1)
    with proxy(2, 1, 0) as first, proxy(0) as second:
        done = athena("backends", "drain", f"{MAC}/", "--at", first, "--at", second, **access(admin_api))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["changes"] == [f"~ backend m at {MAC}: enabled true becomes false"]
    assert (told["changed"], told["backends"]) == (True, 1)
    assert told["seconds"] >= 1  # two looks that found somebody, and a pause after each
    assert enabled(admin_api) == [False, True]
    again = athena("backends", "drain", MAC, **access(admin_api))
    assert json.loads(again.stdout)["changed"] is False


def test_where_somebody_stays_everything_is_as_it_was(admin_api: AdminApi) -> None:
    admin_api.add("m", backend_type="mlx", endpoint_url=MAC)
    admin_api.add("n", backend_type="mlx", endpoint_url=MAC, enabled=False)
    with proxy(1, version=0) as busy:
        done = athena("backends", "drain", MAC, "--at", busy, "--within", "1", **access(admin_api))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{busy} has 1 request there" in done.stderr
    assert "routes by version 0" in done.stderr
    assert "every backend is as it was" in done.stderr
    assert enabled(admin_api) == [True, False]


def test_a_proxy_that_does_not_answer_is_not_taken_for_idle(admin_api: AdminApi) -> None:
    admin_api.add("m", backend_type="mlx", endpoint_url=MAC)
    nobody = f"http://127.0.0.1:{quiet_port()}"
    done = athena("backends", "drain", MAC, "--at", nobody, "--within", "0", **access(admin_api))
    assert done.returncode == 1
    assert f"{nobody} does not say" in done.stderr
    assert enabled(admin_api) == [True]


def test_an_endpoint_without_backends_waits_for_nobody(admin_api: AdminApi) -> None:
    nobody = f"http://127.0.0.1:{quiet_port()}"
    done = athena("backends", "drain", MAC, "--at", nobody, "--within", "0", **access(admin_api))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["backends"] == 0
