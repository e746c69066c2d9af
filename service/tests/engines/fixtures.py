"""Real engines for tests, one of each kind for the whole session, each with a tiny random-weight model.

`ollama_server` and `mlx_server` are `EngineServer` objects. A test that kills one restarts it before it ends. Marking a
test `engine` is the test's own affair. What cannot be found or built fails the test with the remedy.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engines.server import EngineServer, ask_mlx, ask_ollama

REPOSITORY = Path(__file__).resolve().parents[3]
MLX_FILES = REPOSITORY / "roles" / "mlx" / "files"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "athena-tests"
OLLAMA_CACHE = CACHE / "ollama-v0.11.4"
OLLAMA_MODEL = "tiny"
# As that of the tiny model, which has no place for tools.
TEMPLATE_WITH_TOOLS = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}"
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
)


@pytest.fixture(scope="session")
def ollama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineServer]:
    """An Ollama of our own on a free port with the model `tiny`; one that the machine runs already is left alone."""
    binary = ollama_binary()
    folder = tmp_path_factory.mktemp("ollama")
    server = EngineServer(
        command=lambda _port: [str(binary), "serve"],
        environment=lambda port: {
            "OLLAMA_HOST": f"127.0.0.1:{port}",
            "OLLAMA_MODELS": str(folder / "models"),
            "HOME": str(folder),  # its key pair goes there
        },
        model=OLLAMA_MODEL,
        ask=ask_ollama,
        log=folder / "ollama.log",
    )
    server.start(probe=False)
    try:
        subprocess.run([sys.executable, Path(__file__).with_name("tiny_ollama_model.py"), folder / "tiny"], check=True)
        subprocess.run(
            [binary, "create", OLLAMA_MODEL, "-f", folder / "tiny" / "Modelfile"],
            env=server.environment,
            check=True,
            capture_output=True,
        )
        server.wait_until_it_answers()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def mlx_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineServer]:
    """A `mlx_lm.server` of our own on a free port; its model's name is the path of the model's folder.

    The model's template has a place for tools.
    """
    with _mlx(tmp_path_factory.mktemp("mlx"), "--chat-template", TEMPLATE_WITH_TOOLS) as server:
        yield server


@pytest.fixture(scope="session")
def mlx_server_without_tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineServer]:
    """Another one, with the tiny model as it is: its template leaves tools out."""
    with _mlx(tmp_path_factory.mktemp("mlx-without-tools")) as server:
        yield server


@contextmanager
def _mlx(folder: Path, *more: str) -> Iterator[EngineServer]:
    programs = mlx_environment() / "bin"
    model = folder / "tiny"
    subprocess.run([programs / "python", MLX_FILES / "tiny_mlx_model.py", model], check=True)
    hub = folder / "hub"
    hub.mkdir()  # without it, /v1/models drops the connection
    server = EngineServer(
        command=lambda port: [
            *(str(programs / "mlx_lm.server"), "--model", str(model)),
            *("--host", "127.0.0.1", "--port", str(port)),
            *more,
        ],
        environment=lambda _port: {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"},
        model=str(model),
        ask=ask_mlx,
        log=folder / "mlx.log",
    )
    server.start()
    try:
        yield server
    finally:
        server.kill()


def ollama_binary() -> Path:
    """Return the Ollama named by OLLAMA_BINARY, the one on PATH, or the one built into the cache folder."""
    if named := os.environ.get("OLLAMA_BINARY"):
        if not os.access(named, os.X_OK):
            pytest.fail(f"OLLAMA_BINARY names {named}, which is not a program. Unset it or name an Ollama.")
        return Path(named)
    if installed := shutil.which("ollama"):
        return Path(installed)
    with _locked(OLLAMA_CACHE):
        build = subprocess.run(
            [Path(__file__).with_name("build-ollama"), OLLAMA_CACHE], text=True, capture_output=True, check=False
        )
    if build.returncode != 0:
        pytest.fail(f"There is no Ollama and none could be built:\n{build.stderr}")
    return OLLAMA_CACHE / "ollama"


def mlx_environment() -> Path:
    """Return a virtual environment with the locked `mlx-lm`."""
    return locked_environment("mlx", MLX_FILES / "requirements.txt")


def integrations_environment() -> Path:
    """Return a virtual environment with LangChain's and LlamaIndex's integrations."""
    return locked_environment("integrations", REPOSITORY / "locks" / "integrations.txt")


def locked_environment(name: str, lock: Path) -> Path:
    """Return a virtual environment of the cache with what a lock file names, made once per content of the file."""
    key = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = CACHE / f"{name}-{key}"
    complete = folder / "complete"
    uv = Path(sys.executable).with_name("uv")
    with _locked(folder):
        if not complete.exists():
            steps: list[list[str | Path]] = [
                [uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder],
                [uv, "pip", "sync", "--quiet", lock],
            ]
            for command in steps:
                step = subprocess.run(
                    command,
                    env={**os.environ, "VIRTUAL_ENV": str(folder)},
                    text=True,
                    capture_output=True,
                    check=False,
                )
                if step.returncode != 0:
                    pytest.fail(
                        f"{lock.name} could not be installed into {folder}:\n{step.stderr}\n"
                        "The package registry must be within reach the first time; `./test.sh` sets up uv."
                    )
            complete.touch()
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep test sessions that run at the same time from building the same thing twice."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
