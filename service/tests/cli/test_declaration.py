"""The decisions of `athena backends declare`: what is read, and what follows from what is there."""

import json
from typing import Any

import pytest

from athena.cli.declaration import MARK, Change, decide, read
from athena.errors import InvalidInputError

URL = "http://mac.example.internal:8080"
OTHER_URL = "http://mac.example.internal:8081"


def row(number: int, model: str = "phi", url: str = URL, **more: Any) -> dict[str, Any]:
    """Return a row of the registry as a declaration leaves it where it says the least."""
    return {
        "id": number,
        "model_name": model,
        "backend_type": "mlx",
        "endpoint_url": url,
        "enabled": True,
        "max_tokens": 2048,
        "temperature_default": 0.7,
        "timeout_seconds": 60,
        "description": MARK,
        "priority": 0,
        "weight": 1,
        "max_concurrency": None,
        "max_queue": None,
        "first_token_seconds": None,
        "stall_seconds": None,
        "capabilities": None,
        "total_requests": 17,
        **more,
    }


def entry(model: str = "phi", url: str = URL, **more: Any) -> dict[str, Any]:
    """Return an entry of a declaration."""
    return {"model_name": model, "backend_type": "mlx", "endpoint_url": url, **more}


def lines(changes: list[Change]) -> list[str]:
    return [line for change in changes for line in change.lines]


def declared(*entries: Any) -> list[dict[str, Any]]:
    return read(json.dumps(entries).encode())


# --- what is to be done ---------------------------------------------------------------------------


def test_a_missing_backend_is_created_with_the_mark_enabled_and_with_a_place_in_its_route() -> None:
    (change,) = decide([], declared(entry(max_tokens=9)), mark=MARK)
    assert change.action == "create"
    assert change.fields == entry(max_tokens=9, description=MARK, enabled=True, priority=0)
    assert change.lines == [f"+ backend phi at {URL}"]


def test_a_priority_that_is_declared_is_the_one_of_the_new_backend() -> None:
    (change,) = decide([], declared(entry(priority=3)), mark=MARK)
    assert change.fields["priority"] == 3


def test_what_is_as_declared_stays() -> None:
    assert decide([row(1)], declared(entry()), mark=MARK) == []
    assert decide([row(1)], declared(entry(url=URL + "/", timeout_seconds=60.0)), mark=MARK) == []


def test_what_a_declaration_does_not_name_may_be_anything() -> None:
    assert decide([row(1, max_tokens=77, priority=4, weight=9)], declared(entry()), mark=MARK) == []


def test_only_the_fields_that_differ_are_sent_and_each_is_a_line() -> None:
    (change,) = decide([row(4)], declared(entry(max_tokens=9, max_queue=5, weight=1)), mark=MARK)
    assert (change.action, change.backend_id) == ("change", 4)
    assert change.fields == {"max_tokens": 9, "max_queue": 5}
    assert change.lines == [
        f"~ backend phi at {URL}: max_tokens 2048 becomes 9",
        f"~ backend phi at {URL}: max_queue unset becomes 5",
    ]


def test_a_limit_is_taken_away_by_null() -> None:
    (change,) = decide([row(1, max_queue=5)], declared(entry(max_queue=None)), mark=MARK)
    assert change.fields == {"max_queue": None}
    assert change.lines == [f"~ backend phi at {URL}: max_queue 5 becomes unset"]


def test_a_disabled_backend_is_enabled_again_unless_that_is_declared() -> None:
    assert lines(decide([row(1, enabled=False)], declared(entry()), mark=MARK)) == [
        f"~ backend phi at {URL}: enabled false becomes true"
    ]
    assert decide([row(1, enabled=False)], declared(entry(enabled=False)), mark=MARK) == []


def test_a_backend_that_somebody_added_is_taken_over_where_it_is_declared() -> None:
    (change,) = decide([row(1, description="mine\nsince May")], declared(entry()), mark=MARK)
    assert change.fields == {"description": MARK}
    assert change.lines == [f"~ backend phi at {URL}: description mine since May becomes {MARK}"]


def test_what_is_declared_no_longer_goes_and_what_others_added_stays() -> None:
    rows = [row(1, "gone"), row(2, "theirs", description="by hand"), row(3, "bare", description=None), row(4)]
    changes = decide(rows, declared(entry()), mark=MARK)
    assert lines(changes) == [f"- backend gone at {URL}"]
    assert changes[0].backend_id == 1


def test_an_empty_declaration_removes_all_that_was_declared() -> None:
    assert [change.backend_id for change in decide([row(1), row(2, "b")], [], mark=MARK)] == [1, 2]
    assert decide([row(1)], [], mark="Another mark.") == []


def test_an_entry_with_a_description_of_its_own_has_that_in_place_of_the_mark() -> None:
    (change,) = decide([row(1)], declared(entry(description="quick")), mark=MARK)
    assert change.fields == {"description": "quick"}


def test_a_model_that_moves_has_its_new_backend_before_the_old_one_goes() -> None:
    changes = decide([row(1)], declared(entry(url=OTHER_URL)), mark=MARK)
    assert lines(changes) == [f"+ backend phi at {OTHER_URL}", f"- backend phi at {URL}"]


