"""Run a Job to its end on a cluster, and say what it said.

Arguments: `kubeconfig`, `definition` (the Job), `patience` (how long it may take, in seconds, with the pull of its
image), `reads_only` (whether it changes nothing and so runs in check mode as well).
Answers with `rc` (-1 where it never began or did not end), `stdout` (what the pod wrote to its log) and `stderr` (the
end of what it complained of, or why it never began).
"""

import time
from pathlib import Path
from typing import Any

import kubernetes
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

POLL_SECONDS = 0.3


class ActionModule(ActionBase):
    """`kubernetes_job: {kubeconfig: …, definition: …, patience: …, reads_only: …}`."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the Job; see the module's description."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        reads_only = bool(args.get("reads_only"))
        if self._task.check_mode and not reads_only:
            return {**result, "changed": True, "rc": 0, "stdout": "", "stderr": ""}
        try:
            runner = Runner(str(Path(args["kubeconfig"]).expanduser()), args["definition"], int(args["patience"]))
            rc, stdout, stderr = runner.run()
            if rc == 0:
                runner.remove()  # one that failed stays for whoever looks into it, until its time is over
        except (ApiException, HTTPError) as error:
            raise AnsibleActionFail(f"The cluster refused or did not answer: {error}") from error
        return {**result, "changed": not reads_only, "rc": rc, "stdout": stdout, "stderr": stderr.strip()}


class Runner:
    """A Job on the cluster and what becomes of it."""

    def __init__(self, kubeconfig: str, definition: dict[str, Any], patience: int) -> None:
        client = kubernetes.config.new_client_from_config(config_file=kubeconfig)
        self.batch = kubernetes.client.BatchV1Api(client)
        self.core = kubernetes.client.CoreV1Api(client)
        self.definition = definition
        self.name = definition["metadata"]["name"]
        self.namespace = definition["metadata"]["namespace"]
        self.deadline = time.monotonic() + patience

    def run(self) -> tuple[int, str, str]:
        """Return exit code, log and complaint of the Job's only pod."""
        self.batch.create_namespaced_job(self.namespace, self.definition)
        while time.monotonic() < self.deadline:
            pod = self.pod()
            state = self.state(pod)
            if state is not None and state.terminated is not None:
                return (
                    state.terminated.exit_code,
                    self.log(pod),
                    state.terminated.message or state.terminated.reason or "",
                )
            if hopeless := self.hopeless(state):
                return -1, "", hopeless
            time.sleep(POLL_SECONDS)
        return -1, "", f"it has not ended in time; {self.why_waiting()}"

    def log(self, pod: Any) -> str:
        """Return what the pod wrote; as it came, because the client makes something else of JSON."""
        reply = self.core.read_namespaced_pod_log(pod.metadata.name, self.namespace, _preload_content=False)
        return reply.data.decode()

    def pod(self) -> Any:
        """Return the Job's pod, None where there is none yet."""
        pods = self.core.list_namespaced_pod(self.namespace, label_selector=f"job-name={self.name}").items
        return pods[0] if pods else None

    @staticmethod
    def state(pod: Any) -> Any:
        """Return the state of the pod's only container."""
        statuses = (pod.status.container_statuses or []) if pod else []
        return statuses[0].state if statuses else None

    @staticmethod
    def hopeless(state: Any) -> str | None:
        """Return why a pod will never begin, where that is known."""
        waiting = state.waiting if state else None
        if waiting and waiting.reason in ("ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"):
            return f"{waiting.reason}: {waiting.message or ''}"
        return None

    def why_waiting(self) -> str:
        """Return what the cluster warned of last."""
        events = self.core.list_namespaced_event(self.namespace, field_selector="type=Warning").items
        ours = [event.message for event in events if event.involved_object.name.startswith(self.name)]
        return ours[-1] if ours else "the cluster does not say why"

    def remove(self) -> None:
        """Take the Job and its pod away."""
        self.batch.delete_namespaced_job(self.name, self.namespace, propagation_policy="Background")
