"""The closed table of what can go wrong with a request, as metrics name it, and who is at fault.

A test holds the table to the errors of the package: each `code` is here.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class ErrorGroup(StrEnum):
    """Who is at fault where a caller did not get what it asked for."""

    CALLER = "caller"  # it asked for what cannot be given, or left
    POLICY = "policy"  # a rule or a limit for callers turned it away, as it should
    BACKEND = "backend"  # we are: an engine, a service or its surroundings; the group that counts against us


CANCELLED = "cancelled"  # the caller left, or did not read
SHUTDOWN = "shutdown"  # the process ended meanwhile
REGISTERED_MODEL_MISSING = "registered_model_missing"  # the registry has the model, and no engine of its route has it
OTHER = "other"  # what this table does not have

_GROUPS = {
    ErrorGroup.CALLER: (
        "bad_request",
        "caller_left",
        CANCELLED,
        "conflict",
        "invalid_input",
        "method_not_allowed",
        "model_not_found",
        "need_without_home",
        "not_found",
        "request_rejected",
        "request_timeout",
    ),
    ErrorGroup.POLICY: (
        "forbidden",
        "head_too_large",
        "model_not_allowed",
        "payload_too_large",
        "rate_limit_exceeded",
        "too_many_requests",
        "unauthorized",
    ),
    ErrorGroup.BACKEND: (
        "agent_configuration_unusable",
        "api_keys_unusable",
        "backend_failed",
        "command_failed",
        "database_unavailable",
        "embedded_postgres",
        "engine_failed",
        "internal_error",
        "no_backend_available",
        "out_of_room",
        "overloaded",
        "registry_out_of_reach",
        "schema_not_ready",
        "shutting_down",
        "stream_broken",
        "too_many_connections",
        "unavailable",
        "wrong_intents",
        REGISTERED_MODEL_MISSING,
        SHUTDOWN,
        OTHER,
    ),
}

GROUPS: Mapping[str, ErrorGroup] = MappingProxyType({code: group for group, codes in _GROUPS.items() for code in codes})
"""The group of each error type."""


def named(error_type: str) -> str:
    """Return what an error is called in metrics: itself where the table has it, otherwise OTHER."""
    return error_type if not error_type or error_type in GROUPS else OTHER


def group_of(error_type: str) -> str:
    """Return the group of an error type of the table, empty for the empty one: all went well."""
    return GROUPS[error_type] if error_type else ""
