"""Write down which tasks changed something, or in check mode would, for whoever called Ansible.

The file is a JSON list, `[{"host": …, "role": …, "task": …}, …]` in the order of the tasks. No values are in it, and so
no secret.
"""

import json
from pathlib import Path
from typing import Any

from ansible.executor.task_result import CallbackTaskResult
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: changes
type: aggregate
short_description: A list of what changed
options:
  file:
    description: Where to write it; without it nothing is written.
    type: path
    env: [{name: ANSIBLE_CHANGES_FILE}]
"""


class CallbackModule(CallbackBase):
    """Keeps the list and writes it at the end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "changes"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._changes: list[dict[str, str]] = []

    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        """Note a task that changed something."""
        if result.result.get("changed"):
            role, separator, task = result.task.get_name().partition(" : ")
            if what := result.result.get("changes"):
                task = f"{task}: {', '.join(what)}"
            self._changes.append(
                {
                    "host": result.host.get_name(),
                    "role": role if separator else "",
                    "task": task if separator else role,
                }
            )

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Write the list."""
        if file := self.get_option("file"):
            Path(file).write_text(json.dumps(self._changes) + "\n", encoding="utf-8")
