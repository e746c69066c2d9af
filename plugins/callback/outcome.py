"""Write down what a run did and what kept it from its end, for deploy.sh to tell programs.

The file is a JSON object: `release`, the one in force in the end; `recorded`, the ledger's entry that the run made;
`steps` in the order in which they began, each with the seconds that it took; `seconds` of all; and `problems`, the
cause of a failure first. A step that is there twice was done again on the way back. Tasks that hide what they say are
not quoted.
"""

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from ansible.executor.task_result import CallbackTaskResult
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: outcome
type: aggregate
short_description: What a run did
options:
  file:
    description: Where to write it; without it nothing is written.
    type: path
    env: [{name: ANSIBLE_OUTCOME_FILE}]
"""
JOURNAL = "release_journal"
# What a failed task may say, in this order.
WORDS = ("msg", "stderr", "module_stderr", "stdout")


class Account:
    """What there is to tell of a run; times are seconds of any one clock."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._steps: list[tuple[str, float]] = []
        self._release: str | None = None
        self._recorded: str | None = None
        self._problems: list[str] = []

    def journal(self, said: dict[str, Any], now: float) -> None:
        """Take in what the journal said: which step begins, which release is in force, what was recorded."""
        if step := said.get("begun"):
            self._steps.append((step, now))
        if "active" in said:
            self._release = said["active"]["id"] if said["active"] else None
        self._recorded = said.get("recorded") or self._recorded

    def failure(self, name: str, said: dict[str, Any]) -> None:
        """Take in that a task failed."""
        words = next((str(said[word]).strip() for word in WORDS if str(said.get(word) or "").strip()), "no message")
        for problem in said.get("problems") or [f"{name}: {words}"]:
            if problem not in self._problems:
                self._problems.append(problem)

    def told(self, now: float) -> dict[str, Any]:
        """Return all of it at the end."""
        steps = pairwise([*self._steps, ("the end", now)])
        return {
            "release": self._release,
            "recorded": self._recorded,
            "steps": [{"step": step, "seconds": round(end - begun, 1)} for (step, begun), (_, end) in steps],
            "seconds": round(now - self._began, 1),
            "problems": self._problems,
        }


class CallbackModule(CallbackBase):
    """Keeps the account and writes it at the end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "outcome"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._account = Account(time.monotonic())

    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        """Note what the journal says."""
        if result.task.action == JOURNAL:
            self._account.journal(result.result, time.monotonic())

    def v2_runner_on_failed(self, result: CallbackTaskResult, ignore_errors: bool = False) -> None:
        """Note a failure; that of a loop is told by its items."""
        if result.task.action == JOURNAL:
            self._account.journal(result.result, time.monotonic())
        if not ignore_errors and "results" not in result.result:
            self._account.failure(result.task.name, result.result)

    def v2_runner_item_on_failed(self, result: CallbackTaskResult) -> None:
        """Note which item failed."""
        self._account.failure(result.task.name, result.result)

    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        """Note a host that is out of reach, where the run cannot do without."""
        if not result.task.ignore_unreachable:
            self._account.failure(f"{result.host.get_name()} is out of reach", result.result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Write the account."""
        if file := self.get_option("file"):
            Path(file).write_text(json.dumps(self._account.told(time.monotonic())) + "\n", encoding="utf-8")
