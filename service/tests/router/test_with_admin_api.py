"""The router with the real Admin API behind it."""

import asyncio
from pathlib import Path

from athena.router.services import RouterServices
from athena.router.types import Abilities
from athena.settings import RouterSettings
from tests.router.standin import refused_url, until
from tests.support.admin import AdminApi
from tests.support.postgres import PostgresServer


def settings(admin_api: AdminApi, *, token: bool) -> RouterSettings:
    """Return the settings of a router that has a token, or none."""
    return RouterSettings.model_validate(
        {
            "admin_api_url": admin_api.base_url,
            "admin_api_token": admin_api.token if token else None,
            "ollama_url": refused_url(),
        }
    )


async def test_a_change_in_the_admin_api_reaches_every_router_at_once(admin_api: AdminApi) -> None:
    row = admin_api.add("org/phi3:mini", backend_type="mlx", endpoint_url="http://mac.example.internal:8080/")
    async with (
        RouterServices(settings(admin_api, token=True)) as with_token,
        RouterServices(settings(admin_api, token=False)) as without,
    ):
        for services in (with_token, without):
            (backend,) = await services.configuration.route("org/phi3:mini")
            assert backend.endpoint_url == "http://mac.example.internal:8080"
            assert backend.enabled
            assert await services.configuration.route("unknown") == ()
            await until(lambda services=services: services.configuration.reachable)  # type: ignore[misc] # a default
        await until(lambda: with_token.configuration.snapshot.complete)
        admin_api.client.post(f"/api/llm-backends/{row['id']}/toggle").raise_for_status()
        for services in (with_token, without):
            routes = services.configuration
            await until(lambda routes=routes: not routes.snapshot.routes["org/phi3:mini"][0].enabled)  # type: ignore[misc]


async def test_a_database_that_was_restored_reaches_every_router_at_once(
    own_admin_api: AdminApi, database_server: PostgresServer
) -> None:
    own_admin_api.add("m")
    async with (
        RouterServices(settings(own_admin_api, token=True)) as with_token,
        RouterServices(settings(own_admin_api, token=False)) as without,
    ):
        routers = [services.configuration for services in (with_token, without)]
        for router in routers:
            await router.route("m")
        await until(lambda: all(router.snapshot.database for router in routers))
        known = routers[0].snapshot.edition
        before = await asyncio.to_thread(
            database_server.replace_database, own_admin_api.database_url.rpartition("/")[2]
        )
        try:
            await until(lambda: all(router.snapshot.database != known.database for router in routers), 20)
            assert {router.snapshot.version for router in routers} == {known.version}
        finally:
            await asyncio.to_thread(database_server.drop_database, before)


async def test_the_limits_of_a_backend_reach_every_router(admin_api: AdminApi) -> None:
    limits = {"max_concurrency": 4, "max_queue": 0, "first_token_seconds": 20, "stall_seconds": 5}
    admin_api.add("limited", **limits)
    admin_api.add("unlimited")
    for token in (True, False):
        async with RouterServices(settings(admin_api, token=token)) as services:
            (limited,) = await services.configuration.route("limited")
            assert {name: getattr(limited, name) for name in limits} == limits
            (unlimited,) = await services.configuration.route("unlimited")
            assert {getattr(unlimited, name) for name in limits} == {None}


async def test_what_a_backend_says_its_model_can_do_reaches_every_router(admin_api: AdminApi) -> None:
    admin_api.add("m", capabilities={"tools": False, "context_tokens": 8192})
    for token in (True, False):
        async with RouterServices(settings(admin_api, token=token)) as services:
            (backend,) = await services.configuration.route("m")
            assert backend.capabilities == Abilities(tools=False, context_tokens=8192)


async def test_figures_that_waited_for_the_admin_api_over_a_restart_count_once(
    admin_api: AdminApi, tmp_path: Path
) -> None:
    row = admin_api.add("m")
    there = settings(admin_api, token=True).model_copy(update={"router_state_file": tmp_path / "router.json"})
    away = there.model_copy(update={"admin_api_url": refused_url()})
    for place in (away, away, there, there):
        async with RouterServices(place) as services:
            services.figures.record(row["id"], error=False, seconds=0.5, completion_tokens=1, completion_seconds=0.1)
    assert admin_api.client.get(f"/api/llm-backends/{row['id']}").json()["total_requests"] == 4


async def test_figures_appear_in_the_registry(admin_api: AdminApi) -> None:
    row = admin_api.add("m")
    async with RouterServices(settings(admin_api, token=True)) as services:
        for _ in range(3):
            services.figures.record(row["id"], error=False, seconds=0.5, completion_tokens=10, completion_seconds=0.25)
        services.figures.record(row["id"], error=True, seconds=1, completion_tokens=0, completion_seconds=0)
    shown = admin_api.client.get(f"/api/llm-backends/{row['id']}").json()
    assert (shown["total_requests"], shown["total_errors"]) == (4, 1)
    assert (shown["avg_latency_ms"], shown["avg_tokens_per_sec"]) == (500, 40)
