"""What an agent reports of its host, and the Admin API keeps: one definition for both sides.

The two may be of different releases for a while: what one side does not know it ignores.
"""

from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

LONGEST_TEXT = 500
REPLACED_AT_MOST = 20
HOST_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"
_LARGEST = 10**15  # every such number is exact in JSON


def _one_line(text: Any) -> Any:
    """Leave of a text what a database and a terminal can be given; details hold what others' programs said."""
    if not isinstance(text, str):
        return text
    return "".join(character if character.isprintable() else " " for character in text)[:LONGEST_TEXT]


def _no_number(moment: Any) -> Any:
    """Refuse a count of seconds, which pydantic would take for a moment."""
    if isinstance(moment, int | float):
        raise ValueError("must be a date and a time with a time zone: 2025-11-15T10:00:00Z")  # noqa: TRY004  # pydantic's
    return moment


def _whole(number: Any) -> Any:
    """To JSON, 60.0 is a whole number as well."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


Text = Annotated[str, BeforeValidator(_one_line)]
Count = Annotated[int, Field(ge=0, le=_LARGEST), BeforeValidator(_whole)]
Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_no_number)]
Number = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]


class LastProbe(_Part):
    """The last probe: when it began, how long it took or has waited so far, and what it has shown."""

    at: Moment
    seconds: Number
    outcome: Text
    detail: Text = ""


class LastRestart(_Part):
    """The last restart by the agent; `error` is null where the service manager carried it out."""

    at: Moment
    seconds: Number
    error: Text | None = None


class EngineReport(_Part):
    """One engine. `restarts_lately` counts those within the limit's window; `reason` says why one that hangs is not
    started anew just now; `given_up_at` is set where it will not be any more until a person acts. `replaced_at` is when
    its process was replaced without the agent, since that runs, the last times alone: it crashed, or somebody started
    it anew; `last_end` is how it ended last, in the service manager's words.
    """

    name: Text
    kind: Text
    url: Text
    model: Text
    job: Text | None = None
    state: Text
    since: Moment
    last_probe: LastProbe | None = None
    pid: Count | None = None
    resident_bytes: Count | None = None
    restarting: bool = False
    restarts_lately: Count = 0
    last_restart: LastRestart | None = None
    given_up_at: Moment | None = None
    replaced_at: Annotated[list[Moment], Field(max_length=REPLACED_AT_MOST)] = []
    last_end: Text = ""
    reason: Text = ""


class FiguresReport(_Part):
    """The host's figures; null is what cannot be read on its system, or not without root."""

    memory_total_bytes: Count | None = None
    memory_available_bytes: Count | None = None
    memory_wired_bytes: Count | None = None
    memory_wired_limit_bytes: Count | None = None
    disk_total_bytes: Count | None = None
    disk_free_bytes: Count | None = None
    uptime_seconds: Number | None = None
    temperatures_celsius: Annotated[dict[Text, Number], Field(max_length=200)] = {}
    speed_limit_percent: Number | None = None
    thermal_warning: Count | None = None
    thermal_pressure: Count | None = None
    gpu_percent: Number | None = None


class HostReport(_Part):
    """A host at one moment: `at` is the agent's own clock, `version` that of its package."""

    at: Moment
    version: Text
    figures: FiguresReport
    engines: Annotated[list[EngineReport], Field(max_length=50)]
