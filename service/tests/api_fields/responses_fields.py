"""The fields of OpenAI's Responses API, which becomes a chat for every engine."""

from typing import Any

from athena.router.types import Dialect, Operation
from tests.api_fields.field import Field, Path
from tests.api_fields.openai_fields import BOOKS, PNG, SCHEMA

_TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "description": "d", "strict": True}
_CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": '{"in": "Oslo"}'}
_REPEATED = "a client sends back what it was given; it says nothing new"


def _message(**fields: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": "Hi", **fields}]}


def _part(**fields: Any) -> dict[str, Any]:
    return _message(content=[{"type": "input_text", "text": "Look"}, fields])


def _called(**answer: Any) -> dict[str, Any]:
    return {"input": [_CALL, {"type": "function_call_output", "call_id": "c1", "output": "rain", **answer}]}


def _thought(**fields: Any) -> dict[str, Any]:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], **fields}
    return {"input": [thought, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Go on"}]}


def _form(**fields: Any) -> dict[str, Any]:
    return {"text": {"format": {"type": "json_schema", "name": "s", "schema": SCHEMA, **fields}}}


RESPONSES = Path(
    path="/v1/responses",
    title="OpenAI: responses",
    dialect=Dialect.RESPONSES,
    operation=Operation.CHAT,
    least={"model": "m", "input": "Hi"},
    fields=(
        Field("model", {"model": "m"}, "an MLX server knows its one model as `default_model`", required=True),
        Field("input", {"input": "Hi"}, "text, or items", required=True),
        Field("input[].role", _message(role="developer"), "`developer` becomes `system`", required=True),
        Field("input[].content", _message(content="Hi"), required=True),
        Field("input[].content[].text", _part(type="input_text", text="here"), "joined by line ends"),
        Field(
            "input[].content[].image_url",
            _part(type="input_image", image_url=f"data:image/png;base64,{PNG}"),
            "an image as a data URL; an address is refused",
            required=True,
        ),
        Field(
            "input[].content[].detail",
            _part(type="input_image", image_url=f"data:image/png;base64,{PNG}", detail="low"),
            no_effect="the engine looks at an image in its own resolution",
        ),
        Field("input[].content[].file_id", _part(type="input_image", file_id="f")),
        Field("input[].content[].file_data", _part(type="input_file", file_data="x")),
        Field(
            "input[].content[].prompt_cache_breakpoint",
            _part(type="input_text", text="here", prompt_cache_breakpoint={"mode": "explicit"}),
            no_effect=BOOKS,
        ),
        Field(
            "input[].type",
            {"input": [{"type": "item_reference", "id": "msg_1"}]},
            "messages, calls of functions, their outputs and reasoning are served",
        ),
        Field("input[].id", _called(), no_effect=_REPEATED),
        Field("input[].status", _message(status="completed"), no_effect=_REPEATED),
        Field("input[].phase", _message(role="assistant", phase="final_answer"), no_effect=_REPEATED),
        Field("input[].call_id", _called(), required=True),
        Field("input[].name", _called(), "of a function", required=True),
        Field("input[].arguments", _called(), required=True),
        Field("input[].output", _called(), required=True),
        Field("input[].async", {"input": [{**_CALL, "async": True}]}),
        Field("input[].caller", {"input": [{**_CALL, "caller": {"type": "direct"}}]}),
        Field("input[].namespace", {"input": [{**_CALL, "namespace": "n"}]}),
        Field("input[].summary", _thought(summary=[{"type": "summary_text", "text": "Hm."}])),
        Field("input[].encrypted_content", _thought(encrypted_content="gAAA"), "only OpenAI can read it"),
        Field("instructions", {"instructions": "Be brief."}, "the first message, of the system"),
        Field("tools[].name", {"tools": [_TOOL]}, required=True),
        Field("tools[].description", {"tools": [_TOOL]}),
        Field("tools[].parameters", {"tools": [_TOOL]}),
        Field("tools[].strict", {"tools": [_TOOL]}, "MLX and Ollama do not hold to it"),
        Field("tools[].async", {"tools": [{**_TOOL, "async": True}]}),
        Field("tools[].defer_loading", {"tools": [{**_TOOL, "defer_loading": True}]}),
        Field("tools[].allowed_callers", {"tools": [{**_TOOL, "allowed_callers": ["direct"]}]}),
        Field("tools[].output_schema", {"tools": [{**_TOOL, "output_schema": SCHEMA}]}),
        Field("tools[].type", {"tools": [{"type": "web_search"}]}, "`function` is served"),
        Field(
            "tool_choice",
            {"tools": [_TOOL], "tool_choice": {"type": "function", "name": "weather"}},
            "`auto` is taken by every engine; `none` as well: one that does not know it hears of no tools",
        ),
        Field("parallel_tool_calls", {"parallel_tool_calls": False}, emulated="of several calls the first is told"),
        Field("max_tool_calls", {"max_tool_calls": 2}, no_effect="of built-in tools, which are refused"),
        Field("text.format", {"text": {"format": {"type": "json_object"}}}),
        Field("text.format.schema", _form(), required=True),
        Field("text.format.name", _form(), no_effect="for OpenAI's own models"),
        Field("text.format.description", _form(description="d"), no_effect="for OpenAI's own models"),
        Field("text.format.strict", _form(strict=True), no_effect="an engine that has the schema is held to it"),
        Field("text.verbosity", {"text": {"verbosity": "low"}}, "`medium` is taken by every engine"),
        Field("reasoning.effort", {"reasoning": {"effort": "low"}}, "as `reasoning_effort` of chat"),
        Field("reasoning.summary", {"reasoning": {"summary": "auto"}}, no_effect="the reasoning text itself is told"),
        Field(
            "reasoning.generate_summary",
            {"reasoning": {"generate_summary": "auto"}},
            no_effect="the reasoning text itself is told",
        ),
        Field("reasoning.context", {"reasoning": {"context": "all_turns"}}, "`auto` is taken by every engine"),
        Field("reasoning.mode", {"reasoning": {"mode": "pro"}}, "`standard` is taken by every engine"),
        Field("max_output_tokens", {"max_output_tokens": 20}),
        Field("temperature", {"temperature": 0.5}),
        Field("top_p", {"top_p": 0.9}),
        Field("top_logprobs", {"top_logprobs": 2}),
        Field("stream", {"stream": False}, emulated="a stream of the engine is gathered to a whole reply"),
        Field("stream_options.include_obfuscation", {"stream": True, "stream_options": {"include_obfuscation": True}}),
        Field(
            "include",
            {"include": ["message.output_text.logprobs"]},
            "`reasoning.encrypted_content` is taken by every engine: the text itself is told",
        ),
        Field("truncation", {"truncation": "auto"}, "`disabled` is taken by every engine"),
        Field("store", {"store": True}, "nothing is kept here; false is taken by every engine"),
        Field("previous_response_id", {"previous_response_id": "resp_1"}, "nothing is kept here"),
        Field("conversation", {"conversation": "conv_1"}, "nothing is kept here"),
        Field("background", {"background": True}, "nothing is kept here"),
        Field("prompt", {"prompt": {"id": "p"}}, "nothing is kept here"),
        Field("context_management", {"context_management": [{"type": "compaction"}]}),
        Field("moderation", {"moderation": {"model": "x"}}),
        Field("image", {"image": {"context_compression": "enabled"}}),
        Field("access_programs", {"access_programs": {"cyber": "standard"}}),
        Field("service_tier", {"service_tier": "flex"}, "`auto` and `default` are taken by every engine"),
        Field("metadata", {"metadata": {"a": "b"}}, emulated="the response repeats it"),
        Field("user", {"user": "u"}, emulated="the response repeats it"),
        Field("prompt_cache_key", {"prompt_cache_key": "k"}, no_effect=BOOKS),
        Field("prompt_cache_options", {"prompt_cache_options": {"mode": "implicit"}}, no_effect=BOOKS),
        Field("prompt_cache_retention", {"prompt_cache_retention": "24h"}, no_effect=BOOKS),
        Field("safety_identifier", {"safety_identifier": "s"}, no_effect=BOOKS),
        Field("(any other)", {"(any other)": 1}),
    ),
)
