"""Run a Job to its end on a cluster, and say what it said.

Arguments: `kubeconfig`, `definition` (the Job), `patience` (how long it may take, in seconds, with the pull of its
image), `reads_only` (whether it changes nothing and so runs in check mode as well), `supersedes` (labels, as a
selector: Jobs of the namespace that have them and have not ended are ended before this one begins; none by default).
Answers with `rc` (-1 where it never began or did not end), `stdout` (what the pod wrote to its log) and `stderr` (the
end of what it complained of, or why it never began).

A Job that is given up on is gone, with its pod, before this ends: it would go on otherwise, or begin once its image is
there, when the caller has long taken back what it was to do. Where it cannot be ended this fails and says so.
"""

import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

POLL_SECONDS = 0.3
# For one answer of the API server, and until it is asked again where it gave none.
TIMEOUT_SECONDS = 30
RETRY_SECONDS = 1.0
# Until a Job that is ended is gone: its pod has a grace period, and its node may be busy.
ENDING_SECONDS = 120
PASSING = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
HOPELESS = ("ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError")


class Told(NamedTuple):
    """How a Job ended: exit code, log, and complaint."""

    rc: int
    stdout: str
    stderr: str


class ActionModule(ActionBase):
    """`kubernetes_job: {kubeconfig: …, definition: …, patience: …, reads_only: …, supersedes: …}`."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the Job; see the module's description."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        reads_only = bool(args.get("reads_only"))
        if self._task.check_mode and not reads_only:
            return {**result, "changed": True, "rc": 0, "stdout": "", "stderr": ""}
        runner = Runner(str(Path(args["kubeconfig"]).expanduser()), args["definition"], int(args["patience"]))
        if args.get("supersedes") and not self._task.check_mode:
            runner.end_those(str(args["supersedes"]))
        told = runner.run()
        return {**result, **told._asdict(), "changed": not reads_only, "stderr": told.stderr.strip()}


class Runner:
    """A Job on the cluster and what becomes of it."""

    def __init__(self, kubeconfig: str, definition: dict[str, Any], patience: int) -> None:
        configuration = kubernetes.client.Configuration()
        kubernetes.config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        configuration.retries = False  # `_ask` tries again, and knows until when
        client = kubernetes.client.ApiClient(configuration)
        self.batch = kubernetes.client.BatchV1Api(client)
        self.core = kubernetes.client.CoreV1Api(client)
        self.definition = definition
        self.name = definition["metadata"]["name"]
        self.namespace = definition["metadata"]["namespace"]
        self.patience = patience
        self.deadline = time.monotonic() + patience

    def run(self) -> Told:
        """Return how the Job's only pod ended, with -1 where it never began or did not end.

        Raises AnsibleActionFail where the API server refuses, or does not answer in time.
        """
        self.deadline = time.monotonic() + self.patience
        try:
            self._make()
            told = self._follow()
            if told.rc == 0:  # one that failed stays for whoever looks into it, until its time is over
                self._delete(self.name, "Background")
        except (ApiException, HTTPError) as error:
            reason = f"The cluster refused or did not answer: {error}"
            self._end([self.name], reason)
            raise AnsibleActionFail(reason) from error
        if told.rc == -1:
            self._end([self.name], told.stderr)
        return told

    def end_those(self, selector: str) -> None:
        """End the Jobs with these labels that run, or are still to. Raises AnsibleActionFail where one stays."""
        try:
            jobs = self._ask(self.batch.list_namespaced_job, self.namespace, label_selector=selector).items
        except (ApiException, HTTPError) as error:
            raise AnsibleActionFail(f"The cluster does not say which Jobs still run: {error}") from error
        self._end([job.metadata.name for job in jobs if not has_ended(job)])

    def _make(self) -> None:
        try:
            self._ask(self.batch.create_namespaced_job, self.namespace, self.definition)
        except ApiException as error:
            if error.status != HTTPStatus.CONFLICT:  # its name is of this run alone: only the answer was lost
                raise

    def _follow(self) -> Told:
        while time.monotonic() < self.deadline:
            pod = self._pod(self.name)
            state = state_of(pod)
            if state is not None and state.terminated is not None:
                complaint = state.terminated.message or state.terminated.reason or ""
                return Told(state.terminated.exit_code, self._ask(self._log, pod.metadata.name), complaint)
            if reason := hopeless(state):
                return Told(-1, "", reason)
            time.sleep(POLL_SECONDS)
        return Told(-1, "", f"it has not ended in time; {self._why_waiting()}")

    def _ask(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Return the API server's answer; where it gives none, that of a later time, until the deadline.

        Raises ApiException or HTTPError where it refuses, or has not answered by then.
        """
        while True:
            try:
                return call(*args, **options, _request_timeout=TIMEOUT_SECONDS)
            except (ApiException, HTTPError) as error:
                if not may_pass(error) or time.monotonic() > self.deadline:
                    raise
            time.sleep(RETRY_SECONDS)

    def _log(self, pod: str, **options: Any) -> str:
        """Return what a pod wrote; as it came, because the client makes something else of JSON."""
        reply = self.core.read_namespaced_pod_log(pod, self.namespace, _preload_content=False, **options)
        return str(reply.data.decode())

    def _pod(self, job: str) -> Any:
        """Return the pod of a Job, None where there is none yet, or any more."""
        pods = self._ask(self.core.list_namespaced_pod, self.namespace, label_selector=f"job-name={job}").items
        return pods[0] if pods else None

    def _why_waiting(self) -> str:
        """Return what the cluster warned of last."""
        events = self._ask(self.core.list_namespaced_event, self.namespace, field_selector="type=Warning").items
        ours = [event.message for event in events if event.involved_object.name.startswith(self.name)]
        return ours[-1] if ours else "the cluster does not say why"

    def _end(self, jobs: list[str], reason: str = "") -> None:
        """Have Jobs gone, and their pods with them. Raises AnsibleActionFail, with the reason, where one stays."""
        self.deadline = time.monotonic() + ENDING_SECONDS
        try:
            for job in jobs:
                self._delete(job, "Foreground")  # it is gone when its pod is
            while left := [job for job in jobs if self._is_there(job)]:
                if time.monotonic() > self.deadline:
                    raise AnsibleActionFail(self._may_still_run(left, "its pod does not end", reason))
                time.sleep(POLL_SECONDS)
        except (ApiException, HTTPError) as error:
            raise AnsibleActionFail(self._may_still_run(jobs, str(error), reason)) from error

    def _delete(self, job: str, policy: str) -> None:
        self._unless_missing(self.batch.delete_namespaced_job, job, propagation_policy=policy)

    def _is_there(self, job: str) -> bool:
        return self._pod(job) is not None or self._unless_missing(self.batch.read_namespaced_job, job) is not None

    def _unless_missing(self, call: Callable[..., Any], job: str, **options: Any) -> Any:
        try:
            return self._ask(call, job, self.namespace, **options)
        except ApiException as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
        return None

    def _may_still_run(self, jobs: list[str], why: str, reason: str) -> str:
        command = f"kubectl --namespace {self.namespace} delete job {' '.join(jobs)}"
        told = f"{', '.join(jobs)} may still run in namespace {self.namespace} ({why}). Before anything else: {command}"
        return f"{reason}\n{told}" if reason else told


def may_pass(error: Exception) -> bool:
    """Return whether the API server may answer when it is asked again."""
    return not isinstance(error, ApiException) or error.status in PASSING


def has_ended(job: Any) -> bool:
    """Return whether nothing of a Job runs, or will."""
    conditions = (job.status.conditions or []) if job.status else []
    return any(one.type in ("Complete", "Failed") and one.status == "True" for one in conditions)


def state_of(pod: Any) -> Any:
    """Return the state of the pod's only container, None where there is none yet."""
    statuses = (pod.status.container_statuses or []) if pod else []
    return statuses[0].state if statuses else None


def hopeless(state: Any) -> str | None:
    """Return why a pod will never begin, where that is known."""
    waiting = state.waiting if state else None
    if waiting and waiting.reason in HOPELESS:
        return f"{waiting.reason}: {waiting.message or ''}"
    return None
