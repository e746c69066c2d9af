"""Commands that get no connection at first, as in a pod that the rules of a cluster's network do not know yet."""

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.proxy.standin import Heard, StandIn
from tests.support.admin import ADMIN_TOKEN, running_admin_api
from tests.support.ports import quiet_port
from tests.support.postgres import PASSWORD
from tests.support.processes import ATHENA, athena, environment

# Longer than a command may take here: one that asked again would not end in time.
ENDLESS = "600"
NOTHING = Path(__file__).with_name("no_backends.json")
ASKS = [
    pytest.param(("backends", "declare", "--check", str(NOTHING)), id="declare"),
    pytest.param(("verify",), id="verify"),
    pytest.param(("backends", "drain", "http://mac.example.internal:8080"), id="drain"),
]


@contextmanager
def trying(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command that finds nobody for two seconds, and goes on."""
    command = [ATHENA, *arguments]
    process = subprocess.Popen(
        command,
        env=environment(CONNECT_SECONDS="60", **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_an_admin_api_that_lets_nobody_in_at_first_is_asked_a_moment_later(database_url: str) -> None:
    port = quiet_port()
    access = {"ADMIN_API_URL": f"http://127.0.0.1:{port}", "ADMIN_API_TOKEN": ADMIN_TOKEN}
    with (
        trying("backends", "drain", "http://mac.example.internal:8080", **access) as drain,
        running_admin_api(database_url, port),
    ):
        output, complaint = drain.communicate(timeout=60)
    assert drain.returncode == 0, complaint
    assert json.loads(output)["backends"] == 0


def test_a_database_that_lets_nobody_in_at_first_is_asked_a_moment_later() -> None:
    port = quiet_port()
    with (
        trying("migrate", "--show", DATABASE_URL=f"postgresql://ann:pa55@127.0.0.1:{port}/athena"),
        socket.create_server(("127.0.0.1", port)) as server,
    ):
        server.settimeout(60)
        server.accept()[0].close()


@pytest.mark.parametrize("command", ASKS)
def test_an_admin_api_that_lets_nobody_in_is_named_with_what_to_look_at(command: tuple[str, ...]) -> None:
    url = f"http://127.0.0.1:{quiet_port()}"
    done = athena(*command, ADMIN_API_URL=url, ADMIN_API_TOKEN=ADMIN_TOKEN, CONNECT_SECONDS="1")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: no answer from the Admin API at {url}: ")
    assert "ADMIN_API_URL has its address, and that the network lets this machine or pod connect" in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "nobody.invalid"])
def test_a_database_that_lets_nobody_in_is_named_with_what_to_look_at(host: str) -> None:
    port = quiet_port()
    done = athena("migrate", DATABASE_URL=f"postgresql://ann:pa55@{host}:{port}/athena", CONNECT_SECONDS="1")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the database cannot be used: ")
    assert f"(asked: {host}:{port}); see that it is up, that DATABASE_URL has its address" in done.stderr
    assert "pa55" not in done.stderr


@pytest.mark.parametrize("command", ASKS)
def test_an_answer_of_the_admin_api_is_not_asked_for_again(command: tuple[str, ...]) -> None:
    async def refuse(heard: Heard) -> None:
        await heard.answer(b'{"title": "Service unavailable", "status": 503, "detail": "not now"}', status=503)

    with StandIn(refuse) as api:
        done = athena(*command, ADMIN_API_URL=api.url, ADMIN_API_TOKEN=ADMIN_TOKEN, CONNECT_SECONDS=ENDLESS)
    assert (done.returncode, done.stderr) == (1, "error: not now\n")
    assert len(api.heard) == 1


def test_a_fault_of_tls_is_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_in_clear() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.shutdown(socket.SHUT_WR)
                # Closed with something unread, the answer might be lost; the other side may leave as it likes.
                with suppress(ConnectionError):
                    while connection.recv(4096):
                        pass

        thread = threading.Thread(target=answer_in_clear, daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{server.getsockname()[1]}"
        done = athena("verify", ADMIN_API_URL=url, ADMIN_API_TOKEN=ADMIN_TOKEN, CONNECT_SECONDS=ENDLESS)
        thread.join(10)
    assert done.returncode == 1
    assert "SSL" in done.stderr


def test_a_password_that_is_wrong_is_not_tried_again(empty_database_url: str) -> None:
    url = empty_database_url.replace(PASSWORD, "not-the-password")
    done = athena("migrate", DATABASE_URL=url, CONNECT_SECONDS=ENDLESS)
    assert done.returncode == 1
    assert "asked:" not in done.stderr


def test_a_time_that_does_not_hold_is_told() -> None:
    done = athena("verify", CONNECT_SECONDS="601")
    assert done.returncode == 2
    assert done.stderr.startswith("CONNECT_SECONDS: ")
    assert "set it to a number of seconds from 0 to 600" in done.stderr
