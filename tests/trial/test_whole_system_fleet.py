"""A host with engines is brought to what is declared of it, beside a control plane on a cluster."""

import json
from pathlib import Path

import httpx
import pytest
from deployment import Deployment

pytest_plugins = ["the_deployment"]
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture
def fleet(deployment: Deployment, tmp_path: Path) -> tuple[str, str]:
    """One more model is declared for the host with engines, beside what it has without a declaration."""
    declared = deployment.trial.variables["athena_backends"]
    certificates = "/etc/ssl/certs/ca-certificates.crt"
    index = "{{ lookup('env', 'UV_DEFAULT_INDEX') or lookup('env', 'PIP_INDEX_URL') or omit }}"
    settings = {
        "athena_engine_address": deployment.trial.variables["athena_mlx_addresses"][0],
        "mlx_supervisor": "systemd",
        "athena_engine_environment": {
            "UV_DEFAULT_INDEX": index,
            "PIP_INDEX_URL": index,
            "SSL_CERT_FILE": certificates,
            "PIP_CERT": certificates,
        },
        "athena_models": [
            {"name": "second", "engine": "mlx", "port": 8082, "source": {"random": True}, "decode_concurrency": 2}
        ],
        "athena_backends": f"{{{{ {declared} + athena_model_backends }}}}",
    }
    (tmp_path / "fleet.json").write_text(json.dumps(settings))
    return ("-e", f"@{tmp_path / 'fleet.json'}")


def test_a_model_that_a_fleet_has_anew_is_registered_and_within_reach_of_the_services(
    deployment: Deployment, fleet: tuple[str, str]
) -> None:
    done = deployment.run("fleet", *fleet)
    assert done.code == 0, done.output
    assert "+ backend second at http://" in done.output
    kubectl = deployment.trial.kubectl
    policy = kubectl("get", "networkpolicy/athena-model-proxy", "--namespace", "athena", "--output", "yaml")
    assert "port: 8082" in policy
    question = {"model": "second", "prompt": "Are you there?", "max_tokens": 4}
    answer = httpx.post(f"{deployment.proxy()}/v1/completions", json=question, timeout=60)
    assert answer.status_code == 200, answer.text
    assert deployment.in_force()["content"]["backends"][-1]["model_name"] == "second"
    again = deployment.run("deploy", *fleet)
    assert again.code == 0, again.output
    assert "Nothing new" in again.output
    as_it_was = deployment.run("deploy")
    assert as_it_was.code == 0, as_it_was.output
    assert "- backend second at http://" in as_it_was.output
