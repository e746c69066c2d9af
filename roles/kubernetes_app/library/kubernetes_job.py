#!/usr/bin/python
"""Run a Job to its end on a cluster, and say what it said: one process for what would be six tasks."""

import time
import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import kubernetes
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError
except ImportError:
    kubernetes = None
    IMPORT_ERROR = traceback.format_exc()

DOCUMENTATION = """
module: kubernetes_job
short_description: Run a Job on a cluster and wait for its end
options:
  kubeconfig: {description: The file that says where the cluster is., type: path, required: true}
  definition: {description: The Job., type: dict, required: true}
  patience: {description: How long it may take, in seconds, with the pull of its image., type: int, required: true}
  reads_only: {description: Whether it changes nothing and so runs in check mode as well., type: bool, default: false}
"""
RETURN = """
rc: {description: The command's exit code, -1 where it never began or did not end., type: int}
stdout: {description: What the pod wrote to its log., type: str}
stderr: {description: The end of what it complained of, or why it never began., type: str}
"""
POLL_SECONDS = 0.3


class Runner:
    """A Job on the cluster and what becomes of it."""

    def __init__(self, kubeconfig, definition, patience):
        client = kubernetes.config.new_client_from_config(config_file=kubeconfig)
        self.batch = kubernetes.client.BatchV1Api(client)
        self.core = kubernetes.client.CoreV1Api(client)
        self.definition = definition
        self.name = definition["metadata"]["name"]
        self.namespace = definition["metadata"]["namespace"]
        self.deadline = time.monotonic() + patience

    def run(self):
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

    def log(self, pod):
        """Return what the pod wrote; as it came, because the client makes something else of JSON."""
        reply = self.core.read_namespaced_pod_log(pod.metadata.name, self.namespace, _preload_content=False)
        return reply.data.decode()

    def pod(self):
        """Return the Job's pod, None where there is none yet."""
        pods = self.core.list_namespaced_pod(self.namespace, label_selector=f"job-name={self.name}").items
        return pods[0] if pods else None

    @staticmethod
    def state(pod):
        """Return the state of the pod's only container."""
        statuses = (pod.status.container_statuses or []) if pod else []
        return statuses[0].state if statuses else None

    @staticmethod
    def hopeless(state):
        """Return why a pod will never begin, where that is known."""
        waiting = state.waiting if state else None
        if waiting and waiting.reason in ("ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"):
            return f"{waiting.reason}: {waiting.message or ''}"
        return None

    def why_waiting(self):
        """Return what the cluster warned of last."""
        events = self.core.list_namespaced_event(self.namespace, field_selector="type=Warning").items
        ours = [event.message for event in events if event.involved_object.name.startswith(self.name)]
        return ours[-1] if ours else "the cluster does not say why"

    def remove(self):
        """Take the Job and its pod away."""
        self.batch.delete_namespaced_job(self.name, self.namespace, propagation_policy="Background")


def main():
    module = AnsibleModule(
        argument_spec={
            "kubeconfig": {"type": "path", "required": True},
            "definition": {"type": "dict", "required": True},
            "patience": {"type": "int", "required": True},
            "reads_only": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if kubernetes is None:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=IMPORT_ERROR)
    asked = module.params
    if module.check_mode and not asked["reads_only"]:
        module.exit_json(changed=True, rc=0, stdout="", stderr="")
    try:
        runner = Runner(asked["kubeconfig"], asked["definition"], asked["patience"])
        rc, stdout, stderr = runner.run()
        if rc == 0:
            runner.remove()  # one that failed stays for whoever looks into it, until its time is over
    except (ApiException, HTTPError) as error:
        module.fail_json(msg=f"The cluster refused or did not answer: {error}")
    module.exit_json(changed=not asked["reads_only"], rc=rc, stdout=stdout, stderr=stderr.strip())


if __name__ == "__main__":
    main()
