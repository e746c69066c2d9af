"""What `status` finds that is not of the release beside pods: names for engines, and backends of the registry."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from kubeconfigs import kubeconfig
from kubernetes_api import known
from loading import ROOT, load
from playing import run_plays
from serving import Answering, serving

TASKS = ROOT / "playbooks/tasks/cluster"
ATHENA = Path(sys.executable).with_name("athena")
URL = "http://mlx-service.athena.svc:8080"
DECLARED = [{"model_name": "phi3:mini", "backend_type": "auto", "endpoint_url": URL, "timeout_seconds": 60}]
ROW = {**DECLARED[0], "id": 1, "enabled": True, "description": "Declared in the inventory.", "priority": 0}
PHI = f"backend phi3:mini at {URL}"
OTHER = {**ROW, "id": 2, "model_name": "other"}
MINE = {**OTHER, "id": 3, "description": "by hand"}


def look(folder: Path, part: str, **variables: Any) -> dict[str, Any]:
    """Return what is known of a part when it was looked at as `status` does."""
    shown = {"seen": "{{ seen }}", "unseen": "{{ status_unseen | default([]) }}"}
    note = {"content": "{{ shown | to_json }}", "dest": str(folder / "seen.json"), "mode": "0600"}
    tasks = [
        {"ansible.builtin.include_tasks": str(TASKS / "look_at.yml"), "vars": {"status_part": part}},
        {"ansible.builtin.copy": note, "vars": {"shown": shown, "seen": f"{{{{ status_{part} | default({{}}) }}}}"}},
    ]
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    known = {"ansible_python_interpreter": sys.executable, **variables}
    done = run_plays(folder, [play], variables=known)
    assert done.returncode == 0, done.stdout + done.stderr
    seen: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return seen


# --- the registry -------------------------------------------------------------------------------------------------


@contextmanager
def admin_api(rows: list[dict[str, Any]] | None) -> Iterator[str]:
    """An Admin API with these backends, or one whose database is away. Nothing can be changed there."""

    class Handler(Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.headers["Authorization"] == "Bearer of-a-test"
            problem = {"detail": "the database does not answer"}
            status, content = (503, problem) if rows is None else (200, rows)
            self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    with serving(Handler) as address:
        yield f"http://{address}"


def registry(folder: Path, rows: list[dict[str, Any]] | None) -> dict[str, Any]:
    (folder / "token").write_text("of-a-test")
    with admin_api(rows) as url:
        return look(
            folder,
            "registry",
            athena_registered=DECLARED,
            registration_athena=str(ATHENA),
            registration_admin_url=url,
            registration_token_file=str(folder / "token"),
        )


@pytest.mark.parametrize(
    ("rows", "drift"),
    [
        ([ROW, MINE], []),
        (
            [{**ROW, "enabled": False, "timeout_seconds": 5}],
            ["enabled is false, not true", "timeout_seconds is 5, not 60"],
        ),
    ],
    ids=["as declared, and one by hand", "changed"],
)
def test_a_declared_backend_that_was_changed_is_drift_and_one_that_was_added_by_hand_is_none(
    tmp_path: Path, rows: list[dict[str, Any]], drift: list[str]
) -> None:
    told = registry(tmp_path, rows)
    assert told["unseen"] == []
    assert sorted(told["seen"]["drift"]) == sorted(f"{PHI}: {one}" for one in drift)


def test_one_that_was_removed_is_drift_and_so_is_one_of_a_declaration_before(tmp_path: Path) -> None:
    told = registry(tmp_path, [OTHER])
    assert told == {
        "unseen": [],
        "seen": {"drift": [f"{PHI} is not there", f"backend other at {URL} is not of the release"]},
    }


def test_a_registry_that_says_nothing_is_told_and_nothing_is_known_of_it(tmp_path: Path) -> None:
    told = registry(tmp_path, None)
    assert told["seen"] == {}
    (unseen,) = told["unseen"]
    assert unseen.startswith("registry could not be looked at: ")
    assert "the database does not answer" in unseen


def test_each_change_is_a_sentence_also_where_values_have_spaces_in_them() -> None:
    drift = load("plugins/filter/drift.py").registry_drift
    line = f"~ {PHI}: description by hand becomes Declared in the inventory."
    assert drift([line]) == [f"{PHI}: description is by hand, not Declared in the inventory."]


# --- names for engines ----------------------------------------------------------------------------------------------

KNOWN = known({"v1": [("services", "Service")], "discovery.k8s.io/v1": [("endpointslices", "EndpointSlice")]})
Objects = dict[str, dict[str, Any]]


@contextmanager
def api_server(there: Objects) -> Iterator[tuple[str, Objects]]:
    """An API server with these objects, by PLURAL/NAME, and what it was asked to try; nothing can be changed there."""
    tried: Objects = {}

    class Handler(Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            found = KNOWN.get(path) or there.get(self.named(path))
            missing = {"kind": "Status", "reason": "NotFound", "code": 404}
            self.tell(200 if found else 404, found or missing)

        def do_PATCH(self) -> None:
            path, _, query = self.path.partition("?")
            assert "dryRun=All" in query
            tried[self.named(path)] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.tell(200, tried[self.named(path)])

        @staticmethod
        def named(path: str) -> str:
            return "/".join(path.split("/")[-2:])

        def tell(self, status: int, content: dict[str, Any]) -> None:
            self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    with serving(Handler) as address:
        yield f"http://{address}", tried


def names(folder: Path, there: Objects) -> tuple[dict[str, list[str]], Objects]:
    """Return the drift of each name for engines, and the objects that a deployment would make."""
    services = [
        {"name": "mlx-service", "port": 8080, "addresses": ["192.0.2.31", "192.0.2.32"]},
        {"name": "ollama", "port": 11434, "addresses": ["192.0.2.31"]},
    ]
    with api_server(there) as (url, tried):
        variables = {
            "athena_released": {"external_services": services},
            "kubernetes_app_kubeconfig": kubeconfig(folder, url),
        }
        told = look(folder, "external_services", **variables)
    assert told["unseen"] == []
    return {name: state["drift"] for name, state in told["seen"].items()}, tried


def test_names_for_engines_that_are_gone_or_were_changed_are_drift(tmp_path: Path) -> None:
    nothing, declared = names(tmp_path, {})
    assert nothing == {
        name: ["Service is not there", "EndpointSlice is not there"] for name in ("mlx-service", "ollama")
    }
    assert names(tmp_path, declared)[0] == {"mlx-service": [], "ollama": []}
    there = {name: found for name, found in declared.items() if name != "services/ollama"}
    one_mac = declared["endpointslices/mlx-service"]
    there["endpointslices/mlx-service"] = {**one_mac, "endpoints": one_mac["endpoints"][:1]}
    assert names(tmp_path, there)[0] == {
        "mlx-service": ["EndpointSlice is not as it was deployed"],
        "ollama": ["Service is not there"],
    }


# --- what status says of both ---------------------------------------------------------------------------------------


def test_the_report_of_a_cluster_has_both_and_is_unhealthy_by_them(tmp_path: Path) -> None:
    (tmp_path / "group_vars").symlink_to(ROOT / "group_vars")
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (tmp_path / "hosts.yml").write_text(json.dumps({"cluster": {"hosts": {"localhost": local}}}))
    content = {"version": "1", "schema": "a"}
    release = {"id": "r1", "until": "2026-03-01T12:00:00+00:00", "content": content}
    services, rows = (
        {"ollama": {"drift": ["Service is not there"]}, "mlx-service": {"drift": []}},
        [f"{PHI} is not there"],
    )
    variables = {
        "release_known": {"active": release, "half_told": "", "lock": None, "left": None},
        "release_exchange": str(tmp_path),
        "release_json": True,
        "kubernetes_app_reached": {"silence": ""},
        "schema_shown": {"rc": 0, "stdout": json.dumps({"current": "a"})},
        "verification_engines": {"engines": [], "problems": []},
        "athena_images_found": [],
        "status_external_services": services,
        "status_registry": {"drift": rows},
    }
    tasks = [{"ansible.builtin.import_tasks": str(TASKS / "report.yml")}]
    play = {"hosts": "cluster", "gather_facts": False, "tasks": tasks}
    done = run_plays(tmp_path, [play], inventory=tmp_path / "hosts.yml", variables=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"')))
    assert (told["external_services"], told["registry"]) == (services, {"drift": rows})
    assert told["problems"] == ["ollama: Service is not there", f"registry: {rows[0]}"]
    assert (tmp_path / "verdict").read_text() == "8\n"
