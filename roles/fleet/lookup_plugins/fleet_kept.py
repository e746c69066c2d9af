"""Variables given by `-e` that no way back could take back."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.lookup import LookupBase
from ansible.utils.vars import load_extra_vars

DOCUMENTATION = """
name: fleet_kept
short_description: The variables given by `-e` that no way back could take back
description: What is given by `-e` wins over what the role fleet tells the roles of a host, also on the way back.
options: {}
"""
CHANGE = Path(__file__).parents[1] / "tasks" / "steps" / "change.yml"


class LookupModule(LookupBase):
    """`query('fleet_kept')`."""

    def run(self, terms: list[str], variables: Any = None, **_: Any) -> list[str]:
        """Return their names, sorted."""
        return sorted(set(told(yaml.safe_load(CHANGE.read_text()))) & set(load_extra_vars(self._loader)))


def told(tasks: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the variables that the step `change` sets for the roles of a host."""
    for task in tasks:
        yield from task.get("vars", {})
        yield from told(task.get("block", []))
