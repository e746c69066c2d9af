"""Show a person the steps, what changes, what fails, and the final messages; nothing else.

`community.general.diy` could be configured to print the same, but gathers all variables anew for each event, which took
a third of the time of a deployment that has nothing to do.
"""

from typing import Any

from ansible import constants
from ansible.executor.task_result import CallbackTaskResult
from ansible.plugins.callback.default import CallbackModule as Default

DOCUMENTATION = """
name: steps
type: stdout
short_description: Steps, changes, failures and messages
extends_documentation_fragment: [default_callback, result_format_callback]
options:
  counts:
    description: Whether the counts of tasks end the output.
    type: bool
    default: true
    env: [{name: ANSIBLE_STEPS_COUNTS}]
  changes:
    description: Whether tasks that changed something are named; not where a program reads the output.
    type: bool
    default: true
    env: [{name: ANSIBLE_STEPS_CHANGES}]
"""
SPEAKING = ("ansible.builtin.debug", "release_journal")
# What a failed task may say, in this order.
WORDS = ("msg", "censored", "content", "stderr", "module_stderr", "stdout")


def named(result: CallbackTaskResult) -> str:
    """Return the task's name, with what it changed where it says so."""
    changes = result.result.get("changes")
    return f"{result.task.name}: {', '.join(changes)}" if changes else str(result.task.name)


class CallbackModule(Default):
    """Ansible's own callback, quieter."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "steps"

    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        """Show what a task says, or that it changed something."""
        self._handle_warnings_and_exception(result)
        words = str(result.result.get("msg", "")).strip("\n").rstrip()
        if result.task.action in SPEAKING and "results" in result.result:
            return  # its items have spoken
        if result.task.action in SPEAKING and words:
            self._display.display(words)
        elif result.result.get("changed") and self.get_option("changes"):
            self._display.display(f"      {named(result)}", color=constants.COLOR_CHANGED)

    def v2_runner_item_on_ok(self, result: CallbackTaskResult) -> None:
        """Show what an item of a loop says."""
        if result.task.action in SPEAKING and (words := str(result.result.get("msg", "")).strip("\n").rstrip()):
            self._display.display(words)

    def v2_runner_on_failed(self, result: CallbackTaskResult, ignore_errors: bool = False) -> None:
        """Show the whole of a failure; that of a loop is told by its items."""
        if not ignore_errors and "results" not in result.result:
            self._show_failure(result.task.name, result.result)

    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        """Show which host is out of reach, and why."""
        self._show_failure(f"{result.host.get_name()} is out of reach", result.result)

    def v2_runner_item_on_failed(self, result: CallbackTaskResult) -> None:
        """Show which item failed."""
        self._show_failure(f"{result.task.name} ({self._get_item_label(result.result)})", result.result)

    def _show_failure(self, name: str, result: dict[str, Any]) -> None:
        said = [str(result[word]).strip() for word in WORDS if str(result.get(word) or "").strip()]
        text = "\n".join(said).replace("\n", "\n  ")
        self._display.display(f"FAILED: {name}\n  {text}", color=constants.COLOR_ERROR, stderr=True)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Show the counts of each host."""
        for host in sorted(stats.processed) if self.get_option("counts") else []:
            counts = stats.summarize(host)
            self._display.display("{}: ok={ok} changed={changed} failed={failures}".format(host, **counts))

    def _silent(self, *_: Any, **__: Any) -> None:
        """Show nothing."""

    _print_task_banner = _silent  # a diff names its file itself
    v2_playbook_on_play_start = v2_playbook_on_task_start = v2_playbook_on_handler_task_start = _silent
    v2_playbook_on_include = v2_playbook_on_no_hosts_matched = v2_playbook_on_start = _silent
    v2_runner_on_skipped = v2_runner_item_on_skipped = v2_runner_on_start = _silent
    v2_runner_retry = v2_runner_on_async_poll = v2_runner_on_async_ok = _silent
