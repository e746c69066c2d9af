"""What an API server of a test's own tells a client first: which kinds of object it knows."""

from collections.abc import Mapping
from typing import Any

Kind = tuple[str, str]  # its name in addresses, and in objects


def known(kinds: Mapping[str, list[Kind]]) -> dict[str, dict[str, Any]]:
    """Return the answers by path, of an API server that knows these kinds: by `v1`, or GROUP/VERSION."""
    groups = [
        {
            "name": version.partition("/")[0],
            "versions": [{"groupVersion": version, "version": version.partition("/")[2]}],
            "preferredVersion": {"groupVersion": version, "version": version.partition("/")[2]},
        }
        for version in kinds
        if "/" in version
    ]
    return {
        "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
        **{
            f"/{'apis' if '/' in version else 'api'}/{version}": {
                "kind": "APIResourceList",
                "groupVersion": version,
                "resources": [
                    {
                        "name": name,
                        "singularName": kind.lower(),
                        "namespaced": kind != "Namespace",
                        "kind": kind,
                        "verbs": ["get", "patch", "delete"],
                    }
                    for name, kind in of_version
                ],
            }
            for version, of_version in kinds.items()
        },
    }
