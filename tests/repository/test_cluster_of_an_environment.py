"""An environment stays on its cluster: a file that leads to another is refused, unless the environment is to move."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from kubeconfigs import kubeconfig
from loading import ROOT
from playing import run_plays
from serving import Answering, serving

OURS, ANOTHER = "11111111-aaaa", "22222222-bbbb"
REMEDY = ("Name in athena_kubeconfig a file whose current context is that.", "-e athena_cluster_moves=true")


def inventory(folder: Path) -> Path:
    """Write an inventory of a controller alone; returns its path."""
    (folder / "group_vars").symlink_to(ROOT / "group_vars")
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    file = folder / "hosts.yml"
    file.write_text(json.dumps({"all": {"children": {"cluster": {"hosts": {"localhost": local}}}}}))
    return file


def ledger(cluster: str | None) -> dict[str, Any]:
    """Return what is read of a ledger whose release in force is on a cluster, or from before that was recorded."""
    content = {"version": "1"} if cluster is None else {"version": "1", "cluster": cluster}
    return {"active": {"id": "r1", "content": content}, "runs": [{"content": {"cluster": "of-one-before"}}]}


def killed(cluster: str) -> dict[str, Any]:
    """Return what is read of a ledger without a release, of an environment whose first deployment was killed."""
    return {"active": None, "runs": [{"content": {"version": "1", "cluster": cluster}}]}


def test_the_cluster_is_known_by_the_release_in_force_or_what_was_begun(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"active": None, "runs": []}
    cases: list[tuple[dict[str, Any], str, bool, bool, str]] = [
        (ledger(OURS), OURS, False, False, OURS),
        (ledger(OURS), ANOTHER, False, True, ANOTHER),
        (ledger(OURS), ANOTHER, True, False, ANOTHER),
        (ledger(OURS), "", False, False, OURS),  # it may not be looked at
        (ledger(None), ANOTHER, False, False, ANOTHER),
        (killed(OURS), OURS, False, False, OURS),
        (killed(OURS), ANOTHER, False, True, ANOTHER),
        (nothing, ANOTHER, False, False, ANOTHER),
    ]
    tasks = [
        {
            "ansible.builtin.copy": {
                "content": "{{ [athena_cluster_problem, release_content.cluster] | to_json }}",
                "dest": f"{tmp_path}/{number}.json",
                "mode": "0600",
            },
            "vars": {
                "release_before": known,
                "kubernetes_app_reached": {"silence": "", "uid": found},
                "athena_cluster_moves": moves,
            },
        }
        for number, (known, found, moves, _, _) in enumerate(cases)
    ]
    plays = [{"hosts": "cluster", "gather_facts": False, "tasks": tasks}]
    done = run_plays(tmp_path, plays, inventory=inventory(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    for number, (_, found, _, is_refused, recorded) in enumerate(cases):
        problem, told = json.loads((tmp_path / f"{number}.json").read_text())
        assert told == recorded, number
        words = [found, OURS, *REMEDY] if is_refused else []
        assert (problem != "", [word for word in words if word not in problem]) == (is_refused, []), number


@contextmanager
def cluster_of(uid: str) -> Iterator[str]:
    """An API server of a cluster with one node, of which nothing but its UID is known; nothing can be changed there."""

    class Handler(Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            named = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "uid": uid}}
            nodes = {"apiVersion": "v1", "kind": "NodeList", "items": [{"metadata": {"name": "node"}}]}
            found = {"/api/v1/namespaces/kube-system": named, "/api/v1/nodes": nodes}[self.path.partition("?")[0]]
            self.answer(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    with serving(Handler) as address:
        yield f"http://{address}"


def test_destroy_leaves_the_namespaces_of_another_cluster_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "ledger").mkdir(parents=True)
    (state / ".athena-environment").touch()
    entry = {"id": "r1", "outcome": "in force", "action": "deploy", "until": "2026-01-01T00:00:00+00:00"}
    told = json.dumps({**entry, "restores": None, "replaces": None, "content": {"cluster": OURS}})
    (state / "ledger" / "r1.json").write_text(told)
    with cluster_of(ANOTHER) as url:
        variables = {
            "athena_kubeconfig": kubeconfig(tmp_path, url),
            "athena_state_dir": str(state),
            "release_action": "destroy",
            "release_exchange": "",
        }
        plays = [{"ansible.builtin.import_playbook": str(ROOT / "playbooks" / "destroy.yml")}]
        done = run_plays(tmp_path, plays, inventory=inventory(tmp_path), variables=variables)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert [word for word in ("Nothing was changed, because:", ANOTHER, OURS, *REMEDY) if word not in said] == [], said
    assert not (state / "lock").exists()
