"""Which platforms of a cluster's nodes an image has nothing for."""

from typing import Any

from loading import load

lacking = load("plugins/filter/images.py").lacking_platforms


def node(architecture: str, system: str = "linux", **spec: Any) -> dict[str, Any]:
    return {"spec": spec, "status": {"nodeInfo": {"operatingSystem": system, "architecture": architecture}}}


def test_an_image_for_every_platform_of_the_nodes_lacks_none() -> None:
    assert lacking([node("amd64"), node("arm64")], ["linux/amd64", "linux/arm64", "linux/riscv64"]) == []
    assert lacking([], ["linux/amd64"]) == []


def test_one_that_a_node_cannot_run_lacks_its_platform() -> None:
    assert lacking([node("amd64"), node("arm64"), node("arm64")], ["linux/amd64"]) == ["linux/arm64"]
    assert lacking([node("amd64")], []) == ["linux/amd64"]


def test_nodes_that_take_none_of_our_pods_do_not_count() -> None:
    tainted = node("arm64", taints=[{"key": "gpu", "effect": "NoSchedule"}])
    preferring = node("arm64", taints=[{"key": "gpu", "effect": "PreferNoSchedule"}])
    cordoned = node("s390x", unschedulable=True)
    assert lacking([tainted, cordoned, node("amd64", "windows")], ["linux/amd64"]) == []
    assert lacking([preferring], ["linux/amd64"]) == ["linux/arm64"]
