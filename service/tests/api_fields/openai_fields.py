"""The fields of OpenAI's chat and legacy completions, and the extensions to them that its servers have in common."""

from typing import Any

from athena.router.types import Dialect, Operation
from tests.api_fields.field import Field, Path

PNG = "iVBORw0KGgoAAAANSUhEUg=="
FUNCTION = {"name": "weather", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"in": "Oslo"}'}}
SCHEMA = {"type": "object", "properties": {"sky": {"type": "string"}}}
NO_PROBABILITIES = "an MLX server tells none in a stream, and otherwise not those of what it wrote"
OF_NEWER_OLLAMAS = "an Ollama from before 0.12.11 drops it: its reply is then refused, or another engine asked"
BOOKS = "for the provider's books and caches; says nothing about the answer"


def _message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi", **fields}]}


def _answered(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "assistant", "content": "Hi", **fields}, {"role": "user", "content": "Go on"}]}


def _called(call: dict[str, Any], **answer: Any) -> dict[str, Any]:
    tool = {"role": "tool", "content": "rain", **answer}
    return {"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}, tool]}


def _part(**fields: Any) -> dict[str, Any]:
    return _message(content=[{"type": "text", "text": "Look"}, fields])


def _form(**fields: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, **fields}}}


_SAMPLING = (
    Field("model", {"model": "m"}, "an MLX server knows its one model as `default_model`", required=True),
    Field("stream", {"stream": False}, emulated="a stream of the engine is gathered to a whole reply"),
    Field(
        "stream_options.include_usage",
        {"stream": True, "stream_options": {"include_usage": True}},
        emulated="the counts of the engine's last line become the last chunk",
    ),
    Field("stream_options.include_obfuscation", {"stream": True, "stream_options": {"include_obfuscation": True}}),
    Field("temperature", {"temperature": 0.5}),
    Field("top_p", {"top_p": 0.9}),
    Field("max_tokens", {"max_tokens": 5}),
    Field("seed", {"seed": 7}),
    Field("stop", {"stop": ["\n"]}),
    Field("frequency_penalty", {"frequency_penalty": 0.5}),
    Field("presence_penalty", {"presence_penalty": 0.5}),
    Field("logit_bias", {"logit_bias": {"5": 1}}),
    Field("n", {"n": 2}, "1 is taken by every engine"),
    Field("user", {"user": "u"}, no_effect=BOOKS),
    Field("top_k", {"top_k": 40}, "an extension; above 256 refused for MLX"),
    Field("min_p", {"min_p": 0.1}, "an extension"),
    Field("repetition_penalty", {"repetition_penalty": 1.1}, "an extension"),
    Field("chat_template_kwargs", {"chat_template_kwargs": {"enable_thinking": False}}, "an extension"),
)

_FORMS = (
    Field("response_format", {"response_format": {"type": "json_object"}}),
    Field("response_format.json_schema.schema", _form(), required=True),
    Field("response_format.json_schema.name", _form(), no_effect="for OpenAI's own models"),
    Field("response_format.json_schema.description", _form(description="d"), no_effect="for OpenAI's own models"),
    Field(
        "response_format.json_schema.strict",
        _form(strict=True),
        no_effect="an engine that has the schema is held to it",
    ),
)

