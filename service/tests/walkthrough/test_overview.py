"""The overview's examples: programs that move from the old client to the router."""

import json

import pytest

from tests.walkthrough.installation import BACKENDS, GENERATE, LARGE, SMALL, Installation

pytestmark = [pytest.mark.engine, pytest.mark.slow]

OLD_CLIENT = """
import asyncio, json, warnings
warnings.simplefilter("always")
from shared.ollama_client import OllamaClient

async def main():
    client = OllamaClient(url={url!r})
    reply = await client.chat(
        model={model!r},
        messages=[dict(role="user", content="Which bird cannot fly?")],
        temperature=0.4,
    )
    print(json.dumps(reply))

asyncio.run(main())
"""

SAME_ROUTER = """
import asyncio, json
from shared.llm_router import get_llm_router

async def main():
    router = get_llm_router()
    assert router is get_llm_router()
    result = await router.generate(model={model!r}, prompt="Write a line about tea.", temperature=0.4)
    pieces = [piece async for piece in router.stream(model={model!r}, prompt="Write another.")]
    chat = await router.chat(model={model!r}, messages=[dict(role="user", content="And one more?")])
    print(json.dumps([result, pieces, chat]))

asyncio.run(main())
"""


def last_line(output: str) -> str:
    return output.rstrip().rpartition("\n")[2]


def test_the_old_client_goes_on_and_says_what_replaces_it(installation: Installation) -> None:
    program = OLD_CLIENT.format(url=installation.ollama.url, model=SMALL)
    done = installation.python(program)
    assert done.returncode == 0, done.stderr
    assert "DeprecationWarning" in done.stderr
    assert "get_llm_router" in done.stderr
    reply = json.loads(last_line(done.stdout))
    assert reply["message"]["role"] == "assistant"
    assert isinstance(reply["message"]["content"], str)
    assert reply["done"] is True


def test_the_old_client_follows_the_registry(installation: Installation) -> None:
    installation.create(SMALL, "mlx", installation.mlx.url)
    done = installation.python(OLD_CLIENT.format(url="http://127.0.0.1:9", model=SMALL))
    assert done.returncode == 0, done.stderr
    assert json.loads(last_line(done.stdout))["model"] == SMALL


def test_the_router_generates_streams_and_chats(installation: Installation) -> None:
    installation.create(LARGE, "mlx", installation.mlx.url)
    done = installation.python(SAME_ROUTER.format(model=LARGE))
    assert done.returncode == 0, done.stderr
    generated, pieces, chatted = json.loads(last_line(done.stdout))
    assert generated["backend"] == chatted["backend"] == "mlx"
    assert generated["completion_tokens"] > 0
    assert generated["latency_ms"] > 0
    assert "".join(pieces)


def test_a_program_that_uses_the_router_prints_only_what_it_prints(installation: Installation) -> None:
    installation.create(SMALL, "auto", installation.mlx.url)
    assert installation.generate(SMALL, "Name a colour.").stdout.startswith("Response: ")

    logging = "import logging; logging.basicConfig(level='INFO', format='%(message)s')\n"
    done = installation.python(logging + GENERATE.format(model=SMALL, prompt="Name a colour."))
    records = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    routed = next(record for record in records if record["event"] == "routing_llm_request")
    assert (routed["model"], routed["backend_type"], routed["endpoint"]) == (SMALL, "mlx", installation.mlx.url)


def test_the_quick_start_without_a_token_is_told_that_it_needs_one(installation: Installation) -> None:
    fields = {"model_name": SMALL, "backend_type": "ollama", "endpoint_url": installation.ollama.url}
    refused = installation.anonymous.post(BACKENDS, json=fields)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert "token" in refused.json()["detail"].lower()


def test_two_groups_share_a_model_by_weight(installation: Installation) -> None:
    installation.create(SMALL, "ollama", installation.ollama.url, weight=2)
    installation.create(SMALL, "mlx", installation.mlx.url, weight=1)
    program = """
import asyncio, json
from shared.llm_router import get_llm_router

async def main():
    router = get_llm_router()
    results = [await router.generate(model={model!r}, prompt="Heads or tails?", max_tokens=1) for _ in range(30)]
    print(json.dumps(sorted({{result["backend"] for result in results}})))

asyncio.run(main())
"""
    done = installation.python(program.format(model=SMALL))
    assert done.returncode == 0, done.stderr
    assert json.loads(last_line(done.stdout)) == ["mlx", "ollama"]
