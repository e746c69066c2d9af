"""`athena ask`: one question to a model, straight through the router library."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from athena.cli.environment import load, log_to_standard_error
from athena.errors import NotFoundError

if TYPE_CHECKING:
    from athena.router.dispatch import OpenReply
    from athena.router.services import RouterServices
    from athena.router.types import Finish, Request
    from athena.settings import RouterSettings

REGISTRY_SECONDS = 5.0


def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    model: Annotated[str | None, typer.Option(help="The model; without it the registry's first enabled one.")] = None,
    system: Annotated[str | None, typer.Option(help="Instructions for the model.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of the answer at most.")] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Say on standard error who answered, and how fast.")] = False,
) -> None:
    """Print a model's answer as it arrives. Finding the first enabled model needs ADMIN_API_TOKEN."""
    import asyncio

    from athena.router.types import Message, Operation, Request, Sampling
    from athena.settings import RouterSettings

    messages = [Message(role="system", content=system)] if system is not None else []
    messages.append(Message(role="user", content=question))
    request = Request(
        operation=Operation.CHAT,
        model=model or "",
        stream=True,
        messages=messages,
        sampling=Sampling(max_tokens=max_tokens),
        include_usage=True,
    )
    log_to_standard_error()
    asyncio.run(_stream(load(RouterSettings), request, stats=stats))


async def _stream(settings: "RouterSettings", request: "Request", *, stats: bool) -> None:
    from athena.router.call import Call
    from athena.router.services import RouterServices
    from athena.router.types import Delta

    async with RouterServices(settings) as services:
        request.model = request.model or await _first_model(services)
        began = time.monotonic()
        reply = await services.dispatcher.open(Call.of(request))
        first = time.monotonic() - began
        try:
            async for event in reply.events():
                if isinstance(event, Delta):
                    typer.echo(event.text, nl=False)
                    continue
                typer.echo()
                if stats:
                    _report(request.model, reply, event, first=first, total=time.monotonic() - began)
        finally:
            reply.close()


async def _first_model(services: "RouterServices") -> str:
    from athena.router.models import first_enabled

    await services.configuration.wait_for_first_contact(REGISTRY_SECONDS)
    snapshot = services.configuration.snapshot
    if not snapshot.complete:
        raise NotFoundError("the registry's models are not known (is ADMIN_API_TOKEN set, and right?): name a --model")
    model = first_enabled(snapshot)
    if model is None:
        raise NotFoundError("no enabled backend in the registry: `athena backends add` makes one, or name a --model")
    return model


def _report(model: str, reply: "OpenReply", finish: "Finish", *, first: float, total: float) -> None:
    typer.echo(
        f"{model} by {reply.target.engine} at {reply.target.endpoint_url}: first token after {first:.2f} s,"
        f" {finish.usage.completion_tokens} tokens in {total:.2f} s, {reply.tokens_per_second:.1f} tokens/s",
        err=True,
    )
