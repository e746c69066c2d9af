"""One caller of the proxy, and what it may do."""

from collections.abc import Container

from athena.auth.api_keys import USUAL_SCOPES, KeyScope
from athena.errors import ForbiddenError
from athena.proxy.quota import Quota
from athena.router.types import ApiKey, Operation


class ModelNotAllowedError(ForbiddenError):
    """The caller's API key may not use this model."""

    title = "Model not allowed"
    code = "model_not_allowed"


class Caller:
    """Who calls: `name` is that of the API key or, where none is asked for, the address.

    `key_id` and what the caller is bound to are those of a key of the registry; any other caller may do what is usual.
    `expires_at` is in seconds since the epoch; `quota` is None where the key has no limits.
    """

    __slots__ = ("_models", "_prefix", "_scopes", "expires_at", "key_id", "name", "quota")

    def __init__(self, name: str, key: ApiKey | None = None, quota: Quota | None = None) -> None:
        self.name = name
        self.quota = quota
        self.key_id: int | None = None
        self.expires_at: float | None = None
        self._models: Container[str] | None = None
        self._scopes: Container[str] = USUAL_SCOPES
        if key is not None:
            self.key_id = key.id
            self.expires_at = key.expires_at.timestamp() if key.expires_at is not None else None
            self._models = frozenset(key.models) if key.models is not None else None
            self._scopes = frozenset(key.scopes)
            self._prefix = key.prefix

    @property
    def administers(self) -> bool:
        """Whether the caller's key lets it change which models an engine has."""
        return KeyScope.ADMIN in self._scopes

    def may_use(self, model: str) -> bool:
        """Return whether the caller may use a model."""
        return self._models is None or model in self._models

    def check_scope(self, scope: KeyScope) -> None:
        """Raise ForbiddenError where the caller's key is not for this."""
        if scope not in self._scopes:
            raise ForbiddenError(f"{self._title} is not for {scope}; its operator gives out one that is.")

    def check_model(self, model: str) -> None:
        """Raise ModelNotAllowedError where the caller may not use a model."""
        if self._models is not None and model not in self._models:
            raise ModelNotAllowedError(
                f"{self._title} may not use the model {model!r}; GET /v1/models lists those that it may.", field="model"
            )

    @property
    def _title(self) -> str:
        return f"The API key {self._prefix}… of {self.name}"


def scope_of(operation: Operation) -> KeyScope:
    """Return what a key has to be for, that a prompt or a request for embeddings comes with."""
    return KeyScope.EMBEDDINGS if operation is Operation.EMBED else KeyScope.PROMPTS