CHAT = Path(
    path="/v1/chat/completions",
    title="OpenAI: chat completions",
    dialect=Dialect.OPENAI,
    operation=Operation.CHAT,
    least={"model": "m", "messages": [{"role": "user", "content": "Hi"}]},
    fields=(
        *_SAMPLING,
        Field("max_completion_tokens", {"max_completion_tokens": 5}),
        Field("messages[].role", _message(role="developer"), "`developer` becomes `system`", required=True),
        Field("messages[].content", _message(content="Hi"), required=True),
        Field("messages[].content[].text", _part(type="text", text="here"), "joined by line ends"),
        Field(
            "messages[].content[].image_url.url",
            _part(type="image_url", image_url={"url": f"data:image/png;base64,{PNG}"}),
            "an image as a data URL; an address is refused, except where the engine itself is of this type",
            required=True,
        ),
        Field(
            "messages[].content[].image_url.detail",
            _part(type="image_url", image_url={"url": f"data:image/png;base64,{PNG}", "detail": "low"}),
            no_effect="the engine looks at an image in its own resolution",
        ),
        Field("messages[].content[].input_audio", _part(type="input_audio", input_audio={"data": "", "format": "wav"})),
        Field("messages[].content[].file", _part(type="file", file={"file_id": "f"})),
        Field(
            "messages[].content[].refusal",
            _answered(content=[{"type": "refusal", "refusal": "No"}]),
            "becomes the message's text",
        ),
        Field(
            "messages[].content[].prompt_cache_breakpoint",
            _part(type="text", text="here", prompt_cache_breakpoint={"mode": "explicit"}),
            no_effect=BOOKS,
        ),
        Field("messages[].name", _message(name="Ada"), "of a participant"),
        Field("messages[].refusal", _answered(content="", refusal="No"), "becomes the message's text"),
        Field("messages[].audio", _answered(audio={"id": "a"})),
        Field("messages[].function_call", _answered(function_call={"name": "f", "arguments": "{}"})),
        Field(
            "messages[].reasoning_content",
            _answered(reasoning_content="They greet."),
            "an extension; `reasoning` as well",
        ),
        Field("messages[].tool_calls[].function", _called(CALL, tool_call_id="c1"), required=True),
        Field("messages[].tool_calls[].id", _called(CALL, tool_call_id="c1")),
        Field("messages[].tool_calls[].type", _called({**CALL, "type": "custom"}), "`function` is served"),
        Field("messages[].tool_calls[].custom", _called({**CALL, "custom": {"name": "f", "input": "x"}})),
        Field("messages[].tool_call_id", _called(CALL, tool_call_id="c1"), "Ollama is told the tool's name as well"),
        Field("tools[].function", {"tools": [TOOL]}, "`strict` is passed on; MLX and Ollama do not hold to it"),
        Field("tools[].type", {"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "`function` is served"),
        Field(
            "tool_choice",
            {"tools": [TOOL], "tool_choice": "required"},
            "`auto` is taken by every engine; `none` as well: one that does not know it hears of no tools",
        ),
        Field("parallel_tool_calls", {"parallel_tool_calls": False}, emulated="of several calls the first is told"),
        Field("functions", {"functions": [FUNCTION]}, "replaced by `tools`"),
        Field("function_call", {"function_call": "auto"}, "replaced by `tool_choice`"),
        *_FORMS,
        Field(
            "reasoning_effort",
            {"reasoning_effort": "low"},
            "Ollama is told whether to think; how much most of its models fail over. `none`: not to think",
        ),
        Field("logprobs", {"logprobs": True}, f"{NO_PROBABILITIES}; {OF_NEWER_OLLAMAS}"),
        Field("top_logprobs", {"top_logprobs": 2}, f"{NO_PROBABILITIES}; {OF_NEWER_OLLAMAS}"),
        Field("verbosity", {"verbosity": "low"}, "`medium` is taken by every engine"),
        Field("modalities", {"modalities": ["text", "audio"]}, "text alone is taken by every engine"),
        Field("audio", {"audio": {"voice": "v", "format": "wav"}}),
        Field("prediction", {"prediction": {"type": "content", "content": "x"}}),
        Field("web_search_options", {"web_search_options": {"search_context_size": "low"}}),
        Field("moderation", {"moderation": {"model": "x"}}),
        Field("store", {"store": True}, "false is taken by every engine"),
        Field("service_tier", {"service_tier": "flex"}, "`auto` and `default` are taken by every engine"),
        Field("metadata", {"metadata": {"a": "b"}}, no_effect=BOOKS),
        Field("prompt_cache_key", {"prompt_cache_key": "k"}, no_effect=BOOKS),
        Field("prompt_cache_options", {"prompt_cache_options": {"mode": "implicit"}}, no_effect=BOOKS),
        Field("prompt_cache_retention", {"prompt_cache_retention": "24h"}, no_effect=BOOKS),
        Field("safety_identifier", {"safety_identifier": "s"}, no_effect=BOOKS),
        Field("(any other)", {"(any other)": 1}),
    ),
)

COMPLETIONS = Path(
    path="/v1/completions",
    title="OpenAI: legacy completions",
    dialect=Dialect.OPENAI,
    operation=Operation.GENERATE,
    least={"model": "m", "prompt": "Once"},
    fields=(
        *_SAMPLING,
        Field("prompt", {"prompt": "Once"}, "one text; lists of prompts and tokens are refused", required=True),
        Field("suffix", {"suffix": "The end."}),
        Field("echo", {"echo": True}),
        Field("best_of", {"best_of": 2}, "1 is taken by every engine"),
        Field("logprobs", {"logprobs": 2}, NO_PROBABILITIES),
        *_FORMS,
        Field("reasoning_effort", {"reasoning_effort": "low"}, "an extension"),
        Field("(any other)", {"(any other)": 1}),
    ),
)
