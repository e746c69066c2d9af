"""Which namespaces are made, which get our labels, and that those of others keep theirs."""

from types import ModuleType
from typing import Any

import pytest
from loading import load

LABELS = {"pod-security.kubernetes.io/enforce": "restricted"}
OURS = {"app.kubernetes.io/managed-by": "athena", **LABELS}
THEIRS = {"team": "automation"}
SHARED = ["automation"]


@pytest.fixture(scope="module")
def namespaces() -> ModuleType:
    return load("roles/kubernetes_app/filter_plugins/namespaces.py")


def seen(name: str, labels: dict[str, str], *, ours: bool = False, by: str = "athena") -> dict[str, Any]:
    fields: dict[str, Any] = {"f:metadata": {"f:labels": {f"f:{label}": {} for label in OURS}}} if ours else {}
    managed = [{"manager": by, "operation": "Apply", "fieldsV1": fields}]
    return {"metadata": {"name": name, "labels": labels, "managedFields": managed}}


def wanted(name: str, **labelled: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, **labelled}}


def test_one_of_ours_is_made_with_our_labels_and_one_that_others_share_without(namespaces: ModuleType) -> None:
    told = namespaces.namespaces_to_apply([], ["athena", "automation", "athena"], SHARED, LABELS)
    assert told == [wanted("athena", labels=OURS), wanted("automation")]


def test_what_is_as_it_should_be_is_left_alone(namespaces: ModuleType) -> None:
    there = [seen("athena", {**OURS, **THEIRS}, ours=True), seen("automation", THEIRS)]
    assert namespaces.namespaces_to_apply(there, ["athena", "automation"], SHARED, LABELS) == []


def test_one_of_ours_gets_a_label_that_it_lacks(namespaces: ModuleType) -> None:
    there = [seen("athena", {**OURS, "pod-security.kubernetes.io/enforce": "privileged"})]
    assert namespaces.namespaces_to_apply(there, ["athena"], SHARED, LABELS) == [wanted("athena", labels=OURS)]


@pytest.mark.parametrize(("by", "told"), [("athena", [wanted("automation")]), ("somebody-else", [])])
def test_labels_that_we_set_on_one_that_others_share_are_taken_back_and_theirs_are_not(
    namespaces: ModuleType, by: str, told: list[dict[str, Any]]
) -> None:
    there = [seen("automation", {**OURS, **THEIRS}, ours=True, by=by)]
    assert namespaces.namespaces_to_apply(there, ["automation"], SHARED, LABELS) == told
