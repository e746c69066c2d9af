"""The table of intents: which there are, which model answers each, and in which mode they are allowed."""

import tomllib
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from athena.errors import AthenaError

PLACEHOLDER = "{intents}"
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Model = Annotated[str, Field(min_length=1, max_length=255)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Tokens = Annotated[int, Field(ge=1, le=1_000_000)]


class IntentTableError(AthenaError):
    """The table of intents cannot be read or contradicts itself; the message names the file and the entries."""

    title = "Wrong table of intents"
    code = "wrong_intents"


class Mode(StrEnum):
    """Who asks: the owner of the installation, or a guest."""

    OWNER = "owner"
    GUEST = "guest"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Classifier(_Table):
    """How the intent of a query is found out."""

    model: Model
    system: str
    temperature: Temperature = 0.0
    max_tokens: Tokens = 12

    @model_validator(mode="after")
    def _lists_the_intents(self) -> "Classifier":
        if PLACEHOLDER not in self.system:
            raise ValueError(f"system must hold {PLACEHOLDER}, which becomes the list of intents")
        return self


class Intent(_Table):
    """How one kind of query is answered; None leaves a value to the backend."""

    description: Annotated[str, Field(min_length=1)]
    model: Model
    system: str | None = None
    temperature: Temperature | None = None
    max_tokens: Tokens | None = None


class ConversationLimits(_Table):
    """How much of a conversation is kept, and for how long after its last turn."""

    turns: Annotated[int, Field(ge=1, le=100)] = 6
    ttl_seconds: Annotated[int, Field(ge=1)] = 3600
    in_memory: Annotated[int, Field(ge=1)] = 1000


class IntentTable(_Table):
    """The whole table."""

    default_intent: Name
    default_model: Model
    classifier: Classifier
    conversations: ConversationLimits = ConversationLimits()
    modes: dict[Mode, Annotated[list[Name], Field(min_length=1)]]
    intents: dict[Name, Intent]

    @model_validator(mode="after")
    def _fits_together(self) -> "IntentTable":
        for mode in Mode:
            allowed = self.modes.get(mode)
            if allowed is None:
                raise ValueError(f"modes.{mode} is missing")
            unknown = [name for name in allowed if name not in self.intents]
            if unknown:
                raise ValueError(f"modes.{mode} names {', '.join(unknown)}, which [intents] does not have")
            if self.default_intent not in allowed:
                raise ValueError(f"modes.{mode} must allow {self.default_intent}, the default_intent")
        return self

    def instructions(self, mode: Mode) -> str:
        """Return what the classifier is told for this mode."""
        lines = "\n".join(f"{name}: {self.intents[name].description}" for name in self.modes[mode])
        return self.classifier.system.replace(PLACEHOLDER, lines).strip()


def load(path: Path | None) -> IntentTable:
    """Return the table of this file, or the one that comes with the package; raises IntentTableError."""
    try:
        text = path.read_text() if path is not None else files(__package__).joinpath("intents.toml").read_text()
        return IntentTable.model_validate(tomllib.loads(text))
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'the table'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_url=False)
        ]
        raise IntentTableError(f"{path or 'intents.toml'}: {'; '.join(faults)}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise IntentTableError(f"{path or 'intents.toml'}: {error}") from None
