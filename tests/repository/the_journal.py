"""A plugin of pytest: the operations of the release journal, on a folder of the test."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from journal_operations import Operation
from loading import load


@pytest.fixture
def play_context() -> SimpleNamespace:
    """What Ansible says of the play."""
    return SimpleNamespace(check_mode=False)


@pytest.fixture
def do(tmp_path: Path, play_context: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Operation:
    """Operations on the ledger of a folder, in a checkout without git."""
    load("roles/release/module_utils/release_runs.py")
    load("roles/release/module_utils/state_folder.py")
    module = load("roles/release/action_plugins/release_journal.py")
    action = module.ActionModule.__new__(module.ActionModule)
    action._state = tmp_path / "state"
    action._play_context = play_context
    monkeypatch.chdir(tmp_path)

    def operation(name: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(action, f"_op_{name}")(arguments)
        return answer

    return operation
