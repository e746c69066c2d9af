"""Have objects on a cluster as declared, applied by the API server in our name.

Everything is asked about before anything is changed: what the API server would refuse is refused with nothing done.

Arguments: `kubeconfig`, `objects` (in the order in which they are made), `manager` (in whose name; `athena` if not
given).
Answers with `different`, the objects that were not as declared, `changes`, their kinds, and `missing`, the kinds of
those that were not there. In check mode, what would
be in a namespace that is not there counts as different, because the API server cannot be asked about it.

An action and no module: it runs in a copy of Ansible's own process, which has loaded the client once. Each module would
take most of a second to do that.
"""

import json
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from kubernetes.config import ConfigException, new_client_from_config
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import DynamicApiError, NotFoundError, ResourceNotFoundError
from urllib3.exceptions import HTTPError

# What the API server writes of its own accord.
SERVERS_OWN = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp")
TIMEOUT_SECONDS = 30
Object = dict[str, Any]


class ActionModule(ActionBase):
    """`kubernetes_apply: {kubeconfig: …, objects: […], manager: …}`."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Compare the objects, and apply those that differ, or say why not; see the module's description."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            return {**result, **self._have()}
        except AnsibleActionFail as error:  # returned, because what is raised asks no `failed_when` of the task
            return {**result, **error.result}

    def _have(self) -> dict[str, Any]:
        args = self._task.args
        try:
            cluster = Cluster(args["kubeconfig"], args.get("manager") or "athena")
            only_look = bool(self._task.check_mode)
            objects = json.loads(json.dumps(args["objects"]))  # without Ansible's marks of where each value is from
            compared = [(wanted, *cluster.compare(wanted, only_look)) for wanted in objects]
            different = [(wanted, before, after) for wanted, before, after in compared if before != after]
            if not only_look:
                for wanted, _, _ in different:
                    cluster.apply(wanted)
        except ConfigException as error:
            raise AnsibleActionFail(f"{args['kubeconfig']} does not say where the cluster is: {error}") from error
        except HTTPError as error:
            raise AnsibleActionFail(f"The cluster of {args['kubeconfig']} does not answer: {error}") from error
        shown = {"diff": [difference(*one) for one in different]} if self._task.diff else {}
        return {
            **shown,
            "changed": bool(different),
            "changes": [wanted["kind"] for wanted, _, _ in different],
            "missing": [wanted["kind"] for wanted, before, _ in different if not before],
            "different": [wanted for wanted, _, _ in different],
        }


class Cluster:
    """The API server, asked for one object at a time."""

    def __init__(self, kubeconfig: str, manager: str) -> None:
        self._client = DynamicClient(new_client_from_config(config_file=str(Path(kubeconfig).expanduser())))
        self._manager = manager

    def compare(self, wanted: Object, only_look: bool) -> tuple[Object, Object]:
        """Return what there is, and what there would be. Raises AnsibleActionFail where it would be refused."""
        before = self._get(wanted)
        try:
            after = self.apply(wanted, dry_run="All")
        except MissingNamespace:
            if not only_look:
                raise
            after = wanted
        return before, after

    def apply(self, wanted: Object, **options: str) -> Object:
        """Have one object as declared, and return it. Raises AnsibleActionFail if it is refused."""
        try:
            applied = self._client.server_side_apply(
                self._resource(wanted),
                wanted,
                field_manager=self._manager,
                force_conflicts=True,
                _request_timeout=TIMEOUT_SECONDS,
                **options,
            )
        except DynamicApiError as error:
            refused = MissingNamespace if namespace_is_missing(error) else AnsibleActionFail
            # What it says of a secret could have something of it, and Ansible tells of causes as well.
            is_secret = wanted["kind"] == "Secret"
            why = error.reason if is_secret else error.summary()
            raise refused(f"The API server refuses {title(wanted)}: {why}") from (None if is_secret else error)
        return plain(applied)

    def _get(self, wanted: Object) -> Object:
        metadata = wanted["metadata"]
        try:
            there = self._resource(wanted).get(
                name=metadata["name"], namespace=metadata.get("namespace"), _request_timeout=TIMEOUT_SECONDS
            )
        except NotFoundError:
            return {}
        except DynamicApiError as error:
            raise AnsibleActionFail(f"The API server does not show {title(wanted)}: {error.summary()}") from error
        return plain(there)

    def _resource(self, wanted: Object) -> Any:
        try:
            return self._client.resources.get(api_version=wanted["apiVersion"], kind=wanted["kind"])
        except ResourceNotFoundError as error:
            raise AnsibleActionFail(f"The cluster does not know {wanted['apiVersion']} {wanted['kind']}.") from error


class MissingNamespace(AnsibleActionFail):
    """The object's namespace is not there."""


def namespace_is_missing(error: DynamicApiError) -> bool:
    """Whether an object was refused because of its namespace."""
    return isinstance(error, NotFoundError) and "namespaces" in error.summary()


def plain(found: Any) -> Object:
    """Return an object without what the API server writes of its own accord."""
    known = found.to_dict()
    known.pop("status", None)
    for field in SERVERS_OWN:
        known["metadata"].pop(field, None)
    return dict(known)


def title(wanted: Object) -> str:
    """Return how a person would name an object."""
    metadata = wanted["metadata"]
    return f"{wanted['kind']} {'/'.join(filter(None, [metadata.get('namespace'), metadata['name']]))}"


def difference(wanted: Object, before: Object, after: Object) -> dict[str, str]:
    """Return what a person is shown of an object that differs."""
    return {
        "before": yaml.safe_dump(before) if before else "",
        "after": yaml.safe_dump(after),
        "before_header": title(wanted),
        "after_header": title(wanted),
    }
