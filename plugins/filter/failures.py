"""What a failed task says, for a `rescue` that tells it to the operator."""

from collections.abc import Mapping
from typing import Any

SAYS_NOTHING = ("", "non-zero return code", "MODULE FAILURE")
"""Messages of Ansible that leave what happened to the output of errors."""


class FilterModule:
    """The filters of this file, by name."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {"failure_message": failure_message}


def failure_message(result: Mapping[str, Any]) -> str:
    """Return why a task failed, by `ansible_failed_result`: of a loop, what its failed items say, each thing once.

    A command that ends with another code than 0 says it in its output of errors.
    """
    failed = [one for one in result.get("results") or [] if one.get("failed")]
    said = [_message(one) for one in failed] or [_message(result)]
    return "; ".join(dict.fromkeys(filter(None, said))) or "no message"


def _message(result: Mapping[str, Any]) -> str:
    message = str(result.get("msg") or "").strip()
    errors = str(result.get("stderr") or "").strip()
    if message.rstrip(".") in SAYS_NOTHING and errors:
        return errors
    return message
