"""The cause that a playbook tells where it goes back."""

from typing import Any

import pytest
from loading import load

failure_message = load("plugins/filter/failures.py").failure_message
LOOP = "One or more items failed"


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"msg": " The model is not there. \n"}, "The model is not there."),
        ({"msg": "non-zero return code", "stderr": "disk full\n", "rc": 1}, "disk full"),
        ({"msg": "non-zero return code", "stderr": "", "rc": 1}, "non-zero return code"),
        ({"msg": "Refused", "stderr": "a warning"}, "Refused"),
        ({"msg": None}, "no message"),
        ({}, "no message"),
        (
            {"msg": LOOP, "results": [{"msg": "good"}, {"failed": True, "msg": "bad"}, {"failed": True, "msg": "two"}]},
            "bad; two",
        ),
        ({"msg": LOOP, "results": [{"failed": True, "msg": "away"}, {"failed": True, "msg": "away"}]}, "away"),
        ({"msg": LOOP, "results": [{"failed": True}]}, "no message"),
        ({"msg": "It is no list", "results": []}, "It is no list"),
        ({"msg": LOOP, "results": [{"failed": True, "msg": "non-zero return code", "stderr": "no"}]}, "no"),
    ],
)
def test_it_is_what_the_task_or_its_failed_items_say(result: dict[str, Any], message: str) -> None:
    assert failure_message(result) == message
