"""The wire formats that callers and engines speak, each translated to and from the router's neutral types."""

from typing import Final

from athena.router.dialects.base import Codec, ReplyEncoder, StreamReader, StreamWatch
from athena.router.dialects.ollama import OllamaCodec
from athena.router.dialects.openai import OpenAICodec
from athena.router.dialects.responses import ResponsesCodec
from athena.router.types import Dialect

_CODECS: Final[dict[Dialect, Codec]] = {
    Dialect.OPENAI: OpenAICodec(),
    Dialect.OLLAMA: OllamaCodec(),
    Dialect.RESPONSES: ResponsesCodec(),
}


def codec(dialect: Dialect) -> Codec:
    """Return the translator of a dialect; it has no state of its own."""
    return _CODECS[dialect]


__all__ = ["Codec", "ReplyEncoder", "StreamReader", "StreamWatch", "codec"]
