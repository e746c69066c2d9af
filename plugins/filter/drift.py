"""What `status` says of a registry that is not as declared, by what `athena backends declare --check` would change."""

from collections.abc import Callable, Iterable
from typing import Any

SIGNS = {"+": "is not there", "-": "is not of the release"}


def registry_drift(changes: Iterable[str]) -> list[str]:
    """Return a sentence for each change: a line `+ BACKEND`, `- BACKEND` or `~ BACKEND: FIELD VALUE becomes VALUE`."""
    return [_sentence(line) for line in changes]


def _sentence(line: str) -> str:
    sign, _, rest = line.partition(" ")
    if sign in SIGNS:
        return f"{rest} {SIGNS[sign]}"
    backend, _, change = rest.partition(": ")
    field, _, values = change.partition(" ")
    there, _, declared = values.rpartition(" becomes ")
    return f"{backend}: {field} is {there}, not {declared}"


class FilterModule:
    """Filters of Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"registry_drift": registry_drift}
