"""Have the module `ollama_model` go on until a long copy or pull is done, and show how far it is.

A module speaks at its end only, so it ends in the middle of one now and then. This calls it until it is done, with
what it said so far; whatever callback shows the run, a line for each call stands there at once.
"""

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display


class ActionModule(ActionBase):
    """`ollama_model: {…}`, as the module takes it."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the last call of the module returned."""
        super().run(tmp, task_vars)
        result: dict[str, Any] = {}
        while True:
            arguments = {**self._task.args, "so_far": result.get("so_far", {})}
            result = self._execute_module(module_args=arguments, task_vars=task_vars)
            if "so_far" not in result:
                return result
            host = (task_vars or {}).get("inventory_hostname", "")
            Display().display(f"      {host}: {result['progress']}")
