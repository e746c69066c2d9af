"""Why requests for a model go where they go."""

from urllib.parse import parse_qs

from athena.errors import InvalidInputError
from athena.proxy.caller import Caller
from athena.proxy.http import Answer, json_answer
from athena.router.dispatch import Dispatcher


async def why(dispatcher: Dispatcher, query: str, caller: Caller) -> Answer:
    """Return the answer of /athena/why?model=NAME.

    Raises InvalidInputError where no model is named, and ModelNotAllowedError where the caller may not use it.
    """
    named = parse_qs(query, encoding="utf-8", errors="replace").get("model", [])
    if len(named) != 1:
        raise InvalidInputError("name one model: /athena/why?model=NAME", field="model")
    caller.check_model(named[0])
    return json_answer(await dispatcher.why(named[0]))
