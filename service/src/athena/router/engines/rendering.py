"""What rendering a call has in common for all engines: defaults, needs that must not be dropped, error answers."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

import msgspec

from athena.router.body import Body, with_beginning
from athena.router.dialects.decoding import BAD_JSON
from athena.router.dialects.openai_replies import error_message
from athena.router.errors import BackendError, FailureKind, RequestRejectedError
from athena.router.types import Backend, Request

# Fields of either dialect that do not change what the answer says, or are set to what holds without them.
_WITHOUT_EFFECT = frozenset(
    {
        "keep_alive", "max_tool_calls", "metadata", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "safety_identifier", "user",
    }
)  # fmt: skip
_NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "background": (False,),
    "echo": (False,),
    "include": ([], ["reasoning.encrypted_content"]),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (True,),
    "raw": (False,),
    "reasoning.context": ("auto",),
    "reasoning.mode": ("standard",),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "text.verbosity": ("medium",),
    "think": (False,),
    "tool_choice": ("auto",),
    "top_logprobs": (0,),
    "truncate": (False,),
    "truncation": ("disabled",),
    "verbosity": ("medium",),
}
# Options of Ollama that say how to run the model, not what to answer.
_RUNTIME_OPTIONS = frozenset(
    {
        "f16_kv", "low_vram", "main_gpu", "num_batch", "num_ctx", "num_gpu", "num_keep", "num_thread", "numa",
        "use_mlock", "use_mmap", "vocab_only",
    }
)  # fmt: skip
_encode: Final = msgspec.json.encode
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_REJECTING = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY})


def with_defaults(request: Request, backend: Backend, *, model: str | None = None) -> Request:
    """Return the request as a stream, with the backend's defaults where the caller said nothing.

    A backend's `max_tokens` is a default, not a bound: a caller that asks for more gets more. So it is where a body is
    passed through.
    """
    said = request.sampling
    sampling = msgspec.structs.replace(
        said,
        temperature=backend.temperature_default if said.temperature is None else said.temperature,
        max_tokens=backend.max_tokens if said.max_tokens is None else said.max_tokens,
    )
    return msgspec.structs.replace(
        request, model=model or request.model, stream=True, include_usage=True, sampling=sampling
    )


def refuse_ignored(request: Request, engine: str, *, known: Iterable[str] = ()) -> None:
    """Raise BackendError(UNSUITABLE) where the caller asked for something that the engine would silently ignore.

    `known` names the extra fields that the engine does take.
    """
    taken = frozenset(known)
    ignored = [
        name
        for name, value in request.extra.items()
        if name not in taken and name not in _WITHOUT_EFFECT and name != "options"
        # By type as well: False is no 0 and True no 1.
        and not any(value == neutral and type(value) is type(neutral) for neutral in _NEUTRAL_VALUES.get(name, ()))
    ]  # fmt: skip
    if "options" not in taken:
        ignored += [f"options.{name}" for name in request.extra.get("options", {}) if name not in _RUNTIME_OPTIONS]
    if ignored:
        ignored.sort()
        raise unsuitable(f"{engine} would ignore {', '.join(ignored)}", field=ignored[0])


def with_choice(request: Request) -> Request:
    """Return the request for an engine that knows no `tool_choice`: where no tool is to be called it hears of none."""
    if request.extra.get("tool_choice") != "none":
        return request
    extra = {name: value for name, value in request.extra.items() if name != "tool_choice"}
    return msgspec.structs.replace(request, tools=[], extra=extra)


def effort_of(request: Request) -> bool | str | None:
    """Return whether the caller wants the model to think, or how much; None where it does not say.

    It says so in Ollama's way (`think`) or in OpenAI's (`reasoning_effort`, of which "none" is False). Raises
    RequestRejectedError where it is no way that is known.
    """
    think = request.extra.get("think")
    if isinstance(think, bool):
        return think
    name = "think" if think is not None else "reasoning_effort"
    effort = request.extra.get(name)
    if effort is not None and effort not in _EFFORTS:
        raise RequestRejectedError(f"{name}: must be one of {', '.join(_EFFORTS)}", field=name)
    return False if effort == "none" else effort


def template_arguments(request: Request) -> dict[str, Any]:
    """Return what a chat template is told: what the caller says itself, before how much the model should think.

    The latter goes by the names that the templates of Qwen, GLM, gpt-oss, … look for.
    """
    said = request.extra.get("chat_template_kwargs", {})
    if not isinstance(said, dict):
        raise RequestRejectedError("chat_template_kwargs: Expected `object`", field="chat_template_kwargs")
    effort = effort_of(request)
    if effort is None:
        return said
    level = {"reasoning_effort": effort} if isinstance(effort, str) else {}
    return {"enable_thinking": bool(effort), **level, **said}


def unsuitable(detail: str, *, field: str | None = None) -> BackendError:
    """Return the error of an engine to which a call is not even sent; `field` is what it would ignore, if it is one."""
    return BackendError(FailureKind.UNSUITABLE, detail, field=field)


def splice(body: bytes, fields: dict[str, Any]) -> Body:
    """Return the JSON object `body`, which has at least one field, with these put before its first."""
    if not fields:
        return body, None
    brace = body.index(b"{") + 1
    return with_beginning(body, brace, body[:brace] + _encode(fields)[1:-1] + b",")


def failure(status: int, body: bytes) -> BackendError | None:
    """Return what an answer other than 200 means where the engine uses HTTP statuses as they are meant."""
    if status == HTTPStatus.OK:
        return None
    kind = FailureKind.REJECTED if status in _REJECTING else FailureKind.STATUS
    message = message_of(status, body)
    if status == HTTPStatus.BAD_REQUEST and "does not support" in message:
        kind = FailureKind.UNSUITABLE  # the model lacks tools, thinking or chat: that of another backend may have them
    return BackendError(kind, message, upstream_status=status, own_words=f"status {status}")


def message_of(status: int, body: bytes) -> str:
    """Return the engine's own words, at most 500 characters of them."""
    try:
        answer = msgspec.json.decode(body)
    except BAD_JSON:
        answer = body.decode(errors="replace").strip()
    if isinstance(answer, dict):
        answer = error_message(answer.get("error") or answer.get("detail") or answer.get("message") or answer)
    return f"status {status}: {answer}"[:500] if answer else f"status {status} without a word"
