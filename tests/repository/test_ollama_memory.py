"""Which models the role `ollama` leaves in memory and on the disk, and what it keeps of a name that leads elsewhere."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from loading import load
from serving import Answering, serving

load("roles/ollama/module_utils/ollama_pulls.py")
load("roles/ollama/module_utils/ollama_copies.py")
load("roles/ollama/module_utils/ollama_keeping.py")
model = load("roles/ollama/library/ollama_model.py")

A, B = "a:latest", "b:latest"
OLD, NEW = "0" * 64, "1" * 64
KEPT = "a:latest-athena-before"


class Has:
    """What an Ollama has, and what it was asked to change. As the real one, it finds what is in memory by a name."""

    def __init__(self, listed: dict[str, str], loaded: list[tuple[str, str]]) -> None:
        self.listed, self.loaded, self.asked = listed, loaded, list[str]()
        self.registry = NEW
        self.looks_until_unloaded = 0
        self.leaving: list[tuple[str, str]] = []

    def shown(self) -> list[tuple[str, str]]:
        self.looks_until_unloaded -= bool(self.leaving)
        if self.looks_until_unloaded < 0:
            self.loaded = [row for row in self.loaded if row not in self.leaving]
        return self.loaded

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Do what is asked."""
        name = model.canonical(body.get("model") or body["source"])
        self.asked.append(f"{path} {name}")
        if path == "/api/pull":
            if not self.registry:
                return 200, b'{"error": "pull model manifest: file does not exist"}\n'
            self.listed[name] = self.registry
            return 200, b'{"status": "success"}\n'
        if name not in self.listed:
            return 404, b'{"error": "not found"}'
        if path == "/api/copy":
            self.listed[body["destination"]] = self.listed[name]
        elif path == "/api/generate":
            self.leaving = [row for row in self.loaded if row[1] == self.listed[name]]
        else:
            del self.listed[name]
        return 200, b"{}"


@contextmanager
def an_ollama(has: Has) -> Iterator[Any]:
    """Run it."""

    class Handler(Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            rows = has.shown() if self.path == "/api/ps" else list(has.listed.items())
            self.answer(
                200, json.dumps({"models": [{"name": name, "digest": digest} for name, digest in rows]}).encode()
            )

        def do_POST(self) -> None:
            self.answer(*has.post(self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def do_DELETE(self) -> None:
            self.do_POST()

    with serving(Handler) as address:
        yield model.Ollama(f"http://{address}")


@pytest.fixture
def nothing_is_said() -> Callable[[str], None]:
    """Return a log that nobody reads."""
    return lambda _: None


def two() -> Has:
    return Has({A: OLD, B: NEW}, [(A, OLD), (B, NEW)])


def only(has: Has, **given: Any) -> dict[str, Any]:
    """Have `a` alone."""
    is_check = given.pop("is_check", False)
    with an_ollama(has) as ollama:
        asked = {"declared": ["a"], "kept": [], "prune": False, "load_seconds": 60, **given}
        result: dict[str, Any] = model.have_only(ollama, asked, is_check)
    return result


def have(has: Has, digest: str, log: Callable[[str], None], former: str = "") -> dict[str, Any]:
    """Have `a` with a digest."""
    given = {"name": "a", "digest": digest, "insecure": False, "stall_seconds": 60, "attempts": 1, "seconds": 30}
    given["former_digest"] = former
    with an_ollama(has) as ollama:
        result: dict[str, Any] = model.have(
            ollama, {**given, "so_far": {}, "peers": [], "folder": "/nonexistent"}, False, log
        )
    return result


def test_an_undeclared_model_is_out_of_memory_before_its_files_go() -> None:
    has = two()
    has.looks_until_unloaded = 2
    assert only(has, prune=True)["unloaded"] == [B]
    assert has.asked == [f"/api/generate {B}", f"/api/delete {B}"]
    assert (has.loaded, has.listed) == ([(A, OLD)], {A: OLD})


def test_a_check_unloads_nothing_and_says_what_would_be() -> None:
    has = two()
    assert only(has, is_check=True)["changed"]
    assert has.asked == []


def test_a_model_that_stays_in_memory_is_a_failure_with_the_remedy() -> None:
    has = two()
    has.looks_until_unloaded = 10**6
    with pytest.raises(model.ModelError, match="Have nobody ask it, and run again"):
        only(has, load_seconds=0)


def test_what_no_name_leads_to_any_more_is_told_by_the_name_it_had() -> None:
    told = only(Has({A: NEW}, [(A, OLD), (A, NEW), (B, "2" * 64)]))
    assert (told["lost"], told["unloaded"], told["changed"]) == ([A, B], [], False)


def test_what_a_name_led_to_is_kept_and_leaves_the_memory_by_the_name_of_then(
    nothing_is_said: Callable[[str], None],
) -> None:
    has = Has({A: OLD}, [(A, OLD)])
    told = have(has, NEW, nothing_is_said)
    assert (told["digest"], told["kept"], has.listed) == (NEW, KEPT, {A: NEW, KEPT: OLD})
    told = only(has, kept=[told["kept"]], prune=True)
    assert (told["unloaded"], told["undeclared"], told["lost"]) == ([KEPT], [], [])
    assert (has.loaded, has.listed) == ([], {A: NEW, KEPT: OLD})
    assert only(has, prune=True)["removed"] == [KEPT]
    assert only(has, prune=True)["changed"] is False


def test_what_was_before_comes_back_without_a_pull_and_the_other_is_kept(
    nothing_is_said: Callable[[str], None],
) -> None:
    has = Has({A: NEW, KEPT: OLD}, [(A, NEW)])
    assert have(has, OLD[:12], nothing_is_said)["digest"] == OLD
    assert has.listed == {A: OLD, KEPT: NEW}
    assert not any("pull" in one for one in has.asked)
    assert only(has)["unloaded"] == [KEPT]


def test_what_was_before_and_not_declared_comes_back_where_it_is_known_and_kept(
    nothing_is_said: Callable[[str], None],
) -> None:
    has = Has({A: NEW, KEPT: OLD}, [])
    assert have(has, "", nothing_is_said)["changed"] is False
    assert have(has, "", nothing_is_said, former="2" * 64)["changed"] is False
    assert have(has, "", nothing_is_said, former=OLD)["digest"] == OLD
    assert has.listed == {A: OLD, KEPT: NEW}
    assert have(has, "", nothing_is_said, former=OLD)["changed"] is False


def test_nothing_is_kept_where_nothing_came(nothing_is_said: Callable[[str], None]) -> None:
    has = Has({A: OLD}, [])
    has.registry = ""
    with pytest.raises(model.ModelError, match="There is no such model there"):
        have(has, NEW, nothing_is_said)
    assert has.listed == {A: OLD}
