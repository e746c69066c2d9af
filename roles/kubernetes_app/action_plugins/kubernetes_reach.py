"""Say whether a cluster answers us, and if it does not, why.

Arguments: `kubeconfig`, `patience` (how long an answer may take, in seconds).
Answers with `silence`: empty where the cluster answers and has nodes, otherwise the reason.
"""

from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.action import ActionBase
from kubernetes.client import ApiClient, Configuration, CoreV1Api
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException, load_kube_config
from urllib3.exceptions import HTTPError


class ActionModule(ActionBase):
    """`kubernetes_reach: {kubeconfig: …, patience: …}`."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask once; see the module's description."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        return {**result, "changed": False, "silence": silence(args["kubeconfig"], float(args["patience"]))}


def silence(kubeconfig: str, patience: float) -> str:
    """Return why the cluster does not answer, or does not let us in; nothing where it answers and has nodes."""
    configuration = Configuration()
    try:
        load_kube_config(config_file=str(Path(kubeconfig).expanduser()), client_configuration=configuration)
        configuration.retries = False  # the client would ask three times, each with all its patience
        nodes = CoreV1Api(ApiClient(configuration)).list_node(limit=1, _request_timeout=patience)
    except ApiException as error:
        return f"it says {error.status} {error.reason}"
    except (ConfigException, HTTPError, OSError, ValueError, TypeError, yaml.YAMLError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return "" if nodes.items else "it has no nodes"
