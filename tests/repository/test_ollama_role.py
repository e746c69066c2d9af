"""What the role `ollama` takes settings, models and Ollama's own lines for."""

from typing import Any

import pytest
from loading import load

filters = load("roles/ollama/filter_plugins/ollama.py")
pulls = load("roles/ollama/module_utils/ollama_pulls.py")
load("roles/ollama/module_utils/ollama_copies.py")
load("roles/ollama/module_utils/ollama_keeping.py")
model, port = load("roles/ollama/library/ollama_model.py"), load("roles/ollama/library/ollama_port.py")


@pytest.mark.parametrize(
    "settings",
    [
        {"OLLAMA_HOST": "0.0.0.0"},  # noqa: S104 the setting's own word
        {"OLLAMA_HOST": "[::]:11434"},
        {"OLLAMA_KEEP_ALIVE": "1h30m", "OLLAMA_LOAD_TIMEOUT": 300},
        {"OLLAMA_KEEP_ALIVE": -1},
        {"OLLAMA_NUM_PARALLEL": "4", "OLLAMA_NOPRUNE": "false", "OLLAMA_DEBUG": 2},
        {"OLLAMA_OF_LATER": "anything", "OLLAMA_ORIGINS": ["https://chat.example.internal"]},
    ],
)
def test_settings_that_ollama_understands_are_taken(settings: dict[str, Any]) -> None:
    assert filters.setting_problems(settings) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OLLAMA_HOST", "http://127.0.0.1:11434"),
        ("OLLAMA_HOST", "127.0.0.1:0"),
        ("OLLAMA_KEEP_ALIVE", "10 minutes"),
        ("OLLAMA_NUM_PARALLEL", True),
        ("OLLAMA_NUM_PARALLEL", -1),
        ("OLLAMA_FLASH_ATTENTION", "perhaps"),
        ("OLLAMA_KV_CACHE_TYPE", "q5_0"),
        ("OLLAMA_MODELS", "models"),
        ("OLLAMA_OF_LATER", {"a": 1}),
        ("OLLAMA_OF_LATER", "two\nlines"),
        ("HTTPS_PROXY", "proxy.example.internal"),
    ],
)
def test_what_ollama_would_misread_is_refused_by_name(name: str, value: Any) -> None:
    (problem,) = filters.setting_problems({name: value})
    assert name in problem


@pytest.mark.parametrize(
    ("keg", "version"), [("0.34.4_1", "0.34.4"), ("0.34.4_12", "0.34.4"), ("0.34.4", "0.34.4"), ("", "")]
)
def test_a_revision_of_homebrews_formula_is_no_other_version_of_ollama(keg: str, version: str) -> None:
    assert filters.keg_version(keg) == version


def test_the_environment_has_what_ollama_needs_and_writes_values_as_it_reads_them() -> None:
    given = {"OLLAMA_FLASH_ATTENTION": True, "OLLAMA_ORIGINS": ["a", "b"], "OLLAMA_MODELS": "/data"}
    assert filters.environment(given, "/opt/o") == {
        "HOME": "/opt/o/home",
        "OLLAMA_HOST": "127.0.0.1:11434",
        "OLLAMA_MODELS": "/data",
        "OLLAMA_FLASH_ATTENTION": "1",
        "OLLAMA_ORIGINS": "a,b",
    }


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("0.0.0.0:9", "http://127.0.0.1:9"),
        ("[::]", "http://[::1]:11434"),
        ("mac-1.example.internal", "http://mac-1.example.internal:11434"),
    ],
)
def test_the_host_reaches_its_own_ollama_at_an_address_that_can_be_called(address: str, url: str) -> None:
    assert filters.url(address) == url


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("phi3", "phi3:latest"),
        ("Library/phi3:mini", "phi3:mini"),
        ("registry.ollama.ai/library/phi3:mini", "phi3:mini"),
        ("127.0.0.1:5000/team/phi3", "127.0.0.1:5000/team/phi3:latest"),
    ],
)
def test_a_model_is_found_by_the_name_that_ollama_lists(name: str, listed: str) -> None:
    assert model.canonical(name) == listed


def test_a_digest_is_compared_as_far_as_it_is_given() -> None:
    assert model.is_digest("", "abc")
    assert model.is_digest("sha256:0123456789ab", "0123456789abcdef")
    assert not model.is_digest("0123456789ab", "ba9876543210")


def line(completed: int, status: str = "pulling a") -> dict[str, Any]:
    return {"status": status, "digest": "a", "total": 100, "completed": completed}


@pytest.mark.parametrize(
    ("has", "declared", "wanted"),
    [
        ({"phi3:latest": "new", "phi3:latest-athena-before": "old"}, "", "old"),
        ({"phi3:latest": "new", "phi3:latest-athena-before": "old"}, "newest", "newest"),
        ({"phi3:latest": "new", "phi3:latest-athena-before": "older"}, "", ""),
        ({"phi3:latest": "new"}, "", ""),
        ({"phi3:latest-athena-before": "old"}, "", ""),
    ],
)
def test_what_a_model_was_counts_where_nothing_is_declared_and_it_is_there(
    has: dict[str, str], declared: str, wanted: str
) -> None:
    assert model.wanted_digest({"name": "phi3", "digest": declared, "former_digest": "old"}, has) == wanted
    assert model.wanted_digest({"name": "phi3", "digest": declared, "former_digest": ""}, has) == declared


def test_a_pull_is_stalled_when_lines_come_and_bytes_do_not() -> None:
    progress = pulls.Progress(0, {})
    progress.feed(line(10), 1)
    progress.feed(line(10), 50)
    assert not progress.is_stalled(50, 60)
    assert progress.is_stalled(62, 60)


def test_what_an_attempt_brought_is_counted_without_what_was_there() -> None:
    first = pulls.Progress(0, {})
    first.feed(line(40), 1)
    first.feed(line(50), 2)
    assert first.came == 10
    second = pulls.Progress(3, first.has)
    second.feed(line(100), 4)
    assert second.came == 50


def test_an_error_line_ends_the_attempt_and_computing_a_digest_may_take_long() -> None:
    progress = pulls.Progress(0, {})
    with pytest.raises(pulls.BrokenOffError, match="no space left"):
        progress.feed({"error": "write: no space left on device"}, 1)
    progress.feed({"status": "verifying sha256 digest"}, 1)
    assert progress.patience(60) == pulls.VERIFY_SECONDS


def test_only_what_another_attempt_may_mend_is_tried_again() -> None:
    assert "name and tag" in pulls.final("pull model manifest: file does not exist")
    assert pulls.final("context canceled") == ""


def test_who_listens_is_read_from_either_tool() -> None:
    assert port.of_lsof("p812\nf3\nn127.0.0.1:11434\nf4\nn[::1]:11434\n") == [
        {"pid": "812", "address": "127.0.0.1:11434"}
    ]
    ss = 'LISTEN 0 4096 *:11434 *:* users:(("ollama",pid=812,fd=3))\nLISTEN 0 9 127.0.0.2:11434 0.0.0.0:*\n'
    assert port.of_ss(ss) == [{"pid": "812", "address": "*:11434"}, {"pid": "0", "address": "127.0.0.2:11434"}]
