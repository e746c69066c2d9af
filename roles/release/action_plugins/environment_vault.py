"""The secrets of an environment: made once, kept on the controller in a file that `ansible-vault view` opens.

Arguments: `file`, `password_file` (made where there is neither), `names` (those that must be there), `known` (values
that the environment has already, taken over where the file has none), `rotate` (those that get a new value).

Answers with `values` and `versions` by name: 1 for a value that was never rotated. In check mode nothing is written;
what would be made is made up.
"""

import json
import os
import secrets
import string
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible.plugins.action import ActionBase

ALPHABET = string.ascii_letters + string.digits
LENGTH = 48


class ActionModule(ActionBase):
    """`environment_vault: {file: …, password_file: …, names: […], known: {…}, rotate: […]}`."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Have the secrets, or say why not; see the module's description."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            return {**result, **self._have()}
        except AnsibleActionFail as error:  # returned, because what is raised asks no `failed_when` of the task
            return {**result, **error.result}

    def _have(self) -> dict[str, Any]:
        args = self._task.args
        names, rotate = args["names"], [name for name in args.get("rotate") or [] if name]
        if strangers := sorted(set(rotate) - set(names)):
            raise AnsibleActionFail(f"There is no secret {', '.join(strangers)}; there is: {', '.join(names)}.")
        file, password_file = Path(args["file"]), Path(args["password_file"])
        before = _open(file, password_file)
        kept = renewed(before, names, args.get("known") or {}, rotate)
        if kept != before and not self._play_context.check_mode:
            if not password_file.exists():
                _write(password_file, f"{_random()}\n")
            _write(file, _vault(password_file).encrypt(json.dumps(kept, indent=2)).decode())
        return {
            "changed": kept != before,
            "values": {name: kept[name]["value"] for name in names},
            "versions": {name: kept[name]["version"] for name in names},
        }


def renewed(
    before: dict[str, dict[str, Any]], names: list[str], known: dict[str, str], rotate: list[str]
) -> dict[str, dict[str, Any]]:
    """Return what the vault is to hold: what it held, what was missing, and new values of those to be rotated."""
    kept = dict(before)
    for name in names:
        if name not in kept:
            kept[name] = {"value": known.get(name) or _random(), "version": 1, "since": _now()}
        elif name in rotate:
            kept[name] = {"value": _random(), "version": kept[name]["version"] + 1, "since": _now()}
    return kept


def _open(file: Path, password_file: Path) -> dict[str, dict[str, Any]]:
    if not file.exists():
        return {}
    if not password_file.exists():
        raise AnsibleActionFail(
            f"{file} is there, but not its password in {password_file}. Bring that file back, or name it in "
            "ATHENA_VAULT_PASSWORD_FILE. Without it, move the vault away: what the cluster has is then taken over."
        )
    try:
        opened: dict[str, dict[str, Any]] = json.loads(_vault(password_file).decrypt(file.read_text()))
    except (AnsibleError, ValueError) as error:
        raise AnsibleActionFail(f"{file} does not open with the password in {password_file}: {error}") from error
    return opened


def _vault(password_file: Path) -> VaultLib:
    return VaultLib([("default", VaultSecret(password_file.read_text().strip().encode()))])


def _write(path: Path, text: str) -> None:
    """Write the file whole or not at all, for its owner alone."""
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)


def _random() -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
