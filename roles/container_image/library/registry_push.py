#!/usr/bin/python
"""Say whether a registry takes an image from us: an upload is begun and given up, and no image is touched."""

import base64
import json
import os
import re
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from email.message import Message
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: registry_push
short_description: Say why a registry would not take an image from us
options:
  repository: {description: "Where an image would be pushed, REGISTRY/NAME.", type: str, required: true}
  insecure: {description: Whether HTTP will do and a certificate that nobody vouches for., type: bool, required: true}
  patience: {description: "How long an answer may take, in seconds.", type: int, required: true}
"""
LOOPBACK = re.compile(r"(127[.]|localhost(:|$))")
REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
# Of a registry that can only be read, and of one in which somebody has to make the place first.
CLOSED = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)
Login = tuple[str, str]


# --- decisions --------------------------------------------------------------------------------------------------------


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


def challenged(header: str) -> tuple[str, dict[str, str]]:
    """Return how a registry wants to know who we are, `basic` or `bearer`, and what it says of that."""
    scheme, _, rest = header.partition(" ")
    return scheme.lower(), dict(re.findall(r'(\w+)="([^"]*)"', rest))


def login_in(settings: dict[str, Any], registry: str) -> tuple[Login | None, str]:
    """Return the login that Docker keeps for a registry in its own file, or the program that keeps it."""
    helper = settings.get("credHelpers", {}).get(registry) or settings.get("credsStore") or ""
    for place in (registry, f"https://{registry}"):
        entry = settings.get("auths", {}).get(place, {})
        if token := entry.get("identitytoken"):
            return ("<token>", token), helper
        if encoded := entry.get("auth"):
            user, _, password = base64.b64decode(encoded).decode().partition(":")
            return (user, password), helper
    return None, helper


# --- the registry -----------------------------------------------------------------------------------------------------


class Registry:
    """A registry, asked by one of its addresses."""

    def __init__(self, base: str, opener: urllib.request.OpenerDirector, login: Login | None, patience: int) -> None:
        self.base = base
        self._opener = opener
        self._login = login
        self._patience = patience

    def status_of_an_upload(self, name: str) -> int:
        """Begin an upload and give it up; return what the registry said to the beginning."""
        url = f"{self.base}/v2/{name}/blobs/uploads/"
        status, headers, _ = self._ask("POST", url)
        who = ""
        if status == HTTPStatus.UNAUTHORIZED and (who := self._who(headers.get("WWW-Authenticate", ""), name)):
            status, headers, _ = self._ask("POST", url, authorization=who)
        if status == HTTPStatus.ACCEPTED and (place := headers.get("Location")):
            self._ask("DELETE", urljoin(url, place), authorization=who)  # one that is left ends by itself
        return status

    def _who(self, header: str, name: str) -> str:
        """Return what to say of ourselves where the registry asks; nothing if there is nothing to say."""
        scheme, said = challenged(header)
        if scheme == "basic":
            return self._basic()
        if "realm" not in said:
            return ""
        wanted = {"service": said.get("service", ""), "scope": f"repository:{name}:pull,push"}
        if self._login and self._login[0] == "<token>":
            form = {**wanted, "grant_type": "refresh_token", "client_id": "athena", "refresh_token": self._login[1]}
            _, _, body = self._ask("POST", said["realm"], data=urlencode(form).encode())
        else:
            _, _, body = self._ask("GET", f"{said['realm']}?{urlencode(wanted)}", authorization=self._basic())
        answer = json.loads(body or b"{}")
        token = answer.get("token") or answer.get("access_token")
        return f"Bearer {token}" if token else ""

    def _basic(self) -> str:
        return "Basic " + base64.b64encode(":".join(self._login).encode()).decode() if self._login else ""

    def _ask(self, method: str, url: str, authorization: str = "", data: bytes = b"") -> tuple[int, Message, bytes]:
        body = data if method == "POST" else None
        request = urllib.request.Request(url, data=body, method=method)  # noqa: S310
        if authorization:
            request.add_header("Authorization", authorization)
        try:
            with self._opener.open(request, timeout=self._patience) as answer:
                return answer.status, answer.headers, answer.read()
        except HTTPError as refusal:
            return refusal.code, refusal.headers, refusal.read()


def addresses(registry: str, insecure: bool) -> Iterator[tuple[str, urllib.request.OpenerDirector]]:
    """Yield the addresses of a registry, in the order in which Docker tries them."""
    trusted = ssl.create_default_context()
    for certificate in Path("/etc/docker/certs.d", registry).glob("*.crt"):
        trusted.load_verify_locations(certificate)
    if insecure:
        trusted.check_hostname = False
        trusted.verify_mode = ssl.CERT_NONE
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=trusted)]
    if LOOPBACK.match(registry):
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)
    yield f"https://{registry}", opener
    if insecure:
        yield f"http://{registry}", opener


def kept_login(registry: str) -> Login | None:
    """Return the login that `docker login` left."""
    file = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    login, helper = login_in(json.loads(file.read_text()) if file.exists() else {}, registry)
    if login or not helper:
        return login
    asked = subprocess.run(
        [f"docker-credential-{helper}", "get"], input=registry, capture_output=True, text=True, check=False
    )
    answer = json.loads(asked.stdout) if asked.returncode == 0 else {}
    return (answer["Username"], answer["Secret"]) if answer else None


def look(registry: str, name: str, insecure: bool, patience: int) -> str:
    """Return what speaks against pushing an image there."""
    status, error = 0, ""
    try:
        login = kept_login(registry)
        for base, opener in addresses(registry, insecure):
            try:
                status, error = Registry(base, opener, login, patience).status_of_an_upload(name), ""
                break
            except (OSError, HTTPException, ValueError) as failure:
                error = str(getattr(failure, "reason", failure)) or type(failure).__name__
    except (OSError, ValueError) as failure:
        error = f"the login that Docker keeps for it cannot be read: {failure}"
    return problem(registry, name, status, error)


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
