"""What is to be done to namespaces before anything is made in them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

_OURS = {"app.kubernetes.io/managed-by": "athena"}


class FilterModule:
    """The filters of this file, by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return them."""
        return {"namespaces_to_apply": namespaces_to_apply}


def namespaces_to_apply(
    seen: Iterable[Mapping[str, Any]], names: Iterable[str], shared: Iterable[str], labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the Namespaces that are missing or lack a label, as they are to be applied.

    Those that we share are others' as well, who may have workloads there: they are made without a label, and have none
    that we set before.
    """
    there = {one["metadata"]["name"]: one["metadata"] for one in seen}
    shared, told = set(shared), []
    for name in dict.fromkeys(names):
        wanted = {} if name in shared else {**_OURS, **labels}
        metadata = there.get(name)
        if metadata is not None:
            lacks = wanted.items() - (metadata.get("labels") or {}).items()
            if not lacks and not (name in shared and _has_labels_of_ours(metadata)):
                continue
        labelled = {"labels": wanted} if wanted else {}
        told.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, **labelled}})
    return told


def _has_labels_of_ours(metadata: Mapping[str, Any]) -> bool:
    """Whether the API server knows of labels that `kubernetes_apply` set there."""
    return any(
        entry.get("manager") == "athena" and (entry.get("fieldsV1") or {}).get("f:metadata", {}).get("f:labels")
        for entry in metadata.get("managedFields") or []
    )
