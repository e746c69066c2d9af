"""The proxy as a real server, on a free port, in a thread of its own."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from athena.proxy.app import create_app
from athena.proxy.server.limits import Limits
from athena.settings import ProxySettings
from tests.engines.server import EngineServer
from tests.proxy.engines import ollama_engine, openai_engine
from tests.proxy.standin import Handler, Registry, StandIn, backend
from tests.support.prompt_server import serving_prompts

TOKEN = "a-token-of-these-tests"


def closed_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running_proxy(
    admin_url: str, ollama_url: str, *, token: str | None = TOKEN, limits: Limits | None = None
) -> Iterator[str]:
    """Run a proxy with these neighbours; gives its address."""
    settings = ProxySettings.model_validate(
        {"admin_api_url": admin_url, "admin_api_token": token, "ollama_url": ollama_url}
    )
    with serving_prompts(create_app(settings), limits or Limits()) as server:
        yield server.url


def wait_for_configuration(url: str) -> str:
    """Return the proxy's address once it has heard of its registry."""
    deadline = time.monotonic() + 5
    while not httpx.get(url + "/health").json()["configuration"]["complete"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return url


Run = Callable[[Handler], StandIn]
StartProxy = Callable[..., str]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What a test starts and this fixture ends."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def stand_in(stack: ExitStack) -> Run:
    """Starts a stand-in with a handler."""
    return lambda handler: stack.enter_context(StandIn(handler))


@pytest.fixture
def proxy_for(stack: ExitStack) -> StartProxy:
    """Starts a proxy over a registry with the given rows; the default Ollama is refused unless given."""

    def start(*rows: dict[str, object], ollama_url: str = "", limits: Limits | None = None) -> str:
        registry = stack.enter_context(Registry(list(rows)))
        ollama_url = ollama_url or f"http://127.0.0.1:{closed_port()}"
        return wait_for_configuration(stack.enter_context(running_proxy(registry.url, ollama_url, limits=limits)))

    return start


@pytest.fixture(scope="module")
def proxy() -> Iterator[str]:
    """A proxy in front of three stand-in engines that behave: models `m-openai`, `m-mlx`, `m-ollama`."""
    with StandIn(openai_engine) as openai, StandIn(ollama_engine) as ollama:
        rows = [
            backend("m-openai", "openai", openai.url),
            backend("m-mlx", "mlx", openai.url),
            backend("m-ollama", "ollama", ollama.url),
            backend("org/name:off", "ollama", ollama.url, enabled=False),
            backend("org/name:8b", "openai", openai.url),
        ]
        with Registry(rows) as registry, running_proxy(registry.url, ollama.url) as url:
            yield wait_for_configuration(url)


@pytest.fixture
def http(proxy: str) -> Iterator[httpx.Client]:
    """A client of that proxy."""
    with httpx.Client(base_url=proxy) as client:
        yield client


class Served:
    """A proxy, the one real engine behind it, and the engine type by which the registry calls it."""

    def __init__(self, url: str, engine: EngineServer, kind: str) -> None:
        self.url = url
        self.engine = engine
        self.kind = kind
        self.model = engine.model


@pytest.fixture(params=["ollama", "mlx", "openai"], scope="module")
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A proxy with one real engine behind it; the default Ollama is not there."""
    kind: str = request.param
    engine: EngineServer = request.getfixturevalue("mlx_server" if kind == "mlx" else "ollama_server")
    with ExitStack() as stack:
        registry = stack.enter_context(Registry([backend(engine.model, kind, engine.url, timeout_seconds=60)]))
        url = stack.enter_context(running_proxy(registry.url, "http://127.0.0.1:9"))
        yield Served(wait_for_configuration(url), engine, kind)
