"""Another version of one component: what of the release in force becomes another, and what speaks against it.

The real plays, without what they would do to a cluster.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ledger_environment import CA, CONTENT, NOTHING, Ended, Environment, Tasks
from loading import ROOT
from playing import run_plays

OF_ALL, OLDER, OWN = (f"registry.example.internal/athena@sha256:{digit * 64}" for digit in "123")
APPLICATIONS = {
    "admin": {"name": "admin", "port": 8080, "files": {CA: "old"}, "egress_to": []},
    "proxy": {"name": "proxy", "environment": {"QUEUE_SECONDS": "30"}},
    "orchestrator": {"name": "orchestrator"},
}
IN_FORCE: dict[str, Any] = {
    **CONTENT,
    "images": {"service": OF_ALL, "redis": "redis", "orchestrator": OWN},
    "applications": APPLICATIONS,
    "external_services": [],
    "replicas": {"admin": 2, "proxy": 3, "orchestrator": 2},
    "scaled": {"proxy": 3},
    "redis": {},
    "backends": [],
    "manifests": "of then",
    "cluster": "of-a-test",
}
TIMES = {"since": "2026-01-01T00:00:00+00:00", "until": "2026-01-01T00:01:00+00:00"}
ENTRY = {"outcome": "in force", "action": "deploy", "restores": None, "replaces": None, **TIMES}
# As the registry would tell it: all there is has an image for the nodes, but for what is of elsewhere.
FOUND: Tasks = [
    {
        "ansible.builtin.set_fact": {
            "athena_images_found": [
                {
                    "image": "{{ find_images[0] }}",
                    "digest": f"sha256:{'9' * 64}",
                    "platforms": "{{ ['linux/s390x'] if 'of-elsewhere' in find_images[0] else ['linux/amd64'] }}",
                    "problem": "",
                }
            ]
        }
    }
]
NODES: Tasks = [
    {
        "ansible.builtin.set_fact": {
            "athena_nodes": [{"status": {"nodeInfo": {"operatingSystem": "linux", "architecture": "amd64"}}}]
        }
    }
]
WELL: Tasks = [
    {
        "ansible.builtin.set_fact": {
            "release_preflight": {"problems": []},
            "athena_images_wanted": {"service": OF_ALL, "redis": "redis", "orchestrator": OWN, "proxy": OLDER},
        }
    }
]
ROLLED_OUT: Tasks = [
    {
        "ansible.builtin.debug": {
            "msg": "Rolled out: {{ {'component': application.key, 'as': application.value, 'image': rolled_out,"
            " 'version': service_package_version} | to_json }}"
        },
        "vars": {"rolled_out": "{{ athena_released.images[application.key] | default(athena_image) }}"},
    }
]
BROUGHT_BACK: Tasks = [{"ansible.builtin.debug": {"msg": "In force: {{ athena_released.images | to_json }}"}}]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An environment with two releases, the second with an orchestrator of its own and more pods of the proxy."""
    environment = Environment(tmp_path)
    older = {**IN_FORCE, "images": {"service": OLDER, "redis": "redis"}, "schema": "0"}
    for name, content in (("r1", older), ("r2", IN_FORCE)):
        (environment.state / "ledger" / f"{name}.json").write_text(
            json.dumps({"id": name, **ENTRY, "content": content})
        )
    return environment


def update(environment: Environment, **instead: Tasks) -> Ended:
    """Have the proxy run another version, with these files of tasks in the place of theirs."""
    plays = yaml.safe_load((ROOT / "playbooks" / "update_component.yml").read_text())
    usual = {"look_before_update": WELL, "application": ROLLED_OUT, "activate": BROUGHT_BACK}
    left_out = dict.fromkeys(("known_secrets", "prove", "tell_release"), NOTHING)
    said_to_do = {"release_action": "update", "release_operand": "proxy", "release_second": "r1"}
    return environment.run(plays[1:], {**left_out, **usual, **instead}, **said_to_do)


