"""No field is dropped, the page of the docs says what is seen, and has every field of the official clients."""

from collections.abc import Iterable, Mapping
from typing import Any

import ollama
import openai.types as text
import pytest
from openai.types import chat, responses
from openai.types.shared_params import Reasoning

from athena.router.engines import ENGINES
from athena.router.types import BackendType
from tests.api_fields import ollama_fields, openai_fields, responses_fields
from tests.api_fields.__main__ import PAGE
from tests.api_fields.field import Field, Handling, Path, handling
from tests.api_fields.page import PATHS, page

_ALL = [pytest.param(path, field, id=f"{path.path} {field.place}") for path in PATHS for field in path.fields]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("path", "field"), _ALL)
def test_no_field_is_dropped_silently(path: Path, field: Field, engine: BackendType) -> None:
    assert handling(path, field, engine) in Handling


def test_the_page_says_what_is_seen() -> None:
    assert PAGE.read_text() == page(), "run: cd service && python -m tests.api_fields"


def covered(path: Path, place: str) -> bool:
    """Whether the path's table has the field, or one within it."""
    return any(field.place == place or field.place.startswith((f"{place}.", f"{place}[")) for field in path.fields)


def missing(path: Path, places: Iterable[str]) -> list[str]:
    return sorted(place for place in places if not covered(path, place))


def within(place: str, *kinds: Any) -> set[str]:
    return {f"{place}{name}" for kind in kinds for name in kind.__annotations__}


def test_every_field_of_openais_chat_is_there() -> None:
    messages: tuple[Any, ...] = (
        chat.ChatCompletionDeveloperMessageParam,
        chat.ChatCompletionSystemMessageParam,
        chat.ChatCompletionUserMessageParam,
        chat.ChatCompletionAssistantMessageParam,
        chat.ChatCompletionToolMessageParam,
        chat.ChatCompletionFunctionMessageParam,
    )
    parts: tuple[Any, ...] = (
        chat.ChatCompletionContentPartTextParam,
        chat.ChatCompletionContentPartImageParam,
        chat.ChatCompletionContentPartInputAudioParam,
        chat.ChatCompletionContentPartRefusalParam,
    )
    asked = within("", chat.completion_create_params.CompletionCreateParamsBase) | {"stream"}
    asked |= within("stream_options.", chat.ChatCompletionStreamOptionsParam)
    asked |= within("messages[].", *messages)
    asked |= within("messages[].content[].", *parts) - {"messages[].content[].type"}
    asked |= within("messages[].tool_calls[].", chat.ChatCompletionMessageFunctionToolCallParam)
    asked |= within("tools[].", chat.ChatCompletionFunctionToolParam)
    assert missing(openai_fields.CHAT, asked) == []


def test_every_field_of_openais_completions_is_there() -> None:
    asked = within("", text.completion_create_params.CompletionCreateParamsBase) | {"stream"}
    assert missing(openai_fields.COMPLETIONS, asked) == []


def test_every_field_of_openais_responses_is_there() -> None:
    items: tuple[Any, ...] = (
        responses.EasyInputMessageParam,
        responses.ResponseOutputMessageParam,
        responses.ResponseFunctionToolCallParam,
        responses.response_input_item_param.FunctionCallOutput,
        responses.ResponseReasoningItemParam,
    )
    asked = within("", responses.response_create_params.ResponseCreateParamsBase) | {"stream"}
    asked |= within("input[].", *items)
    asked |= within("tools[].", responses.FunctionToolParam)
    asked |= within("text.", responses.ResponseTextConfigParam) | within("reasoning.", Reasoning)
    asked |= within("text.format.", responses.ResponseFormatTextJSONSchemaConfigParam) - {"text.format.type"}
    assert missing(responses_fields.RESPONSES, asked) == []


def test_every_field_of_ollamas_chat_and_generate_is_there() -> None:
    def fields(model: Any, place: str = "") -> set[str]:
        known: Mapping[str, Any] = model.model_fields
        return {f"{place}{name}" for name in known}

    options = fields(ollama.Options, "options.")
    asked = fields(ollama._types.ChatRequest) | options | fields(ollama.Message, "messages[].")
    assert missing(ollama_fields.CHAT, asked | fields(ollama.Tool, "tools[].")) == []
    assert missing(ollama_fields.GENERATE, fields(ollama._types.GenerateRequest) | options) == []
