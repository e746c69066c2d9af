"""What is given by `-e` would win over what a host was before, so `fleet` takes none of it that is a part of that."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT
from playing import local_play, run_plays


def objection() -> str:
    """Return the playbook's own words for it."""
    tasks: list[dict[str, Any]] = yaml.safe_load((ROOT / "playbooks/tasks/fleet/begin.yml").read_text())
    [noted] = [task["vars"]["fleet_noted"] for task in tasks if "fleet_noted" in task.get("vars", {})]
    [found] = [words for words in noted if "fleet_kept" in words]
    return str(found)


def said(folder: Path, *arguments: str, **variables: Any) -> str:
    """Return what is said where these are given by `-e`."""
    kept = folder / "said"
    inventory = {"OLLAMA_KEEP_ALIVE": "1h"}
    tell = {"ansible.builtin.copy": {"content": "{{ objection }}", "dest": str(kept), "mode": "0600"}}
    play = local_play(tell, objection=objection(), ollama_settings=inventory)
    ran = run_plays(folder, [play], *arguments, variables=variables)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return kept.read_text()


@pytest.mark.parametrize(
    "name", ["ollama_version", "ollama_settings", "mac_host_power", "agent_settings", "mlx_environment"]
)
def test_what_a_host_goes_back_to_is_not_taken_from_the_command_line(name: str, tmp_path: Path) -> None:
    assert f"-e {name}: put that into the inventory" in said(tmp_path, **{name: "0.35.0"})


def test_all_that_is_given_so_is_named_also_from_a_file(tmp_path: Path) -> None:
    given = tmp_path / "given.yml"
    given.write_text("ollama_archive: /srv/ollama.tgz\nollama_archive_sha256: abc\n")
    told = said(tmp_path, "--extra-vars", f"@{given}", "-e", "mac_host_reserve_mib=4096")
    assert "-e mac_host_reserve_mib, -e ollama_archive, -e ollama_archive_sha256: put that" in told


def test_the_declaration_and_what_is_no_part_of_a_host_may_be_given(tmp_path: Path) -> None:
    given = {"athena_models": [], "mlx_patience": 20, "mlx_prune": True, "fleet_drain_seconds": 5}
    assert said(tmp_path, release_action="fleet", mlx_supervisor="systemd", **given) == ""
