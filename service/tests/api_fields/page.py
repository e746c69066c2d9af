"""The page of the docs that shows what becomes of each field, made from what is seen."""

from collections.abc import Iterable

from athena.router.engines import ENGINES
from tests.api_fields import embeddings_fields, ollama_fields, openai_fields, responses_fields
from tests.api_fields.field import Field, Handling, Path, handling

PATHS = (
    openai_fields.CHAT,
    openai_fields.COMPLETIONS,
    responses_fields.RESPONSES,
    ollama_fields.CHAT,
    ollama_fields.GENERATE,
    embeddings_fields.OPENAI,
    embeddings_fields.OLLAMA,
    embeddings_fields.OLLAMA_ONE,
)
_HEAD = """# What becomes of each field

Made by `cd service && python -m tests.api_fields` from what the tests see; change it there.

Each field of a request is rendered for each engine type, alone, with one value. `auto` is `mlx`, then `ollama`.

| word | meaning |
| --- | --- |
| passed | the engine hears it as the caller said it; what it makes of it is its own affair |
| translated | the engine hears it in its own words |
| emulated | the proxy itself does it |
| refused | the request does not go to this engine; where no backend of the model can serve it, 422 names the field |
| no effect | the engine does not hear of it, and nothing of the answer depends on it |
"""


def page() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *(_section(path) for path in PATHS)])


def _section(path: Path) -> str:
    engines = list(ENGINES)
    head = [f"## {path.title}", "", f"`POST {path.path}`", "", f"| field | {' | '.join(engines)} | |"]
    return "\n".join([*head, f"| --- | {'--- | ' * len(engines)}--- |", *_rows(path), ""])


def _rows(path: Path) -> Iterable[str]:
    for field in path.fields:
        seen = [handling(path, field, engine) for engine in ENGINES]
        name = field.place if field.place.startswith("(") else f"`{field.place}`"
        yield f"| {name} | {' | '.join(seen)} | {_said_of(field, seen)} |"


def _said_of(field: Field, seen: list[Handling]) -> str:
    """Return the note, and the reasons for what is seen."""
    said = [field.note]
    if Handling.EMULATED in seen:
        said.append(f"emulated: {field.emulated}")
    if Handling.NO_EFFECT in seen:
        said.append(f"no effect: {field.no_effect}")
    return "; ".join(part for part in said if part)
