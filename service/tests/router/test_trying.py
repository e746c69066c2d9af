"""What a server's answers show of what its model does."""

import json
from typing import Any

import pytest

from athena.router.judging.needs import Need
from athena.router.trying import Said, plain, question, shown


def reply(prompt_tokens: int | None = 10, content: str | None = "Hello", **message: Any) -> bytes:
    usage = {} if prompt_tokens is None else {"usage": {"prompt_tokens": prompt_tokens, "completion_tokens": 1}}
    return json.dumps({"choices": [{"message": {"content": content, **message}}], **usage}).encode()


def compared(prompt_tokens: int | None = 10) -> Said:
    said = plain(200, reply(prompt_tokens))
    assert said is not None
    return said


def test_every_question_is_the_plain_one_and_the_need() -> None:
    path, body = question("m", None)
    assert path == "/v1/chat/completions"
    asked = json.loads(body)
    assert "tools" in json.loads(question("m", Need.TOOLS)[1]).keys() - asked.keys()
    assert "response_format" in json.loads(question("m", Need.JSON_SCHEMA)[1]).keys() - asked.keys()
    parts = json.loads(question("m", Need.IMAGES)[1])["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url"]
    assert parts[0]["text"] == asked["messages"][0]["content"]
    assert question("m", Need.EMBEDDINGS)[0] == "/v1/embeddings"


@pytest.mark.parametrize("need", [Need.TOOLS, Need.IMAGES])
def test_a_need_that_is_read_is_met_and_one_that_is_not_read_is_ignored(need: Need) -> None:
    assert shown(need, compared(), 200, reply(40)) is True
    assert shown(need, compared(), 200, reply(10)) is False
    assert shown(need, compared(), 200, reply(None)) is None
    assert shown(need, compared(None), 200, reply(40)) is None
    assert shown(need, compared(), 200, reply(None, tool_calls=[{"id": "1"}])) is True


@pytest.mark.parametrize(
    ("text", "word"), [('{"a": 1', True), ("\n {", True), ("Hello", False), ("", None), (None, None)]
)
def test_a_schema_that_is_kept_to_begins_with_a_brace(text: str | None, word: bool | None) -> None:
    assert shown(Need.JSON_SCHEMA, compared(), 200, reply(content=text)) is word


def test_vectors_are_given_or_not() -> None:
    assert shown(Need.EMBEDDINGS, None, 200, b'{"data": [{"embedding": [0.5]}]}') is True
    assert shown(Need.EMBEDDINGS, None, 200, b"{}") is False
    assert shown(Need.EMBEDDINGS, None, 404, b"") is False


@pytest.mark.parametrize("need", list(Need))
@pytest.mark.parametrize(("status", "word"), [(400, False), (422, False), (501, False), (429, None), (503, None)])
def test_a_refusal_is_an_answer_and_too_much_to_do_is_none(need: Need, status: int, word: bool | None) -> None:
    assert shown(need, compared(), status, b"") is word


@pytest.mark.parametrize("need", [Need.TOOLS, Need.IMAGES, Need.JSON_SCHEMA])
def test_without_a_reply_to_compare_with_nothing_is_shown(need: Need) -> None:
    assert shown(need, plain(404, b""), 400, b"") is None
    assert shown(need, plain(200, b"no JSON"), 200, reply(40)) is None
    assert shown(need, compared(), 200, b"no JSON") is None
    assert shown(need, compared(), 200, b'{"choices": []}') is None
