"""Proxy and orchestrator as processes before one stand-in engine, with all that they log."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.orchestrator.test_intents import GOOD
from tests.proxy.engines import ollama_engine, openai_engine
from tests.proxy.standin import Heard, Registry, StandIn, backend
from tests.support.processes import Server, serving
from tests.support.registry import TOKEN

BROKEN = "broken"


async def _engine(heard: Heard) -> None:
    """Serve like vLLM and like Ollama, but no caller of the model `broken`; it says what it was asked for."""
    probed = "x-request-id" not in heard.headers
    if heard.json.get("model") == BROKEN and not probed:
        said = str(heard.json.get("messages", heard.json.get("prompt")))
        await heard.answer(b'{"error": {"message": "cannot take %b"}}' % said.encode(), status=500)
    elif heard.path.startswith("/api/"):
        await ollama_engine(heard)
    else:
        await openai_engine(heard)


class Installation:
    """What runs. The models `small` and `large` are of an Ollama, `m-openai` is of a vLLM."""

    def __init__(self, engine: StandIn, proxy: Server, orchestrator: Server) -> None:
        self.engine = engine
        self.proxy = proxy
        self.orchestrator = orchestrator


@contextmanager
def installation(folder: Path, **variables: str) -> Iterator[Installation]:
    """Run it with these variables besides, at debug level."""
    table = folder / "intents.toml"
    table.write_text(GOOD)
    with StandIn(_engine) as engine:
        rows: list[dict[str, Any]] = [
            backend("small", "ollama", engine.url),
            backend("large", "ollama", engine.url),
            backend("m-openai", "openai", engine.url),
            backend(BROKEN, "openai", engine.url),
        ]
        with Registry(rows) as registry:
            settings = {
                "LOG_LEVEL": "debug",
                "ADMIN_API_URL": registry.url,
                "ADMIN_API_TOKEN": TOKEN,
                "OLLAMA_URL": engine.url,
                "ORCHESTRATOR_INTENTS_FILE": str(table),
                **variables,
            }
            with (
                serving("proxy", folder / "proxy.log", **settings) as proxy,
                serving("orchestrator", folder / "orchestrator.log", **settings) as orchestrator,
            ):
                for server in (proxy, orchestrator):
                    server.told("registry_in_reach")
                yield Installation(engine, proxy, orchestrator)
