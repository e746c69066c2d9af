import asyncio
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.engines.server import EngineServer
from tests.proxy.engines import ollama_line
from tests.proxy.standin import Heard, StandIn
from tests.support.admin import AdminApi
from tests.support.processes import ATHENA, athena, environment

pytestmark = pytest.mark.engine

# A shell's background job, as a test run may be one, ignores SIGINT, and its children inherit that.
HEEDING_CTRL_C = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.fixture
def access(admin_api: AdminApi, ollama_server: EngineServer) -> dict[str, str]:
    return {
        "ADMIN_API_URL": admin_api.base_url,
        "ADMIN_API_TOKEN": admin_api.token,
        "OLLAMA_URL": ollama_server.url,
    }


def test_the_answer_goes_to_standard_output_and_the_figures_to_standard_error(
    admin_api: AdminApi, access: dict[str, str], mlx_server: EngineServer
) -> None:
    admin_api.add("house", backend_type="mlx", endpoint_url=mlx_server.url)
    done = athena("ask", "What is a monsoon?", "--model", "house", "--max-tokens", "5", "--stats", **access)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")
    assert "routing_llm_request" not in done.stdout
    figures = re.fullmatch(
        r"house by mlx at (\S+): first token after [\d.]+ s, [1-5] tokens in [\d.]+ s, [\d.]+ tokens/s\n", done.stderr
    )
    assert figures is not None, done.stderr
    assert figures[1] == mlx_server.url


def test_without_a_model_the_first_enabled_one_answers(
    admin_api: AdminApi, access: dict[str, str], ollama_server: EngineServer
) -> None:
    admin_api.add("off", enabled=False)
    admin_api.add(ollama_server.model, endpoint_url=ollama_server.url)
    done = athena("ask", "Anybody?", "--system", "Be brief.", "--max-tokens", "3", "--stats", **access)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"{ollama_server.model} by ollama at ")


def test_without_a_model_an_empty_registry_is_told(access: dict[str, str]) -> None:
    done = athena("ask", "Anybody?", **access)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: no enabled backend in the registry")


def test_without_a_token_a_model_must_be_named(access: dict[str, str]) -> None:
    del access["ADMIN_API_TOKEN"]
    done = athena("ask", "Anybody?", **access)
    assert done.returncode == 1
    assert "name a --model" in done.stderr


def test_an_engine_that_is_down_is_an_error_of_one_line(admin_api: AdminApi, access: dict[str, str]) -> None:
    admin_api.add("gone", backend_type="mlx", endpoint_url="http://127.0.0.1:9")
    done = athena("ask", "Anybody?", "--model", "gone", **access)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


async def talks_for_ever(heard: Heard) -> None:
    await heard.start("application/x-ndjson")
    while True:
        await heard.chunk(ollama_line(heard, "and "))
        await asyncio.sleep(0.02)


def test_ctrl_c_ends_a_long_answer_without_a_stack() -> None:
    with StandIn(talks_for_ever) as engine:
        asking = subprocess.Popen(
            [sys.executable, "-c", HEEDING_CTRL_C, ATHENA, "ask", "Tell me everything.", "--model", "any"],
            env=environment(ADMIN_API_URL="http://127.0.0.1:9", OLLAMA_URL=engine.url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert asking.stdout is not None
        assert os.read(asking.stdout.fileno(), 4) == b"and "  # it streams
        began = time.monotonic()
        asking.send_signal(signal.SIGINT)
        _, errors = asking.communicate(timeout=10)
        assert time.monotonic() - began < 5
    assert asking.returncode == 130
    assert b"Traceback" not in errors
