"""The proxy over the real Admin API."""

import time
from collections.abc import Callable
from contextlib import ExitStack

import httpx

from tests.proxy.conftest import Run, running_proxy, wait_for_configuration
from tests.proxy.engines import ollama_engine, openai_engine
from tests.support.admin import AdminApi

BODY = {"model": "m", "messages": [{"role": "user", "content": "Good morning"}]}


def test_what_an_operator_changes_holds_for_the_next_callers(
    admin_api: AdminApi, stack: ExitStack, stand_in: Run
) -> None:
    row = admin_api.add("m", backend_type="openai", endpoint_url=stand_in(openai_engine).url)
    proxy = running_proxy(admin_api.base_url, stand_in(ollama_engine).url, token=admin_api.token)
    url = wait_for_configuration(stack.enter_context(proxy))

    def serving() -> tuple[str, str]:
        reply = httpx.post(f"{url}/v1/chat/completions", json=BODY)
        assert reply.json()["choices"][0]["message"]["content"] == "Hello there, caller."
        return reply.headers["x-athena-backend"], reply.headers["x-athena-backend-id"]

    assert serving() == ("openai", str(row["id"]))
    assert admin_api.client.post(f"/api/llm-backends/{row['id']}/toggle").status_code == 200
    _within(2.0, lambda: serving() == ("ollama", "default"))
    admin_api.client.post(f"/api/llm-backends/{row['id']}/toggle")
    _within(2.0, lambda: serving() == ("openai", str(row["id"])))


def _within(seconds: float, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
