"""The Admin API as the command line talks to it."""

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from athena.cli.environment import KEPT_OUT
from athena.cli.words import without_credentials
from athena.connecting import persist
from athena.errors import (
    AthenaError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    UnauthorizedError,
    UnavailableError,
)
from athena.settings import ClientSettings

PATH = "/api/llm-backends"
HOSTS_PATH = "/api/hosts"
KEYS_PATH = "/api/api-keys"
TIMEOUT_SECONDS = 15.0
CONNECT_AGAIN_AFTER_SECONDS = 3.0
_ERRORS: dict[int, type[AthenaError]] = {
    error.status: error
    for error in (UnauthorizedError, ForbiddenError, NotFoundError, ConflictError, InvalidInputError, UnavailableError)
}


Rows = list[dict[str, Any]]


def token_of(settings: ClientSettings, token_file: Path | None) -> str:
    """Return the token of `token_file` if there is one, else of ADMIN_API_TOKEN, which may be empty.

    Raises UnauthorizedError where the file has none, or what it has cannot be a token.
    """
    token = settings.admin_api_token.get_secret_value() if settings.admin_api_token is not None else ""
    if token_file is not None:
        try:
            token = token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            fault = error.strerror if isinstance(error, OSError) else "it is not text"
            raise UnauthorizedError(f"cannot read the token file {token_file}: {fault}") from None
        if not token:
            raise UnauthorizedError(f"the token file {token_file} is empty")
    if not token.isascii() or not token.isprintable():
        raise UnauthorizedError("the token for the Admin API holds characters that no token has")
    return token


class RegistryClient:
    """The registry's operations; every failure is an AthenaError with the Admin API's own words."""

    def __init__(self, settings: ClientSettings, token_file: Path | None = None) -> None:
        """Take the token from `token_file` if there is one, else from ADMIN_API_TOKEN; raises UnauthorizedError."""
        self._url = settings.admin_api_url
        self._connect_seconds = settings.connect_seconds
        # Where it is tried anew, none of the attempts is to wait for as long as all of them.
        connect = CONNECT_AGAIN_AFTER_SECONDS if settings.connect_seconds else TIMEOUT_SECONDS
        self._timeout = httpx.Timeout(TIMEOUT_SECONDS, connect=connect)
        token = token_of(settings, token_file)
        if not token:
            raise UnauthorizedError("no token for the Admin API: set ADMIN_API_TOKEN or name a --token-file")
        self._headers = {"Authorization": f"Bearer {token}"}

    def list(self, *, enabled_only: bool = False) -> list[dict[str, Any]]:
        """Return every backend, in the registry's order."""
        backends: list[dict[str, Any]] = self._call(
            "GET", PATH, params={"enabled_only": "true"} if enabled_only else None
        )
        return backends

    def version(self) -> int:
        """Return the registry's version, which grows with every change."""
        return int(self._call("GET", f"{PATH}/changes", params={"after": 0, "wait": 0})["version"])

    def add(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Create a backend and return it."""
        backend: dict[str, Any] = self._call("POST", PATH, json=fields)
        return backend

    def set(self, backend_id: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Change these fields of a backend and return it whole."""
        backend: dict[str, Any] = self._call("PUT", f"{PATH}/{backend_id}", json=fields)
        return backend

    def toggle(self, backend_id: int) -> dict[str, Any]:
        """Enable a disabled backend or disable an enabled one, and return it."""
        backend: dict[str, Any] = self._call("POST", f"{PATH}/{backend_id}/toggle")
        return backend

    def remove(self, backend_id: int) -> None:
        """Delete a backend."""
        self._call("DELETE", f"{PATH}/{backend_id}")

    def hosts(self) -> Rows:
        """Return every host with the last report of its agent."""
        hosts: Rows = self._call("GET", HOSTS_PATH)
        return hosts

    def forget_host(self, name: str) -> None:
        """Forget a host."""
        self._call("DELETE", f"{HOSTS_PATH}/{quote(name, safe='')}")

    def keys(self, *, valid_only: bool = False) -> Rows:
        """Return what is known of every API key, oldest first."""
        keys: Rows = self._call("GET", KEYS_PATH, params={"valid_only": "true"} if valid_only else None)
        return keys

    def make_key(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Make an API key and return what is known of it, with itself as `key`."""
        made: dict[str, Any] = self._call("POST", KEYS_PATH, json=fields)
        return made

    def change_key(self, key_id: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Change the given fields of an API key and return what is known of it."""
        changed: dict[str, Any] = self._call("PUT", f"{KEYS_PATH}/{key_id}", json=fields)
        return changed

    def revoke_key(self, key_id: int) -> dict[str, Any]:
        """Have an API key hold no more, and return what is known of it."""
        revoked: dict[str, Any] = self._call("POST", f"{KEYS_PATH}/{key_id}/revoke")
        return revoked

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            answer = persist(
                lambda: httpx.request(
                    method, self._url + path, headers=self._headers, timeout=self._timeout, trust_env=False, **arguments
                ),
                seconds=self._connect_seconds,
                was_kept_out=_got_no_connection,
            )
            if answer.is_success:
                return answer.json() if answer.content else None
        except (httpx.HTTPError, ValueError) as error:
            url = without_credentials(self._url)
            remedy = f"; {KEPT_OUT.format('ADMIN_API_URL')}" if _got_no_connection(error) else ""
            raise UnavailableError(f"no answer from the Admin API at {url}: {error}{remedy}") from None
        raise _error(answer)


def _got_no_connection(error: Exception) -> bool:
    """Return whether a connection was refused, took too long or had no address: a fault of TLS is an answer."""
    if isinstance(error, httpx.ConnectTimeout):
        return True
    if not isinstance(error, httpx.ConnectError):
        return False
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return cause is None


def _error(answer: httpx.Response) -> AthenaError:
    """Return the error that a problem object describes, with the field at fault in front of its sentence."""
    try:
        problem = answer.json()
        detail = str(problem["detail"])
        faults = problem.get("errors") or []
        sentence = "; ".join(f"{fault['field']}: {fault['detail']}" for fault in faults) or detail
    except (ValueError, TypeError, KeyError, AttributeError):
        url = without_credentials(str(answer.url))
        sentence = f"{url} answered {answer.status_code} with no problem object: is it the Admin API?"
    return _ERRORS.get(answer.status_code, AthenaError)(sentence)
