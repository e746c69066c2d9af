"""The proxy's autoscaler on a cluster with a metrics API. Everything is left as it was found."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment
from scratch import wait_until

pytest_plugins = ["the_deployment"]
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

# A target that a machine of two cores exceeds while it is busy with much else, and a proxy that is idle does not.
FEWEST, MOST, PERCENT = 2, 3, 12
RATE = 100


@pytest.fixture
def autoscaled(deployment: Deployment, tmp_path: Path) -> Iterator[Deployment]:
    """The deployment, whose proxy is autoscaled."""
    settings = {"athena_proxy_autoscaling": {"min": FEWEST, "max": MOST, "cpu_percent": PERCENT}}
    (tmp_path / "autoscaling.json").write_text(json.dumps(settings))
    done = deployment.run("deploy", "-e", f"@{tmp_path / 'autoscaling.json'}")
    assert done.code == 0, done.output
    yield deployment
    back = deployment.run("deploy")
    assert back.code == 0, back.output
    assert ready(deployment) == deployment.in_force()["content"]["replicas"]["proxy"]


def seen(deployment: Deployment) -> dict[str, Any]:
    """Return what the autoscaler says of the proxy."""
    told = deployment.trial.kubectl("get", "hpa", "athena-model-proxy", "--namespace", "athena", "--output", "json")
    status: dict[str, Any] = json.loads(told)["status"]
    return status


def ready(deployment: Deployment) -> int:
    """Return how many pods of the proxy are ready."""
    told = deployment.trial.kubectl(
        *("get", "deployment", "athena-model-proxy", "--namespace", "athena"),
        *("--output", "jsonpath={.status.readyReplicas}"),
    )
    return int(told or 0)


def percent(deployment: Deployment) -> int | None:
    """Return how much of the processor that they ask for the proxy's pods use, as far as the autoscaler knows it."""
    (metric,) = seen(deployment).get("currentMetrics") or [{"resource": {"current": {}}}]
    used: int | None = metric.get("resource", {}).get("current", {}).get("averageUtilization")
    return used


def test_the_proxys_pods_become_more_under_load_and_no_request_is_lost(autoscaled: Deployment) -> None:
    wait_until(lambda: percent(autoscaled) is not None, 90)
    assert seen(autoscaled)["currentReplicas"] == FEWEST
    with autoscaled.called(RATE):
        wait_until(lambda: ready(autoscaled) == MOST, 120)
    refused = autoscaled.run("scale", "proxy", "2")
    assert refused.code == 1, refused.output
    assert "is scaled by its autoscaler" in refused.output
