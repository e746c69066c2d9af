"""Say whether a cluster answers us, and if it does not, why; and what it would not let us do.

Arguments: `kubeconfig`, `patience` (how long an answer may take, in seconds), `namespaces` and `needs` (what we must be
allowed in each of them: rows of `group`, `resources`, `verbs`; none by default), `pull_secret` (with which images are
to be pulled in each of them; none by default).
Answers with `silence`: empty where the cluster answers and has nodes, otherwise the reason; and with `lacks`: for each
namespace where something is forbidden, what; with `without`: the namespaces that have no such secret for images; and,
where there are namespaces to ask about, with `version`, MAJOR.MINOR of its Kubernetes, empty if it does not say; and
with `uid`, by which the cluster is known from others, empty where we may not see it.
"""

import re
from collections.abc import Iterable, Mapping
from http.client import FORBIDDEN, NOT_FOUND
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.action import ActionBase
from kubernetes.client import (
    ApiClient,
    AuthorizationV1Api,
    Configuration,
    CoreV1Api,
    V1SelfSubjectRulesReview,
    V1SelfSubjectRulesReviewSpec,
)
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException, load_kube_config
from urllib3.exceptions import HTTPError

# What the type of a secret has to be for nodes to pull with it.
_PULLS = ("kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg")
_AWAY = (ConfigException, HTTPError, OSError, ValueError, TypeError, yaml.YAMLError)


class ActionModule(ActionBase):
    """`kubernetes_reach: {kubeconfig: …, patience: …, namespaces: …, needs: …, pull_secret: …}`."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask once; see the module's description."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        kubeconfig, patience = args["kubeconfig"], float(args["patience"])
        reason, lacks, without, told, known = silence(kubeconfig, patience), [], [], "", ""
        if not reason:
            try:
                known = uid(kubeconfig, patience)
            except ApiException as error:
                reason = f"it does not say which cluster it is: {error.status} {error.reason}"
            except _AWAY as error:
                reason = _words(error)
        if not reason and args.get("needs") and args.get("namespaces"):
            try:
                told = version(kubeconfig, patience)
                lacks = forbidden(kubeconfig, patience, args["namespaces"], args["needs"])
                if args.get("pull_secret"):
                    without = without_pull_secret(kubeconfig, patience, args["namespaces"], args["pull_secret"])
            except ApiException as error:
                reason = f"it does not say what we may do: {error.status} {error.reason}"
            except _AWAY as error:
                reason = _words(error)
        answers = {"silence": reason, "lacks": lacks, "without": without, "version": told, "uid": known}
        return {**result, "changed": False, **answers}


def silence(kubeconfig: str, patience: float) -> str:
    """Return why the cluster does not answer, or does not let us in; nothing where it answers and has nodes."""
    try:
        nodes = CoreV1Api(_client(kubeconfig)).list_node(limit=1, _request_timeout=patience)
    except ApiException as error:
        return f"it says {error.status} {error.reason}"
    except _AWAY as error:
        return _words(error)
    return "" if nodes.items else "it has no nodes"


def uid(kubeconfig: str, patience: float) -> str:
    """Return the UID of the namespace kube-system, which is there as long as its cluster; nothing if it is not shown.

    Raises what the client of Kubernetes raises where the cluster does not answer.
    """
    try:
        found = CoreV1Api(_client(kubeconfig)).read_namespace("kube-system", _request_timeout=patience)
    except ApiException as error:
        if error.status in {FORBIDDEN, NOT_FOUND}:
            return ""
        raise
    return (found.metadata.uid or "") if found.metadata else ""


def version(kubeconfig: str, patience: float) -> str:
    """Return MAJOR.MINOR of the cluster's Kubernetes; nothing where it does not say, or not to us.

    Raises what the client of Kubernetes raises where the cluster does not answer.
    """
    asked = {"response_type": "object", "auth_settings": ["BearerToken"], "_request_timeout": patience}
    try:
        answer = _client(kubeconfig).call_api("/version", "GET", **asked)[0]
    except ApiException:
        return ""
    # Some who run clusters for others write 30+.
    numbers = [re.match(r"\d+", str(answer.get(part, ""))) for part in ("major", "minor")]
    return ".".join(number[0] for number in numbers if number) if all(numbers) else ""


def forbidden(
    kubeconfig: str, patience: float, namespaces: Iterable[str], needs: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Return for each namespace where something that is needed is forbidden what that is.

    A namespace of which the cluster cannot tell all rules (`incomplete`: a webhook decides) is taken as allowed.
    Raises what the client of Kubernetes raises where the cluster does not answer.
    """
    api, told = AuthorizationV1Api(_client(kubeconfig)), []
    needs = list(needs)
    for namespace in namespaces:
        review = V1SelfSubjectRulesReview(spec=V1SelfSubjectRulesReviewSpec(namespace=namespace))
        status = api.create_self_subject_rules_review(review, _request_timeout=patience).status
        rules = [rule.to_dict() for rule in status.resource_rules]
        if not status.incomplete and (lacks := lacking(rules, needs)):
            told.append(f"{namespace}: {'; '.join(lacks)}")
    return told


def without_pull_secret(kubeconfig: str, patience: float, namespaces: Iterable[str], name: str) -> list[str]:
    """Return the namespaces that have no secret of that name with which nodes pull images.

    Where we may not look, it is taken as being there. Raises what the client of Kubernetes raises where the cluster
    does not answer.
    """
    api, told = CoreV1Api(_client(kubeconfig)), []
    for namespace in namespaces:
        try:
            found = api.read_namespaced_secret(name, namespace, _request_timeout=patience)
        except ApiException as error:
            if error.status == NOT_FOUND:
                told.append(namespace)
            elif error.status != FORBIDDEN:
                raise
        else:
            if found.type not in _PULLS:
                told.append(namespace)
    return told


def lacking(rules: Iterable[Mapping[str, Any]], needs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what of the needs no rule allows, as "VERBS RESOURCE". A rule that names objects allows nothing else."""
    general = [rule for rule in rules if not rule["resource_names"]]
    lacks = []
    for need in needs:
        for resource in need["resources"]:
            missing = [verb for verb in need["verbs"] if not _is_allowed(general, need["group"], resource, verb)]
            if missing:
                lacks.append(f"{', '.join(missing)} {resource}")
    return lacks


def _is_allowed(rules: Iterable[Mapping[str, Any]], group: str, resource: str, verb: str) -> bool:
    return any(
        {group, "*"} & set(rule["api_groups"] or ())
        and {resource, "*"} & set(rule["resources"] or ())
        and {verb, "*"} & set(rule["verbs"])
        for rule in rules
    )


def _client(kubeconfig: str) -> ApiClient:
    configuration = Configuration()
    load_kube_config(config_file=str(Path(kubeconfig).expanduser()), client_configuration=configuration)
    configuration.retries = False  # the client would ask three times, each with all its patience
    return ApiClient(configuration)


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
