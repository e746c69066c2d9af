"""What the role fleet takes a host to hold when it changes it: what may go on is what is declared the same as that."""

import json
from pathlib import Path
from typing import Any

from loading import ROOT
from playing import run_plays

BEFORE, AFTER = ({"mlx": {"models": [{"name": "tiny", "decode_concurrency": count}]}} for count in (2, 3))
CASES: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "forward": ({}, BEFORE["mlx"]["models"]),
    "back": ({"fleet_is_new": False}, AFTER["mlx"]["models"]),
    "silent": ({"fleet_answers_now": False}, []),
    "unknown": ({"fleet_proven": {}}, []),
}


def test_a_host_holds_what_it_was_and_on_the_way_back_what_it_was_to_be(tmp_path: Path) -> None:
    said = {"fleet_proven": BEFORE, "fleet_wanted": AFTER, "fleet_is_new": True, "fleet_answers_now": True}
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars_files": [str(ROOT / "roles" / "fleet" / "vars" / "main.yml")],
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
        "tasks": [
            {
                "ansible.builtin.copy": {
                    "content": "{{ fleet_mlx_models_left | to_json }}",
                    "dest": str(tmp_path / case),
                    "mode": "0600",
                },
                "vars": {**said, **differently},
            }
            for case, (differently, _) in CASES.items()
        ],
    }
    ran = run_plays(tmp_path, [play])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert {case: json.loads((tmp_path / case).read_text()) for case in CASES} == {
        case: left for case, (_, left) in CASES.items()
    }
