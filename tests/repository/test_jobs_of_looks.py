"""What only looks takes no lock: nothing that it has on the cluster may be what a deployment uses."""

from typing import Any

import pytest
import yaml
from loading import ROOT
from playing import evaluated

TASKS = ROOT / "playbooks/tasks"
JOBS = "[athena_question_job, schema_job.name, registration_job.name, registration_drain_job.name]"
PLACES = "[[schema_job.namespace, schema_job.name], [registration_job.namespace, registration_job.name]]"


@pytest.mark.parametrize("action", ["status", "verify"])
def test_looks_say_that_they_are(action: str) -> None:
    plays = yaml.safe_load((ROOT / f"playbooks/{action}.yml").read_text())
    assert [play["vars"]["athena_only_looks"] for play in plays if play["hosts"] == "cluster"] == [True]


def test_their_jobs_have_a_name_that_no_job_of_a_deployment_has() -> None:
    question, schema, register, _ = evaluated("production", "cluster", JOBS, athena_only_looks=True)
    assert {question, schema, register} == {"athena-look"}
    deployed = evaluated("production", "cluster", JOBS)
    assert set(deployed) == {"athena-verify", "athena-migrate", "athena-register"}


def test_the_end_of_a_deployment_removes_none_of_them() -> None:
    kept = evaluated("production", "cluster", "athena_jobs")
    for only_looks in (True, False):
        places = evaluated("production", "cluster", PLACES, athena_only_looks=only_looks)
        assert {"/".join(place) for place in places} <= set(kept)
    assert {"athena/athena-look", "athena/athena-verify"} <= set(kept)
    *_, block = tasks_of("cluster/prune.yml")
    (prune,) = block["block"]
    assert entry_of(prune) == "prune"
    assert prune["vars"]["kubernetes_app_kept"].rstrip(" }").endswith("+ athena_jobs")


def test_every_job_that_asks_questions_is_named_by_who_asks() -> None:
    names = [
        task["vars"]["kubernetes_app_name"]
        for file in sorted((TASKS / "cluster").glob("*.yml"))
        for task in tasks_of(f"cluster/{file.name}")
        if entry_of(task) == "run"
    ]
    assert names == ["{{ athena_question_job }}"] * len(names)
    assert len(names) >= 2


def tasks_of(file: str) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = yaml.safe_load((TASKS / file).read_text())
    return tasks


def entry_of(task: dict[str, Any]) -> str:
    """Return which entry of kubernetes_app a task includes."""
    role = task.get("ansible.builtin.include_role") or task.get("ansible.builtin.import_role") or {}
    return str(role.get("tasks_from", "main")) if role.get("name") == "kubernetes_app" else ""
