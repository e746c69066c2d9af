"""The playbooks at the root, which are run without deploy.sh as well."""

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_a_rollback_without_deploy_sh_is_known_as_one_to_lock_and_ledger() -> None:
    (play,) = yaml.safe_load((ROOT / "rollback.yml").read_text())
    assert play["ansible.builtin.import_playbook"] == "playbooks/rollback.yml"
    assert play["vars"] == {"release_action": "rollback"}
