"""The Admin API or its database is gone: prompts go on, and no figure is lost."""

import asyncio
from contextlib import ExitStack

import httpx
import pytest

from athena.db import migrate
from tests.steadiness.world import World, until, within
from tests.support.admin import ADMIN_TOKEN, running_admin_api
from tests.support.caller import OLLAMA_CHAT, OPENAI_CHAT, ask
from tests.support.faults.wire import reply_to
from tests.support.postgres import PostgresServer
from tests.support.registry import backend

ASKED = 6


async def ask_a_few(url: str, times: int = ASKED) -> None:
    """Ask a few times in different ways; every answer must be right."""
    for number in range(times):
        path = (OPENAI_CHAT, OLLAMA_CHAT)[number % 2]
        answer = await ask(url, path, "m", f"prompt {number}", stream=number % 3 == 0)
        assert answer.complete, answer
        assert answer.text == "".join(reply_to(f"prompt {number}"))
        assert answer.backend == "1"


async def test_prompts_go_on_while_the_admin_api_is_gone_and_the_end_of_the_proxy_reports_them(scene: World) -> None:
    proxy = scene.proxy(backend(1, "m", "openai", scene.engine().url))
    await ask_a_few(proxy.url)
    scene.registry.stop()
    await until(lambda: proxy.metric("athena_configuration_reachable") == 0)
    await ask_a_few(proxy.url)
    async with httpx.AsyncClient() as client:
        assert (await client.get(proxy.url + "/health")).json()["status"] == "degraded"
    scene.registry.start()
    assert await asyncio.to_thread(proxy.server.stop) == 0
    assert scene.registry.figures()[1]["requests"] == 2 * ASKED
    assert scene.registry.figures()[1]["errors"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("status", [0, 503])
async def test_figures_arrive_by_themselves_when_the_admin_api_returns(scene: World, status: int) -> None:
    """It is gone, or it answers 503 because its own database is."""
    proxy = scene.proxy(backend(1, "m", "openai", scene.engine().url))
    if status:
        scene.registry.status = status
    else:
        scene.registry.stop()
    await ask_a_few(proxy.url)
    await asyncio.sleep(6)  # longer than a report waits for the next
    await ask_a_few(proxy.url)
    assert not scene.registry.batches
    scene.registry.status = 200
    if not status:
        scene.registry.start()
    await until(lambda: scene.registry.figures().get(1, {}).get("requests") == 2 * ASKED, 15)


async def test_a_proxy_that_is_started_while_the_admin_api_is_gone_serves_what_it_knew(scene: World) -> None:
    state = str(scene.folder / "state.json")
    first = scene.proxy(backend(1, "m", "openai", scene.engine().url), ROUTER_STATE_FILE=state)
    await ask_a_few(first.url)
    within(2, (scene.folder / "state.json").exists)
    assert await asyncio.to_thread(first.server.stop) == 0
    scene.registry.stop()
    second = scene.proxy_without_registry(ROUTER_STATE_FILE=state)
    await ask_a_few(second.url)


@pytest.mark.slow
async def test_prompts_go_on_while_the_database_is_gone_and_are_counted_when_it_returns(
    scene: World, own_database_server: PostgresServer
) -> None:
    """The real Admin API on a real PostgreSQL."""
    url = own_database_server.url(own_database_server.create_database())
    migrate.upgrade(url)
    with ExitStack() as stack:
        admin = stack.enter_context(running_admin_api(url))
        row = admin.add("m", backend_type="openai", endpoint_url=scene.engine().url)
        proxy = scene.proxy_without_registry(ADMIN_API_URL=admin.base_url, ADMIN_API_TOKEN=ADMIN_TOKEN)
        await asyncio.to_thread(proxy.wait_for_configuration)
        assert row["id"] == 1
        await ask_a_few(proxy.url)
        await asyncio.to_thread(own_database_server.kill)
        await ask_a_few(proxy.url)
        await asyncio.sleep(6)
        await ask_a_few(proxy.url)
        await asyncio.to_thread(own_database_server.start)

        def counted() -> bool:
            answer = admin.client.get("/api/llm-backends")
            return bool(answer.status_code == 200 and answer.json()[0]["total_requests"] == 3 * ASKED)

        await asyncio.to_thread(within, 30, counted)
