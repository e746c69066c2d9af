"""What `--json` tells of a run, from what its tasks said."""

from types import ModuleType
from typing import Any

import pytest
from loading import load


@pytest.fixture(scope="module")
def outcome() -> ModuleType:
    return load("plugins/callback/outcome.py")


def test_a_run_that_did_nothing_has_nothing_to_tell(outcome: ModuleType) -> None:
    told: dict[str, Any] = outcome.Account(10.0).told(11.0)
    assert told == {"release": None, "recorded": None, "steps": [], "seconds": 1.0, "problems": []}


def test_a_step_lasts_until_the_next_and_the_last_until_the_end(outcome: ModuleType) -> None:
    account = outcome.Account(0.0)
    account.journal({"begun": "schema", "active": None}, 1.0)
    account.journal({"begun": "services", "active": None}, 3.5)
    account.journal({"recorded": "r2", "active": {"id": "r2"}}, 9.0)
    account.journal({"active": {"id": "r2"}}, 9.5)
    told = account.told(10.0)
    assert told["steps"] == [{"step": "schema", "seconds": 2.5}, {"step": "services", "seconds": 6.5}]
    assert (told["release"], told["recorded"]) == ("r2", "r2")


def test_problems_are_told_one_by_one_and_once(outcome: ModuleType) -> None:
    account = outcome.Account(0.0)
    account.failure("Refuse", {"msg": "Nothing was changed, because:\n- a\n- b", "problems": ["a", "b"]})
    account.failure("Start it", {"msg": "", "stderr": "no such file\n"})
    account.failure("Start it", {"msg": "", "stderr": "no such file\n"})
    assert account.told(1.0)["problems"] == ["a", "b", "Start it: no such file"]


def test_a_task_that_hides_what_it_says_is_not_quoted(outcome: ModuleType) -> None:
    account = outcome.Account(0.0)
    account.failure("Write the secrets", {"censored": "the output has been hidden"})
    assert account.told(1.0)["problems"] == ["Write the secrets: no message"]
