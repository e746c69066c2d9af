"""What callers of Ollama's API ask without a prompt: to load a model, or to unload it.

An Ollama does so. Other engines hold their model as long as they run, so that a load is done before it is asked for.
"""

from datetime import UTC, datetime
from typing import Any

import msgspec

from athena.router.call import Call
from athena.router.types import Dialect, Operation


def is_load(call: Call) -> bool:
    """Return whether a call has no prompt; raises RequestRejectedError where its body does not hold."""
    if call.dialect is not Dialect.OLLAMA:
        return False
    request = call.request
    return not (request.messages if request.operation is Operation.CHAT else request.prompt)


def loaded(call: Call) -> bytes:
    """Return what an Ollama says of a model that it has loaded; it is no stream, whatever the caller wanted."""
    chat = call.operation is Operation.CHAT
    said: dict[str, Any] = {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
    created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return msgspec.json.encode(
        {"model": call.model, "created_at": created, **said, "done": True, "done_reason": "load"}
    )
