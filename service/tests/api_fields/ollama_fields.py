"""The fields of Ollama's chat and generate."""

from typing import Any

from athena.router.types import Dialect, Operation
from tests.api_fields.field import Field, Path
from tests.api_fields.openai_fields import PNG, SCHEMA, TOOL

CALL = {"id": "c1", "function": {"index": 1, "name": "weather", "arguments": {"in": "Oslo"}}}
_LOADS = (
    "without one, Ollama loads or unloads the model; of an engine that holds its model the proxy says that it is loaded"
)
_MEMORY = "how to run the model, which other engines know themselves"


def _option(name: str, value: Any, note: str = "", *, no_effect: str = "") -> Field:
    return Field(f"options.{name}", {"options": {name: value}}, note, no_effect=no_effect)


def _message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi", **fields}]}


def _called(**answer: Any) -> dict[str, Any]:
    tool = {"role": "tool", "content": "rain", **answer}
    return {"messages": [{"role": "assistant", "content": "", "tool_calls": [CALL]}, tool]}


_COMMON = (
    Field("model", {"model": "m"}, "an MLX server knows its one model as `default_model`", required=True),
    Field("stream", {"stream": False}, emulated="a stream of the engine is gathered to a whole reply"),
    Field("format", {"format": SCHEMA}, "a schema, or `json`"),
    Field("keep_alive", {"keep_alive": "5m"}, no_effect="other engines hold their model as long as they run"),
    Field("logprobs", {"logprobs": True}, "of Ollama from version 0.12.11"),
    Field("top_logprobs", {"top_logprobs": 2}, "of Ollama from version 0.12.11"),
    _option("temperature", 0.5),
    _option("num_predict", 5, "below 0, which is no limit: elsewhere the backend's `max_tokens`"),
    _option("top_p", 0.9),
    _option("top_k", 40, "above 256 refused for MLX"),
    _option("min_p", 0.1),
    _option("seed", 7),
    _option("stop", ["\n"]),
    _option("frequency_penalty", 0.5),
    _option("presence_penalty", 0.5),
    _option("repeat_penalty", 1.1),
    _option("repeat_last_n", 64),
    _option("typical_p", 0.5),
    _option("tfs_z", 0.5),
    _option("mirostat", 1),
    _option("mirostat_tau", 5.0),
    _option("mirostat_eta", 0.1),
    _option("penalize_newline", True),
    _option("logits_all", True),
    _option("embedding_only", True),
    *(
        _option(name, 1, no_effect=_MEMORY)
        for name in ("num_ctx", "num_batch", "num_gpu", "num_keep", "num_thread", "main_gpu")
    ),
    *(
        _option(name, True, no_effect=_MEMORY)
        for name in ("numa", "low_vram", "f16_kv", "vocab_only", "use_mmap", "use_mlock")
    ),
)

CHAT = Path(
    path="/api/chat",
    title="Ollama: chat",
    dialect=Dialect.OLLAMA,
    operation=Operation.CHAT,
    least={"model": "m", "messages": [{"role": "user", "content": "Hi"}]},
    fields=(
        Field("messages", {"messages": []}, _LOADS, required=True),
        Field("messages[].role", _message(role="user"), required=True),
        Field("messages[].content", _message(content="Hi"), required=True),
        Field("messages[].thinking", {"messages": [{"role": "assistant", "content": "", "thinking": "They greet."}]}),
        Field("messages[].images", _message(images=[PNG])),
        Field("messages[].tool_calls[].function", _called(tool_name="weather"), required=True),
        Field("messages[].tool_calls[].id", _called(tool_call_id="c1"), "of Ollama from version 0.13"),
        Field(
            "messages[].tool_calls[].function.index",
            _called(tool_name="weather"),
            no_effect="the order of the calls says the same",
        ),
        Field(
            "messages[].tool_name",
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [{"function": {"name": name, "arguments": {}}} for name in ("now", "weather")],
                    },
                    {"role": "tool", "content": "rain", "tool_name": "weather"},
                ]
            },
            "finds the call that is answered",
        ),
        Field("messages[].tool_call_id", _called(tool_call_id="c9"), "of Ollama from version 0.13"),
        Field("tools[].function", {"tools": [TOOL]}),
        Field("tools[].type", {"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "`function` is served"),
        Field("think", {"think": True}, "a level (`low`) becomes `reasoning_effort`"),
        *_COMMON,
        Field("(any other)", {"(any other)": 1}),
    ),
)

GENERATE = Path(
    path="/api/generate",
    title="Ollama: generate",
    dialect=Dialect.OLLAMA,
    operation=Operation.GENERATE,
    least={"model": "m", "prompt": "Once"},
    fields=(
        Field("prompt", {"prompt": "Once"}, _LOADS, required=True),
        Field("system", {"system": "Be brief."}, "put before the prompt where the engine is no Ollama"),
        Field("suffix", {"suffix": "The end."}, "an empty one is taken by every engine"),
        Field("images", {"images": [PNG]}),
        Field("template", {"template": "{{ .Prompt }}"}, "an empty one is taken by every engine"),
        Field("context", {"context": [1]}),
        Field("raw", {"raw": True}, "false is taken by every engine"),
        Field("think", {"think": True}, "false is taken by every engine"),
        Field("width", {"width": 8}),
        Field("height", {"height": 8}),
        Field("steps", {"steps": 1}),
        *_COMMON,
        Field("(any other)", {"(any other)": 1}),
    ),
)
