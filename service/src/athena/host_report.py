"""What an agent reports of its host, and the Admin API keeps: one definition for both sides.

The two may be of different releases for a while: what one side does not know it ignores.
"""

from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field

LONGEST_TEXT = 500
HOST_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"
_LARGEST = 2**63 - 1


def _one_line(text: Any) -> Any:
    """Leave of a text what a database and a terminal can be given; details hold what others' programs said."""
    if not isinstance(text, str):
        return text
    return "".join(character if character.isprintable() else " " for character in text)[:LONGEST_TEXT]


Text = Annotated[str, BeforeValidator(_one_line)]
Count = Annotated[int, Field(ge=0, le=_LARGEST)]
Number = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]


class LastProbe(BaseModel):
    """The last probe: when it began, how long it took or has waited so far, and what it has shown."""

    at: AwareDatetime
    seconds: Number
    outcome: Text
    detail: Text = ""


class LastRestart(BaseModel):
    """The last restart by the agent; `error` is null where the service manager carried it out."""

    at: AwareDatetime
    seconds: Number
    error: Text | None = None


class EngineReport(BaseModel):
    """One engine. `restarts_lately` counts those within the limit's window; `reason` says why one that hangs is not
    started anew just now; `given_up_at` is set where it will not be any more until a person acts.
    """

    name: Text
    kind: Text
    url: Text
    model: Text
    job: Text | None = None
    state: Text
    since: AwareDatetime
    last_probe: LastProbe | None = None
    pid: Count | None = None
    resident_bytes: Count | None = None
    restarting: bool = False
    restarts_lately: Count = 0
    last_restart: LastRestart | None = None
    given_up_at: AwareDatetime | None = None
    reason: Text = ""


class FiguresReport(BaseModel):
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
    gpu_percent: Number | None = None


class HostReport(BaseModel):
    """A host at one moment: `at` is the agent's own clock, `version` that of its package."""

    at: AwareDatetime
    version: Text
    figures: FiguresReport
    engines: Annotated[list[EngineReport], Field(max_length=50)]
