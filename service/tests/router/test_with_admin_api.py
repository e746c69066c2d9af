"""The router with the real Admin API behind it."""

from athena.router.services import RouterServices
from athena.settings import RouterSettings
from tests.router.standin import refused_url, until
from tests.support.admin import AdminApi


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


async def test_figures_appear_in_the_registry(admin_api: AdminApi) -> None:
    row = admin_api.add("m")
    async with RouterServices(settings(admin_api, token=True)) as services:
        for _ in range(3):
            services.figures.record(row["id"], error=False, seconds=0.5, completion_tokens=10, completion_seconds=0.25)
        services.figures.record(row["id"], error=True, seconds=1, completion_tokens=0, completion_seconds=0)
    shown = admin_api.client.get(f"/api/llm-backends/{row['id']}").json()
    assert (shown["total_requests"], shown["total_errors"]) == (4, 1)
    assert (shown["avg_latency_ms"], shown["avg_tokens_per_sec"]) == (500, 40)
