"""The router as a library: ask a model by its name, and whichever engine serves it answers."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Literal, Self, overload
from weakref import WeakKeyDictionary

import msgspec

from athena.observability import identity, logs
from athena.router.call import Call
from athena.router.dispatch import OpenReply
from athena.router.errors import RequestRejectedError
from athena.router.services import RouterServices
from athena.router.types import Delta, Event, Finish, Message, Operation, Request, Sampling, ToolCall
from athena.settings import RouterSettings

Loop = asyncio.AbstractEventLoop


class _PerLoop:
    """What a router has in one event loop."""

    def __init__(self) -> None:
        self.starting = asyncio.Lock()
        self.services: RouterServices | None = None
        self.lifetime: AsyncGenerator[RouterServices] | None = None


class LLMRouter:
    """Answers prompts and conversations through the engines that the Admin API names for a model.

    Connections belong to an event loop: they are made at the first call in a loop, and closed by `close()` or with the
    loop. Settings come from the environment unless they are handed in. Log records go to the program's own logging.

    `generate` and `chat` return a dict: `response` (the text), `backend` (the engine type that answered), `model`,
    `endpoint`, `prompt_tokens`, `completion_tokens`, `tokens_per_second`, `latency_ms` (until the whole reply),
    `finish_reason` (`stop`, `length`, `tool_calls` or `content_filter`), and `thinking` where the model showed it.

    All three raise RequestRejectedError where the request is at fault, and NoBackendError where no engine answered
    (its subclass ModelNotFoundError where none has the model).
    """

    def __init__(self, settings: RouterSettings | None = None) -> None:
        logs.leave_to_the_program()
        self._settings = settings
        self._loops: WeakKeyDictionary[Loop, _PerLoop] = WeakKeyDictionary()

    async def generate(
        self,
        *,
        model: str,
        prompt: str,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system: str | None = None,
        **sampling: Any,
    ) -> dict[str, Any]:
        """Return the continuation of a prompt.

        `sampling` takes `top_p`, `top_k`, `min_p`, `seed`, `stop`, the penalties, `response_schema` ({} for any JSON),
        `tools`, and as `extra` a dict of fields that only some engines know, such as
        `{"options": {"num_ctx": 8192}, "keep_alive": "10m"}`; what is not given has the backend's default.
        """
        request = _request(
            model, prompt=prompt, system=system, temperature=temperature, max_tokens=max_tokens, more=sampling
        )
        return await self._answer(request)

    async def chat(
        self,
        *,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        temperature: float | None = None,
        max_tokens: int | None = None,
        **sampling: Any,
    ) -> dict[str, Any]:
        """Return the answer to a conversation; besides, `message` is it as the next turn, tool calls included.

        A message has `role` and `content`, and may have `images` (base64), `tool_calls`, `tool_call_id`, `tool_name`.
        """
        request = _request(model, messages=messages, temperature=temperature, max_tokens=max_tokens, more=sampling)
        return await self._answer(request)

    @overload
    def stream(self, *, model: str, events: Literal[False] = False, **arguments: Any) -> AsyncGenerator[str]: ...

    @overload
    def stream(self, *, model: str, events: Literal[True], **arguments: Any) -> AsyncGenerator[Event]: ...

    async def stream(
        self,
        *,
        model: str,
        prompt: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system: str | None = None,
        events: bool = False,
        **sampling: Any,
    ) -> AsyncGenerator[Any]:
        """Yield the answer to `prompt` or to `messages` piece by piece as text, or as events with `events=True`.

        The arguments are those of `generate` or `chat`. The last event is a Finish, with the token counts. Raises
        StreamBrokenError where the engine breaks off after the first piece. Closing the iterator stops the engine.
        """
        request = _request(
            model,
            prompt=prompt,
            messages=messages,
            system=system,
            temperature=temperature,
            max_tokens=max_tokens,
            more=sampling,
        )
        request.stream = True
        reply = await self._open(request)
        try:
            async for event in reply.events():
                if events:
                    yield event
                elif isinstance(event, Delta) and event.text:
                    yield event.text
        finally:
            reply.close()

    async def services(self) -> RouterServices:
        """Return the parts that serve the running event loop."""
        loop = asyncio.get_running_loop()
        here = self._loops.get(loop)
        if here is None:
            here = self._loops[loop] = _PerLoop()
        if here.services is None:
            async with here.starting:
                if here.services is None:
                    # asyncio closes a loop's asynchronous generators before the loop, and so these services as well.
                    here.lifetime = self._live(here)
                    here.services = await anext(here.lifetime)
        return here.services

    async def close(self) -> None:
        """Report the last figures and close the connections of the running event loop; a later call makes new ones."""
        here = self._loops.get(asyncio.get_running_loop())
        if here is not None and here.lifetime is not None:
            await here.lifetime.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _live(self, here: "_PerLoop") -> AsyncGenerator[RouterServices]:
        try:
            async with RouterServices(self._settings or RouterSettings()) as services:
                yield services
        finally:
            here.services = None

    async def _open(self, request: Request) -> OpenReply:
        call = Call.of(request)
        call.request_id = identity.current()
        return await (await self.services()).dispatcher.open(call)

    async def _answer(self, request: Request) -> dict[str, Any]:
        reply = await self._open(request)
        try:
            return _result(request, reply, [event async for event in reply.events()])
        finally:
            reply.close()


def _request(
    model: str,
    *,
    prompt: str | None = None,
    messages: Sequence[Mapping[str, Any]] | None = None,
    system: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    more: dict[str, Any],
) -> Request:
    if (prompt is None) == (messages is None):
        raise RequestRejectedError("Give either a prompt or messages.", field="prompt")
    own = {name: more.pop(name) for name in ("tools", "response_schema", "extra") if name in more}
    unknown = more.keys() - set(Sampling.__struct_fields__)
    if unknown:
        raise RequestRejectedError(f"There is no sampling parameter {', '.join(sorted(unknown))}.", field=min(unknown))
    try:
        return Request(
            operation=Operation.GENERATE if messages is None else Operation.CHAT,
            model=model,
            prompt=prompt or "",
            system=system,
            messages=msgspec.convert(list(messages or ()), list[Message]),
            sampling=msgspec.convert({"temperature": temperature, "max_tokens": max_tokens, **more}, Sampling),
            **own,
        )
    except msgspec.ValidationError as error:
        raise RequestRejectedError(str(error)) from error


def _result(request: Request, reply: OpenReply, events: Sequence[Event]) -> dict[str, Any]:
    deltas = [event for event in events if isinstance(event, Delta)]
    text = "".join(delta.text for delta in deltas)
    thinking = "".join(delta.thinking for delta in deltas)
    calls = [call for delta in deltas for call in delta.tool_calls]
    finish = next(event for event in reversed(events) if isinstance(event, Finish))
    usage = finish.usage
    result: dict[str, Any] = {
        "response": text,
        "backend": reply.target.engine.value,
        "model": request.model,
        "endpoint": reply.target.endpoint_url,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "tokens_per_second": round(reply.tokens_per_second, 2),
        "latency_ms": round(reply.seconds * 1000, 2),
        "finish_reason": finish.reason,
    }
    if thinking:
        result["thinking"] = thinking
    if request.operation is Operation.CHAT:
        result["message"] = _message(text, thinking, calls)
    return result


def _message(text: str, thinking: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = [msgspec.to_builtins(call) for call in calls]
    return message


_shared: list[LLMRouter] = []
_shared_lock = threading.Lock()


def get_llm_router() -> LLMRouter:
    """Return the one router of this process, made at the first call, with settings from the environment."""
    with _shared_lock:
        if not _shared:
            _shared.append(LLMRouter())
        return _shared[0]
