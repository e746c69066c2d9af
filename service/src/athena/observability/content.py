"""Prompts and answers in the log, where `ATHENA_LOG_CONTENT=redacted` asks for them; elsewhere none of this is made."""

from typing import Protocol

import structlog

from athena.observability.redaction import redact


class Asked(Protocol):
    """What is said of a request; a `router.call.Call` is one."""

    model: str
    request_id: str


class ContentLog:
    """Writes `llm_prompt` and `llm_answer`, redacted and cut; `request_id` joins them to the other lines."""

    def __init__(self) -> None:
        self._log = structlog.get_logger()

    def prompt(self, call: Asked, text: str, *, messages: int) -> None:
        """Tell what was asked: the prompt, or the last of a conversation's messages."""
        self._log.info(
            "llm_prompt", model=call.model, request_id=call.request_id, prompt=redact(text), messages=messages
        )

    def answer(self, call: Asked, text: str, *, whole: bool) -> None:
        """Tell what was answered; `whole` is false where the reply broke off, or the caller left."""
        self._log.info("llm_answer", model=call.model, request_id=call.request_id, answer=redact(text), whole=whole)

    def words(self, text: str) -> str:
        """Return what an engine said of a request that it did not serve, which may quote the prompt."""
        return redact(text)
