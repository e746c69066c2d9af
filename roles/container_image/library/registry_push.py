#!/usr/bin/python
"""Say whether a registry takes an image from us: an upload is begun and given up, and no image is touched."""

from http import HTTPStatus
from urllib.parse import urljoin

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.image_registry import Registry, at_one_of

DOCUMENTATION = """
module: registry_push
short_description: Say why a registry would not take an image from us
options:
  repository: {description: "Where an image would be pushed, REGISTRY/NAME.", type: str, required: true}
  insecure: {description: Whether HTTP will do and a certificate that nobody vouches for., type: bool, required: true}
  patience: {description: "How long an answer may take, in seconds.", type: int, required: true}
"""
REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
# Of a registry that can only be read, and of one in which somebody has to make the place first.
CLOSED = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)


def problem(registry: str, name: str, status: int, error: str) -> str:
    """Return what speaks against a push, with the remedy; nothing where the upload was begun. 0 is no answer."""
    if error or not status:
        own = " A certificate of its own belongs into /etc/docker/certs.d/." if "certificate" in error.lower() else ""
        return f"The registry {registry} does not answer ({error}). Start it, or change athena_registry_push.{own}"
    if status == HTTPStatus.ACCEPTED:
        return ""
    if status in REFUSED:
        return (
            f"The registry {registry} takes no image {name} from us (it says {status}). Run docker login {registry} as "
            "somebody who may push there."
        )
    if status in CLOSED:
        return (
            f"The registry {registry} takes no image {name} (it says {status}): it can only be read, or has no such "
            "place. Make it there, or change athena_registry_push."
        )
    return f"The registry {registry} takes no image {name} (it says {status}). Its log has the reason."


def status_of_an_upload(registry: Registry, name: str) -> int:
    """Begin an upload and give it up; return what the registry said to the beginning."""
    url = f"{registry.base}/v2/{name}/blobs/uploads/"
    status, headers, _ = registry.ask("POST", url, name, "pull,push")
    if status == HTTPStatus.ACCEPTED and (place := headers.get("Location")):
        registry.ask("DELETE", urljoin(url, place), name, "pull,push")  # one that is left ends by itself
    return status


def look(registry: str, name: str, insecure: bool, patience: int) -> str:
    """Return what speaks against pushing an image there."""
    status, error = at_one_of(registry, insecure, patience, lambda one: status_of_an_upload(one, name))
    return problem(registry, name, status or 0, error)


def main() -> None:
    """Begin an upload and give it up."""
    module = AnsibleModule(
        argument_spec={
            "repository": {"type": "str", "required": True},
            "insecure": {"type": "bool", "required": True},
            "patience": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    asked = module.params
    registry, _, name = asked["repository"].partition("/")
    module.exit_json(changed=False, problem=look(registry, name, asked["insecure"], asked["patience"]))


if __name__ == "__main__":
    main()