def test_what_is_enabled_comes_before_what_is_disabled() -> None:
    rows = [row(1), row(2, url=OTHER_URL, enabled=False)]
    changes = decide(rows, declared(entry(enabled=False), entry(url=OTHER_URL)), mark=MARK)
    assert [change.backend_id for change in changes] == [2, 1]


def test_of_two_rows_at_one_address_the_one_of_the_declared_type_is_meant() -> None:
    rows = [row(1, backend_type="openai"), row(2)]
    assert decide(rows, declared(entry()), mark=MARK) == []
    (change,) = decide(rows, declared(entry(backend_type="ollama")), mark=MARK)
    assert (change.backend_id, change.fields) == (1, {"backend_type": "ollama"})


def test_making_all_changes_leaves_nothing_to_be_changed() -> None:
    rows = [row(1, max_tokens=5), row(2, "gone"), row(3, "theirs", description="by hand")]
    wanted = declared(entry(max_tokens=9), entry("new", weight=3), entry("new", OTHER_URL, priority=1))
    after = {one["id"]: one for one in rows}
    for number, change in enumerate(decide(rows, wanted, mark=MARK), 10):
        match change.action:
            case "create":
                after[number] = {**row(number), **change.fields}
            case "change":
                after[change.backend_id] |= change.fields
            case "remove":
                del after[change.backend_id]
    assert decide(list(after.values()), wanted, mark=MARK) == []
    assert after[3] == rows[2]


def test_no_line_shows_a_password_or_has_a_break_in_it() -> None:
    rows = [
        row(1, "gone", "http://bob:pa55@mac:1"),
        row(2, description="\x1b[2Jsee http://bob:pa55@mac/\r\nfor more"),
    ]
    told = lines(decide(rows, declared(entry()), mark=MARK))
    assert "pa55" not in str(told)
    assert "- backend gone at http://mac:1" in told
    assert all(line.isprintable() for line in told)


# --- what is refused ------------------------------------------------------------------------------


def refusal(*entries: Any) -> str:
    with pytest.raises(InvalidInputError) as refused:
        declared(*entries)
    return refused.value.detail


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (b"", "is no JSON"),
        (b"[{]", "is no JSON"),
        (b"\xff\xfe\x00", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"{}", "must be a JSON list of backends, not an object"),
        (b"null", "must be a JSON list of backends, not null"),
    ],
)
def test_what_is_no_list_is_refused(document: bytes, complaint: str) -> None:
    with pytest.raises(InvalidInputError, match=complaint):
        read(document)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"colour": "red"}, "colour is no field of a backend; there are model_name, backend_type, endpoint_url,"),
        ({"id": 3}, "id is no field of a backend"),
        ({"model_name": ""}, "entry 2: model_name: String should have at least 1 character"),
        ({"backend_type": "vllm"}, "backend_type: Input should be 'ollama', 'mlx', 'auto' or 'openai'"),
        ({"endpoint_url": "mac:8080"}, "endpoint_url: must be http:// or https://, a host"),
        ({"endpoint_url": 8080}, "endpoint_url: Input should be a valid string, not a number"),
        ({"enabled": "yes"}, "enabled: Input should be a valid boolean, not a text"),
        ({"max_tokens": "9"}, "max_tokens: Input should be a valid integer, not a text"),
        ({"max_tokens": True}, "max_tokens: Input should be a valid integer, not true or false"),
        ({"priority": None}, "priority: Input should be a valid integer, not null"),
        ({"temperature_default": 7}, "temperature_default: Input should be less than or equal to 2"),
        ({"capabilities": {"tools": 1}}, "capabilities.tools: Input should be a valid boolean"),
        ({"capabilities": {"vision": True}}, "capabilities.vision: is no capability"),
    ],
)
def test_a_field_that_does_not_hold_is_named_with_its_entry_and_the_remedy(
    more: dict[str, Any], complaint: str
) -> None:
    told = refusal(entry("sound"), entry(**more))
    assert complaint in told
    assert "entry 2" in told
    assert "entry 1" not in told
    assert "nothing was changed" in told


def test_missing_fields_are_named() -> None:
    told = refusal({"model_name": "phi"})
    assert "entry 1 (phi): backend_type is missing; every entry needs model_name, backend_type" in told
    assert "entry 1 (phi): endpoint_url is missing" in told


def test_an_entry_that_is_no_object_is_refused() -> None:
    assert "entry 1: must be an object with the fields of a backend, not a text" in refusal("phi")


def test_the_same_model_and_endpoint_twice_is_refused() -> None:
    told = refusal(entry(), entry("other"), entry(url=URL + "/", backend_type="openai"))
    assert "entry 3 (phi): the same model and endpoint as entry 1; leave one of them out" in told


def test_all_faults_are_told_at_once() -> None:
    told = refusal(entry(max_tokens=0), entry("b", weight=-1))
    assert "entry 1 (phi): max_tokens" in told
    assert "entry 2 (b): weight" in told


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    told = refusal(entry(url="http://bob:pa55@mac:8080"))
    assert "entry 1 (phi): endpoint_url: must not hold a user or a password" in told
    assert "pa55" not in told
