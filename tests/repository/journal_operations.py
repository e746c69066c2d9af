"""What is done with the operations of the release journal, and how runs of them stop."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Operation = Callable[..., dict[str, Any]]


def opened(do: Operation, action: str = "deploy", *, go_on: bool = False) -> dict[str, Any]:
    """Open the lock as a run of this process, which was told to go on from where another stopped, or not."""
    return do("open", action=action, go_on=go_on, owner_pid=os.getpid())


def step(do: Operation, name: str, content: dict[str, Any] | None = None) -> None:
    """Begin a step of what is to have the content."""
    do("step", step=name, record={"schema_before": "a"}, content=content or {}, message=name)


def entry(tmp_path: Path, name: str) -> dict[str, Any]:
    """Return what the ledger has of a release."""
    told: dict[str, Any] = json.loads((tmp_path / "state" / "ledger" / f"{name}.json").read_text())
    return told


def killed(tmp_path: Path) -> None:
    """Have the processes of the lock's owner be gone."""
    file = tmp_path / "state" / "lock" / "journal.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"processes": {"1": "never"}}))


def said_by_another_host(tmp_path: Path) -> None:
    """Have the lock be of a process of another host."""
    file = tmp_path / "state" / "lock" / "journal.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"host": "elsewhere"}))
