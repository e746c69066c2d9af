"""A registry of images, asked by its HTTP API with what `docker login` left."""

import base64
import json
import os
import re
import ssl
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlencode

LOOPBACK = re.compile(r"(127[.]|localhost(:|$))")
HUB, HUB_LOGIN = "registry-1.docker.io", "https://index.docker.io/v1/"
Login = tuple[str, str]
Answer = tuple[int, Message, bytes]
Told = TypeVar("Told")


# --- decisions --------------------------------------------------------------------------------------------------------


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
    """A registry, asked by one of its addresses for what is allowed in one of its places (`pull`, or `pull,push`)."""

    def __init__(self, base: str, opener: urllib.request.OpenerDirector, login: Login | None, patience: int) -> None:
        self.base = base
        self._opener = opener
        self._login = login
        self._patience = patience
        self._who = ""

    def ask(self, method: str, url: str, name: str, actions: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Ask for something of the place `name`, and once more with who we are where the registry wants to know."""
        answer = self._ask(method, url, self._who, headers=headers)
        if answer[0] == HTTPStatus.UNAUTHORIZED:
            self._who = self._known_as(answer[1].get("WWW-Authenticate", ""), name, actions)
            if self._who:
                answer = self._ask(method, url, self._who, headers=headers)
        return answer

    def _known_as(self, header: str, name: str, actions: str) -> str:
        """Return what to say of ourselves where the registry asks; nothing if there is nothing to say."""
        scheme, said = challenged(header)
        if scheme == "basic":
            return self._basic()
        if "realm" not in said:
            return ""
        wanted = {"service": said.get("service", ""), "scope": f"repository:{name}:{actions}"}
        if self._login and self._login[0] == "<token>":
            form = {**wanted, "grant_type": "refresh_token", "client_id": "athena", "refresh_token": self._login[1]}
            _, _, body = self._ask("POST", said["realm"], data=urlencode(form).encode())
        else:
            _, _, body = self._ask("GET", f"{said['realm']}?{urlencode(wanted)}", self._basic())
        answer = json.loads(body or b"{}")
        token = answer.get("token") or answer.get("access_token")
        return f"Bearer {token}" if token else ""

    def _basic(self) -> str:
        return "Basic " + base64.b64encode(":".join(self._login).encode()).decode() if self._login else ""

    def _ask(
        self,
        method: str,
        url: str,
        authorization: str = "",
        data: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        body = data if method == "POST" else None
        request = urllib.request.Request(url, data=body, method=method, headers=dict(headers or {}))  # noqa: S310
        if authorization:  # not where it sends us to: that is another's storage, whose address says who may read
            request.add_unredirected_header("Authorization", authorization)
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
    place = HUB_LOGIN if registry == HUB else registry
    file = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    login, helper = login_in(json.loads(file.read_text()) if file.exists() else {}, place)
    if login or not helper:
        return login
    asked = subprocess.run(
        [f"docker-credential-{helper}", "get"], input=place, capture_output=True, text=True, check=False
    )
    answer = json.loads(asked.stdout) if asked.returncode == 0 else {}
    return (answer["Username"], answer["Secret"]) if answer else None


def at_one_of(registry: str, insecure: bool, patience: int, ask: Callable[[Registry], Told]) -> tuple[Told | None, str]:
    """Return what the first address that answers says; or None, and why there is no answer."""
    error = ""
    try:
        login = kept_login(registry)
    except (OSError, ValueError) as failure:
        return None, f"the login that Docker keeps for it cannot be read: {failure}"
    for base, opener in addresses(registry, insecure):
        try:
            return ask(Registry(base, opener, login, patience)), ""
        except (OSError, HTTPException, ValueError) as failure:
            error = str(getattr(failure, "reason", failure)) or type(failure).__name__
    return None, error