def look(environment: Environment, *cases: tuple[str, str]) -> list[tuple[dict[str, str], list[str]]]:
    """Return for each component and version the images that the release would have, and what speaks against it.

    That the cluster is away is left aside.
    """
    folder = environment.folder / "tasks" / "cluster"
    folder.mkdir(parents=True)
    (folder / "find_images.yml").write_text(yaml.safe_dump(FOUND))
    (folder / "find_nodes.yml").write_text(yaml.safe_dump(NODES))
    file = "look_before_update.yml"
    (folder / file).write_text((ROOT / "playbooks" / "tasks" / "cluster" / file).read_text())
    tasks: Tasks = [{"ansible.builtin.import_role": {"name": "release", "tasks_from": "in_force"}}]
    for component, version in cases:
        asked = {"release_operand": component, "release_second": version}
        told = "Told: {{ [athena_images_wanted, release_preflight.problems] | to_json }}"
        tasks += [
            {"ansible.builtin.import_tasks": f"tasks/cluster/{file}", "vars": asked},
            {"ansible.builtin.debug": {"msg": told}},
        ]
    done = run_plays(
        environment.folder,
        [{"hosts": "cluster", "gather_facts": False, "tasks": tasks}],
        inventory=environment.folder / "hosts.yml",
        variables={"athena_registry_pull": "registry.example.internal"},
    )
    answers = [json.loads(line.partition("Told: ")[2]) for line in done.stdout.splitlines() if "Told: " in line]
    assert len(answers) == len(cases), done.stdout + done.stderr
    away = "The cluster of /nowhere"
    return [(images, [problem for problem in problems if not problem.startswith(away)]) for images, problems in answers]


def test_one_component_is_rolled_out_and_all_else_stays_as_the_release_in_force_has_it(
    environment: Environment,
) -> None:
    ended = update(environment)
    assert (ended.verdict, ended.locked) == (0, False), ended.said
    rolled_out = [
        json.loads(line.partition("Rolled out: ")[2]) for line in ended.said.splitlines() if "Rolled out: " in line
    ]
    assert rolled_out == [{"component": "proxy", "as": APPLICATIONS["proxy"], "version": "1", "image": OLDER}]
    assert ended.last["content"] == {**IN_FORCE, "images": {**IN_FORCE["images"], "proxy": OLDER}}
    assert [step["step"] for step in ended.last["steps"]] == ["services", "proof"]
    assert (ended.last["id"], ended.last["replaces"], ended.last["migrations"]) == ("r3", "r2", [])


def test_where_its_proof_fails_the_release_in_force_comes_back(environment: Environment) -> None:
    ended = update(environment, prove=[{"ansible.builtin.fail": {"msg": "of a test"}}])
    assert (ended.verdict, ended.last["outcome"]) == (3, "failed, taken back"), ended.said
    assert ended.in_force_again == IN_FORCE["images"]
    content = environment.in_force()
    assert (content["images"], content["schema"]) == (IN_FORCE["images"], IN_FORCE["schema"])


def test_default_has_it_run_the_image_that_the_release_in_force_has_for_all(environment: Environment) -> None:
    default, tag = look(environment, ("orchestrator", "default"), ("proxy", "of-a-test"))
    assert default == ({"service": OF_ALL, "redis": "redis"}, [])
    of_its_own = f"registry.example.internal/athena@sha256:{'9' * 64}"
    assert tag == ({**IN_FORCE["images"], "proxy": of_its_own}, [])


def test_what_cannot_be_run_is_told_before_anything_is_begun(environment: Environment) -> None:
    told = look(environment, ("nobody", "r1"), ("admin", "r1"), ("proxy", "of-elsewhere"))
    (nobody,), (of_another_schema,), (elsewhere,) = (problems for _, problems in told)
    assert nobody == "There is no component nobody; there is: admin proxy orchestrator."
    assert of_another_schema.endswith("`rollback r1` brings both back.")
    assert elsewhere.startswith("of-elsewhere is for linux/s390x alone, and the cluster has nodes of linux/amd64.")


def test_after_a_run_that_stopped_half_way_that_has_to_be_mended_first(environment: Environment) -> None:
    of_whom = {"operand": "", "owner": "someone", "host": "elsewhere", "steps": [{"step": "schema"}], "took_over": []}
    stopped = {**ENTRY, "id": "r3", "outcome": "stopped, not taken back", "content": IN_FORCE, **of_whom}
    (environment.state / "ledger" / "r3.json").write_text(json.dumps(stopped))
    ((_, (problem,)),) = look(environment, ("proxy", "r1"))
    assert "stopped in its step 'schema'" in problem
    assert "`./deploy.sh ENVIRONMENT rollback` goes back to release r2" in problem
