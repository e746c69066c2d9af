"""The router library, under the name by which programs import it.

`from shared.llm_router import get_llm_router`; `result = await get_llm_router().generate(model=…, prompt=…)`.
"""

from athena.router.errors import ModelNotFoundError, NoBackendError, RequestRejectedError, StreamBrokenError
from athena.router.llm_router import LLMRouter, get_llm_router

__all__ = [
    "LLMRouter",
    "ModelNotFoundError",
    "NoBackendError",
    "RequestRejectedError",
    "StreamBrokenError",
    "get_llm_router",
]
