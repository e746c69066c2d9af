"""The role `ollama` has a model in memory for as long as it is declared, whoever loaded it before, and however."""

import json
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from loading import load
from serving import Answering, serving

load("roles/ollama/module_utils/ollama_pulls.py")
load("roles/ollama/module_utils/ollama_copies.py")
keeping = load("roles/ollama/module_utils/ollama_keeping.py")
model = load("roles/ollama/library/ollama_model.py")

NAME, DIGEST = "a:latest", "0" * 64
MINUTE, HOUR = 60, 3600
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


class Keeps:
    """An Ollama with one model, which is in memory for so many seconds more, or not; and what it was asked to load."""

    def __init__(self, left: float | None, *, digest: str = DIGEST) -> None:
        self.left, self.digest = left, digest
        self.asked: list[dict[str, Any]] = []

    def memory(self) -> list[dict[str, str]]:
        """Return the rows of /api/ps, with a time as Go writes it."""
        if self.left is None:
            return []
        end = datetime.now(UTC) + timedelta(seconds=self.left)
        return [{"name": NAME, "digest": self.digest, "expires_at": f"{end:%Y-%m-%dT%H:%M:%S}.123456789Z"}]

    def load(self, body: dict[str, Any]) -> None:
        """Take a model into memory, for as long as that says; there is no other default here."""
        self.asked.append(body)
        self.left, self.digest = keeping.lifetime(str(body["keep_alive"])), DIGEST


def have_loaded(keeps: Keeps, keep_alive: str, *, is_check: bool = False) -> bool:
    """Have the model in memory; return whether that is told as a change."""

    class Handler(Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            rows = keeps.memory() if self.path == "/api/ps" else [{"name": NAME, "digest": DIGEST}]
            self.answer(200, json.dumps({"models": rows}).encode())

        def do_POST(self) -> None:
            keeps.load(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(200, b"{}")

    with serving(Handler) as address:
        given = {"name": "a", "keep_alive": keep_alive, "load_seconds": 60}
        told: dict[str, bool] = model.have_loaded(model.Ollama(f"http://{address}"), given, is_check)
    return told["changed"]


@pytest.mark.parametrize(
    ("left", "keep_alive", "asked"),
    [
        (None, "-1", -1),
        (5 * MINUTE, "-1", -1),  # by a question of the role fleet, or after a start of Ollama's
        (5 * MINUTE, "-1m", "-1m"),
        (keeping.FOR_EVER, "24h", "24h"),
        (24 * HOUR, "600", 600),
        (keeping.FOR_EVER, "5m", "5m"),
        (None, "5m", "5m"),
    ],
)
def test_what_was_loaded_for_another_time_stays_as_declared_and_the_second_run_changes_nothing(
    left: float | None, keep_alive: str, asked: object
) -> None:
    keeps = Keeps(left)
    assert have_loaded(keeps, keep_alive)
    assert keeps.left == keeping.lifetime(keep_alive)
    assert keeps.asked == [{"model": "a", "keep_alive": asked, "stream": False}]
    assert not have_loaded(keeps, keep_alive)


def test_what_is_there_for_ever_is_left_alone() -> None:
    keeps = Keeps(keeping.FOR_EVER)
    assert not have_loaded(keeps, "-1")
    assert keeps.asked == []


@pytest.mark.parametrize("left", [-MINUTE, 5 * MINUTE, HOUR])
def test_a_time_that_passes_begins_anew_without_a_change(left: float) -> None:
    keeps = Keeps(left)
    assert not have_loaded(keeps, "1h")
    assert keeps.left == HOUR


def test_a_check_says_what_would_change_and_loads_nothing() -> None:
    keeps = Keeps(5 * MINUTE)
    assert have_loaded(keeps, "-1", is_check=True)
    assert not have_loaded(keeps, "1h", is_check=True)
    assert keeps.asked == []


def test_what_the_name_led_to_before_is_not_the_model() -> None:
    keeps = Keeps(keeping.FOR_EVER, digest="1" * 64)
    assert have_loaded(keeps, "-1")
    assert keeps.digest == DIGEST


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [("90", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("500ms", 0.5), ("-1", keeping.FOR_EVER)],
)
def test_a_duration_is_read_as_ollama_reads_it(keep_alive: str, seconds: float) -> None:
    assert keeping.lifetime(keep_alive) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "said",
    ["2026-11-28T12:05:00Z", "2026-11-28T12:05:00.123456789Z", "2026-11-28T13:05:00.1+01:00"],
)
def test_an_end_is_read_as_go_writes_it(said: str) -> None:
    assert keeping.seconds_left(said, NOW.timestamp()) == 5 * MINUTE
