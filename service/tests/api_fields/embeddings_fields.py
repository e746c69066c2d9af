"""The fields of embeddings in both dialects. `mlx_lm.server` makes none, so that it is refused everything."""

from athena.router.types import Dialect, Operation
from tests.api_fields.field import Field, Path
from tests.api_fields.openai_fields import BOOKS

_RUNNING = "how to run the model, or to write text"
_KEPT = "other engines hold their model as long as they run"

OPENAI = Path(
    path="/v1/embeddings",
    title="OpenAI: embeddings",
    dialect=Dialect.OPENAI,
    operation=Operation.EMBED,
    least={"model": "m", "input": "Once"},
    fields=(
        Field("input", {"input": ["Once", "Twice"]}, "text, or a list of texts; tokens are refused", required=True),
        Field("encoding_format", {"encoding_format": "base64"}, emulated="the proxy writes the vectors in this form"),
        Field("dimensions", {"dimensions": 8}),
        Field("user", {"user": "u"}, no_effect=BOOKS),
        Field("(any other)", {"(any other)": 1}),
    ),
)
_OLLAMA = (
    Field("truncate", {"truncate": True}, "false is taken by every engine that makes embeddings"),
    Field("dimensions", {"dimensions": 8}, "of Ollama from version 0.11.5"),
    Field("keep_alive", {"keep_alive": "5m"}, no_effect=_KEPT),
    Field("options", {"options": {"num_ctx": 512}}, no_effect=_RUNNING),
    Field("(any other)", {"(any other)": 1}),
)
OLLAMA = Path(
    path="/api/embed",
    title="Ollama: embed",
    dialect=Dialect.OLLAMA,
    operation=Operation.EMBED,
    least={"model": "m", "input": "Once"},
    fields=(Field("input", {"input": ["Once", "Twice"]}, "text, or a list of texts", required=True), *_OLLAMA),
)
OLLAMA_ONE = Path(
    path="/api/embeddings",
    title="Ollama: embeddings, the older path",
    dialect=Dialect.OLLAMA,
    operation=Operation.EMBED,
    least={"model": "m", "prompt": "Once"},
    fields=(Field("prompt", {"prompt": "Once"}, required=True), *_OLLAMA),
)
