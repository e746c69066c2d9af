"""The file that declares the engines of a host, and the limits within which they may be started anew."""

import json
import socket
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from athena.errors import AthenaError
from athena.host_report import HOST_NAME
from athena.router.types import BackendType
from athena.settings import Url

_LABEL = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,199}$"  # nothing that a program could take for an option


class ConfigurationError(AthenaError):
    """The agent's configuration does not hold; the message names the file, the field and what belongs there."""

    title = "Agent configuration unusable"
    code = "agent_configuration_unusable"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _without_credentials(url: str) -> str:
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ValueError("must not hold a user or a password; everybody who may read the reports would see them")
    return url


class LaunchdJob(_Section):
    """A job of launchd. `domain` is `system` for a daemon, `gui/UID` or `user/UID` for an agent of that user.

    With `sudo` the job is started anew by `sudo -n`, for an agent that is not root; sudoers must allow it.
    """

    manager: Literal["launchd"]
    label: Annotated[str, Field(pattern=_LABEL)]
    domain: Annotated[str, Field(pattern=r"^(system|(gui|user)/[0-9]{1,10})$")] = "system"
    sudo: bool = False


class SystemdJob(_Section):
    """A unit of systemd, of the system's manager or of the user's that the agent runs as."""

    manager: Literal["systemd"]
    unit: Annotated[str, Field(pattern=_LABEL)]
    scope: Literal["system", "user"] = "system"
    sudo: bool = False


Job = Annotated[LaunchdJob | SystemdJob, Field(discriminator="manager")]
Kind = Literal[BackendType.MLX, BackendType.OLLAMA, BackendType.OPENAI]


class EngineConfig(_Section):
    """One engine of this host. All times are in seconds.

    `deadline_seconds` is how long a token may take; after `hung_after` probes in a row without one the engine counts as
    hung. `grace_seconds` is how long it may take to start, and `patience_seconds` how long an engine that is at work
    for others may owe the probe its token. An engine without a `job` is watched and never started anew.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    kind: Kind
    url: Annotated[Url, AfterValidator(_without_credentials)]
    model: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
    job: Job | None = None
    interval_seconds: Annotated[float, Field(gt=0, le=3600)] = 15.0
    deadline_seconds: Annotated[float, Field(gt=0, le=600)] = 10.0
    hung_after: Annotated[int, Field(ge=1, le=20)] = 3
    grace_seconds: Annotated[float, Field(ge=0, le=7200)] = 300.0
    patience_seconds: Annotated[float, Field(gt=0, le=86400)] = 900.0

    @model_validator(mode="after")
    def _patience_is_longer_than_the_deadline(self) -> Self:
        if self.patience_seconds < self.deadline_seconds:
            raise ValueError("patience_seconds: must be at least deadline_seconds")
        return self

    @property
    def port(self) -> int:
        """The port that the engine listens on."""
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)


class RestartLimits(_Section):
    """How often an engine is started anew: at most `most` times in `window_seconds`, and then not until it recovers.

    The first pause between two restarts is `pause_seconds`, each further one twice as long. The service manager gets
    `timeout_seconds` for its work.
    """

    most: Annotated[int, Field(ge=1, le=20)] = 3
    window_seconds: Annotated[float, Field(gt=0, le=86400)] = 3600.0
    pause_seconds: Annotated[float, Field(ge=0, le=3600)] = 60.0
    timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 120.0


def _is_absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path, such as /")
    return path


class AgentConfig(_Section):
    """The engines of this host. `host` is the name that it is reported under; `disk` a folder of the file system whose
    free space matters, such as the one that holds the models.
    """

    host: Annotated[str, Field(pattern=HOST_NAME, validate_default=True)] = Field(default_factory=socket.gethostname)
    engines: Annotated[tuple[EngineConfig, ...], Field(min_length=1, max_length=50)]
    restarts: RestartLimits = RestartLimits()
    disk: Annotated[Path, AfterValidator(_is_absolute)] = Path("/")
    figures_seconds: Annotated[float, Field(gt=0, le=3600)] = 15.0
    report_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0

    @model_validator(mode="after")
    def _each_name_and_job_is_there_once(self) -> Self:
        for field, values in (
            ("name", [engine.name for engine in self.engines]),
            ("job", [engine.job for engine in self.engines if engine.job is not None]),
        ):
            for position, value in enumerate(values):
                if value in values[:position]:
                    raise ValueError(f"engines: two of them have the same {field}; each needs its own")
        return self


def read(file: Path) -> AgentConfig:
    """Return what a file declares; raises ConfigurationError with a line for each field that is wrong."""
    try:
        return parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        fault = error.strerror or str(error)
    except UnicodeDecodeError:
        fault = "it is not text in UTF-8"
    except ConfigurationError as error:
        fault = error.detail
    raise ConfigurationError(f"the agent's configuration {file} cannot be used: {fault}")


def parse(text: str) -> AgentConfig:
    """Return what a configuration's text declares; raises ConfigurationError."""
    try:
        return AgentConfig.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"not JSON in line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        places = [fault["loc"] for fault in found]
        # A list with a wrong entry is said to be too short as well.
        faults = [one for one in found if not any(other[: len(one["loc"])] == one["loc"] != other for other in places)]
        raise ConfigurationError(
            "; ".join(_told(fault["loc"], fault["type"], fault["msg"]) for fault in faults)
        ) from None


_REMEDIES = {
    "name": "letters, digits and . _ -, at most 64, such as llama",
    "host": "this host's name, such as mac-studio-1",
    "kind": "mlx, ollama or openai",
    "url": "the engine's address, such as http://127.0.0.1:8081",
    "model": "the name that the engine knows its model by",
    "job": 'an object with "manager": "launchd" or "systemd"',
    "label": "the launchd job's label, such as com.athena.mlx.llama",
    "domain": "system, gui/UID or user/UID",
    "unit": "the unit's name, such as ollama.service",
    "scope": "system or user",
    "engines": "a list of at least one engine",
}
_WRONG = {
    "missing": "is missing",
    "string_pattern_mismatch": "is not of the right form",
    "extra_forbidden": "is unknown",
    "literal_error": "is unknown",
}


def _told(place: tuple[int | str, ...], kind: str, message: str) -> str:
    field = ".".join(str(part) for part in place if part not in ("launchd", "systemd"))
    wrong = _WRONG.get(kind) or message.removeprefix("Value error, ")
    remedy = None if kind == "extra_forbidden" else _REMEDIES.get(str(place[-1])) if place else None
    text = f"{field} {wrong}" if kind in _WRONG else f"{field}: {wrong}" if field else wrong
    return f"{text}; set it to {remedy}" if remedy else text
