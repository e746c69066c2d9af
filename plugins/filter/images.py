"""What images and the nodes that are to run them have to do with each other."""

from collections.abc import Iterable, Mapping
from typing import Any

BARRING = ("NoSchedule", "NoExecute")  # a node with such a taint is given none of our pods


class FilterModule:
    """The filters of this file, by name."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {"lacking_platforms": lacking_platforms}


def lacking_platforms(nodes: Iterable[Mapping[str, Any]], platforms: Iterable[str]) -> list[str]:
    """Return the platforms, OS/ARCHITECTURE, of nodes that take pods and that an image has nothing for.

    `nodes` are those of the Kubernetes API. Nodes of another system than Linux are given no pods of ours.
    """
    there = {
        f"{node['status']['nodeInfo']['operatingSystem']}/{node['status']['nodeInfo']['architecture']}"
        for node in nodes
        if _takes_pods(node)
    }
    return sorted(platform for platform in there - set(platforms) if platform.startswith("linux/"))


def _takes_pods(node: Mapping[str, Any]) -> bool:
    spec = node.get("spec") or {}
    return not spec.get("unschedulable") and not any(
        taint.get("effect") in BARRING for taint in spec.get("taints") or []
    )
