"""API keys of the proxy's callers: what they look like, what they may be for, and what is kept of them.

A key is 256 random bits. Its plain SHA-256 is kept and nothing else: nobody can guess back what is random and that
long. A slow hash, which protects passwords that people make up, would only make each request slow.
"""

import re
import secrets
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple

KEY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"
"""The name of a key's caller, as logs and queues know them; a name may have several keys."""

_BEGINNING = "sk-athena-"
_SHOWN = len(_BEGINNING) + 6
_NAME = re.compile(KEY_NAME.removeprefix("^").removesuffix("$"), re.ASCII)


class KeyScope(StrEnum):
    """What a key is for: prompts (chat, completions, responses), embeddings, the lists of models, or to change which
    models an engine has.
    """

    PROMPTS = "prompts"
    EMBEDDINGS = "embeddings"
    MODELS = "models"
    ADMIN = "admin"


USUAL_SCOPES = tuple(scope for scope in KeyScope if scope is not KeyScope.ADMIN)
"""What a key is for where nobody says."""


class NewKey(NamedTuple):
    """A key that was just made: itself, what it is known by to people, and what is kept of it."""

    key: str
    prefix: str
    digest: str


def make_key() -> NewKey:
    """Return a new key. Of its 43 random characters the prefix shows six: 220 bits remain that nobody can guess."""
    key = _BEGINNING + secrets.token_urlsafe(32)
    return NewKey(key, key[:_SHOWN], digest_of(key))


def digest_of(key: str) -> str:
    """Return what is kept of a key: its SHA-256, as 64 hexadecimal digits."""
    return sha256(key.encode()).hexdigest()


def is_key_name(name: str) -> bool:
    """Return whether a key's caller can be called that."""
    return _NAME.fullmatch(name) is not None
