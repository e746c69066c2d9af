"""`athena verify`: a real question to every engine that the registry knows, fallbacks included."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from athena.cli.environment import load, log_to_standard_error
from athena.cli.words import columns, one_line, without_credentials
from athena.errors import NotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from athena.router.types import Backend
    from athena.router.verification import Candidate, Verdict
    from athena.settings import RouterSettings

UNHEALTHY = 8
ANSWER_LENGTH = 60
HEADER = ("MODEL", "ENGINE", "ENDPOINT", "PLACE", "RESULT", "TOKENS", "TOKENS/S", "SECONDS", "ANSWER")


def verify(
    *,
    question: Annotated[str, typer.Option(help="What to ask.")] = "What is 2+2?",
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 32,
    timeout: Annotated[
        int | None, typer.Option(min=1, help="Seconds for a whole answer; without it as the backend says.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this model; may be given several times.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    token_file: Annotated[Path | None, typer.Option(help="A file with the token, in place of ADMIN_API_TOKEN.")] = None,
) -> None:
    """Ask every engine of every enabled backend a real question, each by itself, and show what each answered.

    An `auto` backend is two: its MLX, and as the fallback the default Ollama of OLLAMA_URL, if there is one. Ends
    with 8 where one did not generate, with 1 where the registry cannot be read or is empty. Needs ADMIN_API_URL and
    ADMIN_API_TOKEN.
    """
    import asyncio

    from athena.router.verification import Question
    from athena.router.verification import verify as ask_each
    from athena.settings import RouterSettings

    log_to_standard_error(warnings=False)
    settings = load(RouterSettings)
    engines = _engines(settings, token_file, model or [])
    asked = Question(text=question, max_tokens=max_tokens, timeout_seconds=timeout)
    verdicts = asyncio.run(ask_each(settings, engines, asked))
    for verdict in verdicts:
        verdict.endpoint_url = without_credentials(verdict.endpoint_url)
        verdict.error = without_credentials(verdict.error) if verdict.error is not None else None
    _show(verdicts, as_json=as_json)
    if not all(verdict.passed for verdict in verdicts):
        raise typer.Exit(UNHEALTHY)


def _engines(settings: "RouterSettings", token_file: Path | None, models: "Sequence[str]") -> "list[Candidate]":
    from athena.router.verification import candidates

    routes = _routes(settings, token_file)
    if not routes:
        raise NotFoundError("the registry is empty: `athena backends add` or `athena backends declare` fills it")
    engines = []
    for name in dict.fromkeys(models or sorted(routes)):
        found = candidates(name, routes.get(name, ()), ollama_url=settings.ollama_url)
        if models and not found:
            raise NotFoundError(f"the registry has no enabled backend of the model {name}; it has {_known(routes)}")
        engines += found
    if not engines:
        raise NotFoundError("every backend of the registry is disabled: `athena backends toggle ID` enables one")
    return engines


def _routes(settings: "RouterSettings", token_file: Path | None) -> "Mapping[str, tuple[Backend, ...]]":
    import msgspec

    from athena.cli.registry_client import RegistryClient
    from athena.router.source import by_model
    from athena.router.types import Backend

    try:
        return by_model(msgspec.convert(RegistryClient(settings, token_file).list(), list[Backend]))
    except msgspec.ValidationError as error:
        raise UnavailableError(f"the Admin API's answer is not understood: {error}") from None


def _known(routes: "Mapping[str, Sequence[Backend]]") -> str:
    enabled = [model for model, backends in routes.items() if any(backend.enabled for backend in backends)]
    return f"those of {', '.join(sorted(enabled))}" if enabled else "none that is enabled"


def _show(verdicts: "Sequence[Verdict]", *, as_json: bool) -> None:
    if as_json:
        import msgspec

        typer.echo(json.dumps(msgspec.to_builtins(verdicts), indent=2))
        return
    for line in columns([HEADER, *(_line(verdict) for verdict in verdicts)]):
        typer.echo(line)
    for verdict in verdicts:
        if verdict.error is not None:
            where = f"{verdict.engine} at {verdict.endpoint_url} ({verdict.place} of {one_line(verdict.model)})"
            typer.echo(f"error: {where}: {one_line(verdict.error)}", err=True)


def _line(verdict: "Verdict") -> tuple[str, ...]:
    speed, tokens = verdict.tokens_per_second, verdict.completion_tokens
    return (
        one_line(verdict.model),
        verdict.engine,
        verdict.endpoint_url,
        verdict.place,
        "answered" if verdict.passed else "failed",
        "-" if tokens is None else str(tokens),
        "-" if speed is None else f"{speed:.1f}",
        f"{verdict.seconds:.1f}",
        one_line(verdict.answer, ANSWER_LENGTH) if verdict.passed else one_line(verdict.error or ""),
    )
