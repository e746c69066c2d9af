"""The orchestrator's decisions: pure functions of the table of intents, the registry and a model's words."""

import re
from collections.abc import Sequence

from athena.router.models import first_enabled, is_served
from athena.router.types import Snapshot

FIRST_ENABLED = "first-enabled"
NONE = "none"


def read_label(reply: str, allowed: Sequence[str]) -> str | None:
    """Return the one intent that a classifier's reply names; None where it names none or several.

    A name counts as a word of its own, with a blank or a hyphen for an underscore as well.
    """
    text = reply.lower()
    named = [name for name in allowed if re.search(rf"(?<!\w){name.replace('_', '[-_ ]')}(?!\w)", text)]
    return named[0] if len(named) == 1 else None


def choose_model(named: str, default_model: str, snapshot: Snapshot) -> str:
    """Return the model that serves where the table names `named`: that one wherever the registry has it.

    A registry that is not wholly known cannot tell that it lacks a model, so the named one is asked for.
    """
    if is_served(snapshot, named) or not snapshot.complete or default_model == NONE:
        return named
    if default_model == FIRST_ENABLED:
        return first_enabled(snapshot) or named
    return default_model
