"""A pull of the role `ollama` that takes more than one call of its module, and what a person sees of it meanwhile."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from loading import load

pulls = load("roles/ollama/module_utils/ollama_pulls.py")
action = load("roles/ollama/action_plugins/ollama_model.py")

GIB = 2**30


def line(completed: int, *, part: str = "a", total: int = 40 * GIB) -> dict[str, Any]:
    return {"status": f"pulling {part}", "digest": part, "total": total, "completed": completed}


def given(seconds: int = 0, so_far: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": "phi3", "attempts": 2, "seconds": seconds, "so_far": so_far or {}}


class Registry:
    """Attempts that go as the lines say, one list for each; the last of them may be an error."""

    def __init__(self, *attempts: list[dict[str, Any]]) -> None:
        self.attempts = list(attempts)
        self.had: list[dict[str, int]] = []

    def __call__(self, had: dict[str, int]) -> Iterator[Any]:
        self.had.append(dict(had))
        progress = pulls.Progress(0, had)
        for number, said in enumerate(self.attempts.pop(0)):
            progress.feed(said, number)
            yield progress


@pytest.fixture(autouse=True)
def _nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulls.time, "sleep", lambda _: None)


def pull(registry: Registry, asked: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = pulls.pull(registry, asked, lambda _: None)
    return result


def test_a_call_that_takes_long_ends_with_what_it_has_and_the_next_goes_on_from_there() -> None:
    first = pull(Registry([line(0), line(4 * GIB), line(5 * GIB)]), given())
    assert first["progress"].startswith("phi3: 10 % of 40.0 GiB, ")
    assert (first["so_far"]["had"], first["so_far"]["came"]) == ({"a": 4 * GIB}, 4 * GIB)
    registry = Registry([line(4 * GIB), line(10 * GIB)])
    second = pull(registry, given(so_far=json.loads(json.dumps(first["so_far"]))))
    assert registry.had == [{"a": 4 * GIB}]
    assert second["progress"].startswith("phi3: 25 % of 40.0 GiB, ")
    assert second["so_far"]["came"] == 10 * GIB
    last = pull(Registry([line(10 * GIB), {"status": "success"}]), given(so_far=second["so_far"]))
    assert last["bytes"] == 10 * GIB
    assert "so_far" not in last
    assert last["seconds"] >= 0


def test_what_broke_off_in_a_call_is_told_by_the_last() -> None:
    first = pull(Registry([line(0), {"error": "reset"}], [line(0), line(9)]), given())
    last = pull(Registry([line(9), {"status": "success"}]), given(so_far=first["so_far"]))
    assert [words.rpartition(": ")[2] for words in last["broken_off"]] == ["reset"]


def test_a_call_does_not_end_where_that_would_cost_something() -> None:
    standing = [line(0), line(0), {"status": "verifying sha256 digest"}, {"status": "success"}]
    assert pull(Registry(standing), given())["bytes"] == 0
    # Ollama computes the digest of a part that came in the same pull, and of no other.
    whole = [line(0, total=9), line(9, total=9), line(0, part="b"), line(4, part="b"), {"status": "success"}]
    assert pull(Registry(whole), given())["bytes"] == 13


def test_attempts_without_a_byte_end_a_pull_however_many_calls_there_were() -> None:
    first = pull(Registry([line(0), line(9)]), given())
    registry = Registry(*[[line(9), {"error": "reset"}]] * 2)
    with pytest.raises(pulls.ModelError, match="It was tried 2 times"):
        pull(registry, given(so_far=first["so_far"]))
    assert registry.attempts == []


def test_a_person_sees_how_far_it_is_after_each_call(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [
        {"changed": True, "progress": "phi3: 12 % of 40.0 GiB, 85.0 MiB/s", "so_far": {"came": 1}},
        {"changed": True, "progress": "phi3: 25 % of 40.0 GiB, 84.0 MiB/s", "so_far": {"came": 2}},
        {"changed": True, "digest": "0"},
    ]
    asked: list[dict[str, Any]] = []

    class Calling(action.ActionModule):  # type: ignore[misc, name-defined]
        def _execute_module(self, *, module_args: dict[str, Any], **_: Any) -> dict[str, Any]:
            asked.append(module_args)
            return answers[len(asked) - 1]

    calling = Calling.__new__(Calling)
    calling._task = SimpleNamespace(args={"name": "phi3"}, async_val=0, check_mode=False, diff=False)
    calling._play_context = SimpleNamespace(check_mode=False)
    calling._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="made"))
    assert calling.run(task_vars={"inventory_hostname": "mac-1"}) == {"changed": True, "digest": "0"}
    assert [one["so_far"] for one in asked] == [{}, {"came": 1}, {"came": 2}]
    assert [text.strip() for text in capsys.readouterr().out.splitlines()] == [
        "mac-1: phi3: 12 % of 40.0 GiB, 85.0 MiB/s",
        "mac-1: phi3: 25 % of 40.0 GiB, 84.0 MiB/s",
    ]
