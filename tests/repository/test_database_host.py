"""What the look at the database's host says of the system that is there."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT
from playing import local_play, run_plays


@pytest.mark.parametrize(
    ("distribution", "release", "given", "words"),
    [
        ("Debian", "11", {}, "is Debian 11; the database host must be Debian 12 or 13."),
        ("Ubuntu", "24", {}, "is Ubuntu 24; the database host must be Debian 12 or 13."),
        ("Debian", "12", {}, ""),
        ("Debian", "n/a", {}, ""),
        ("Debian", "11", {"postgresql_version": 17}, ""),
    ],
    ids=["too old", "another", "old enough", "of no number yet", "with packages of its own"],
)
def test_it_must_be_a_debian_that_has_what_the_database_needs(
    distribution: str, release: str, given: dict[str, Any], words: str, tmp_path: Path
) -> None:
    *_, judge = yaml.safe_load((ROOT / "playbooks/tasks/cluster/look_at_host.yml").read_text())
    facts = {"distribution": distribution, "distribution_major_version": release}
    known = {"host_facts": {"ansible_facts": facts}, "host_root": {"stdout": "0"}}
    tasks = [
        {"ansible.builtin.set_fact": {**facts, "cacheable": True}},
        judge,
        {"ansible.builtin.debug": {"msg": "It says: {{ host_problems | to_json }}"}},
    ]
    done = run_plays(tmp_path, [local_play(*tasks, **known, **given)])
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.partition("It says: ")[2].splitlines()[0])
    assert told == ([f"localhost: {words}"] if words else [])
