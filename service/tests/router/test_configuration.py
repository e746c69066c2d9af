"""What the router knows of the registry, and when."""

import asyncio
import stat
import time
from pathlib import Path

import pytest

from athena.router.snapshot import KNOWN_MODELS, Configuration
from athena.router.source import AdminSource, SourceError
from athena.router.upstream import UpstreamClient
from tests.router.registry import AdminApi, Registry, row
from tests.router.standin import StandIn, refused_url, until

A = row(1, "http://a.example.internal")
B = row(2, "http://b.example.internal")


def names_in(folder: Path) -> list[str]:
    """Return what is in a folder."""
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture(params=[True, False], ids=["whole-table", "by-model"])
def whole_table(request: pytest.FixtureRequest) -> bool:
    """Whether the router has a token."""
    return bool(request.param)


async def test_a_model_has_its_backends_from_the_first_request_on(whole_table: bool) -> None:
    async with Configuration(Registry(A, whole_table=whole_table)) as configuration:
        assert await configuration.route("m") == (A,)
        assert await configuration.route("other") == ()


async def test_a_change_takes_effect_at_once(whole_table: bool) -> None:
    registry = Registry(A, whole_table=whole_table)
    async with Configuration(registry) as configuration:
        await configuration.route("m")
        await until(lambda: configuration.reachable)
        await registry.put(B)
        await until(lambda: configuration.snapshot.routes.get("m") == (B,))


async def test_a_model_that_had_no_backend_gets_its_first_at_once(whole_table: bool) -> None:
    registry = Registry(whole_table=whole_table)
    async with Configuration(registry) as configuration:
        await until(lambda: configuration.reachable)
        assert await configuration.route("m") == ()
        before = configuration.snapshot
        await registry.put(A)
        await until(lambda: configuration.snapshot is not before)
        assert await configuration.route("m") == (A,)


async def test_a_change_that_nobody_told_is_seen_when_the_cache_expires(whole_table: bool) -> None:
    registry = Registry(A, whole_table=whole_table)
    async with Configuration(registry, cache_seconds=0.2) as configuration:
        await configuration.route("m")
        registry.rows = [B]
        await until(lambda: configuration.snapshot.routes.get("m") == (B,))


async def test_a_registry_that_goes_back_to_an_older_version_is_followed(whole_table: bool) -> None:
    registry = Registry(A, whole_table=whole_table)
    registry.version = 500
    async with Configuration(registry, cache_seconds=0.3) as configuration:
        await configuration.route("m")
        await until(lambda: configuration.snapshot.version == 500)
        await registry.put(B, version=7)  # its database was restored
        await until(lambda: configuration.snapshot.version == 7)
        assert await configuration.route("m") == (B,)
        await registry.put(A)
        await until(lambda: configuration.snapshot.version == 8)


async def test_a_restored_database_is_followed_at_once_though_its_version_is_the_same(
    whole_table: bool,
) -> None:
    registry = Registry(A, whole_table=whole_table)
    async with Configuration(registry) as configuration:
        await configuration.route("m")
        await until(lambda: configuration.snapshot.database == registry.database)
        await registry.restore(B)
        await until(lambda: configuration.snapshot.routes.get("m") == (B,))
        assert configuration.snapshot.version == 1


async def test_an_admin_api_that_does_not_tell_its_database_is_followed_by_its_version(
    whole_table: bool,
) -> None:
    registry = Registry(A, whole_table=whole_table)
    registry.database = ""
    async with Configuration(registry) as configuration:
        await configuration.route("m")
        await registry.put(B)
        await until(lambda: configuration.snapshot.routes.get("m") == (B,))


async def test_the_last_known_configuration_goes_on_while_the_registry_is_away(whole_table: bool) -> None:
    registry = Registry(A, whole_table=whole_table)
    async with Configuration(registry, cache_seconds=0.1) as configuration:
        await configuration.route("m")
        await until(lambda: configuration.reachable)
        registry.away = True
        await until(lambda: not configuration.reachable)
        started = time.monotonic()
        assert await configuration.route("m") == (A,)
        assert await configuration.route("never asked before") == ()
        assert time.monotonic() - started < 0.1
        registry.away = False
        await registry.put(B)
        await until(lambda: configuration.snapshot.routes.get("m") == (B,), 10)
        assert configuration.reachable


async def test_a_registry_that_hangs_holds_up_an_unknown_model_for_two_seconds_once() -> None:
    registry = Registry(A, whole_table=False)
    registry.delay = 60
    async with Configuration(registry) as configuration:
        started = time.monotonic()
        assert await asyncio.gather(*(configuration.route("m") for _ in range(50))) == [()] * 50
        assert await configuration.route("another") == ()
        assert 1.5 < time.monotonic() - started < 2.5
        assert registry.look_ups == ["m"]


async def test_many_who_ask_for_a_new_model_share_one_look_up() -> None:
    registry = Registry(A, whole_table=False)
    registry.delay = 0.05
    async with Configuration(registry) as configuration:
        first = asyncio.create_task(configuration.route("m"))
        others = [asyncio.create_task(configuration.route("m")) for _ in range(20)]
        await asyncio.sleep(0.01)
        first.cancel()  # who leaves takes nothing from the others
        assert await asyncio.gather(*others) == [(A,)] * 20
        assert registry.look_ups.count("m") == 1


async def test_names_that_nobody_has_do_not_fill_the_memory() -> None:
    async with Configuration(Registry(A, whole_table=False)) as configuration:
        await configuration.route("m")
        for number in range(KNOWN_MODELS + 50):
            await configuration.route(f"made up {number}")
        assert len(configuration.snapshot.routes) == KNOWN_MODELS
        assert configuration.snapshot.routes["m"] == (A,)


async def test_the_configuration_survives_a_restart_without_the_registry(tmp_path: Path, whole_table: bool) -> None:
    file = tmp_path / "state.json"
    registry = Registry(A, whole_table=whole_table)
    async with Configuration(registry, state_file=file) as configuration:
        await configuration.route("m")
        await until(lambda: configuration.reachable and file.exists())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert names_in(tmp_path) == [file.name]
    registry.away = True
    async with Configuration(registry, state_file=file) as configuration:
        assert await configuration.route("m") == (A,)
        await until(lambda: configuration._reachable is False)
        assert await configuration.route("m") == (A,)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"version": "x"}', b"\xff\xfe", b'{"version": 1, "complete": true, "routes": {"\xff": []}}'],
)
async def test_a_damaged_state_file_is_no_obstacle(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "state.json"
    file.write_bytes(content)
    async with Configuration(Registry(A), state_file=file) as configuration:
        assert await configuration.route("m") == (A,)
        await until(lambda: b"a.example.internal" in file.read_bytes())


async def test_a_state_file_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    async with Configuration(Registry(A), state_file=tmp_path / "no folder" / "state.json") as configuration:
        await until(lambda: configuration.reachable)
        assert await configuration.route("m") == (A,)


@pytest.mark.parametrize("token", [AdminApi.token, None])
async def test_the_admin_api_is_read_over_http(token: str | None) -> None:
    name = "org/model:8b"
    registry = Registry(
        row(2, "http://b.example.internal/", name, priority=1), row(1, "http://a.example.internal", name)
    )
    client = UpstreamClient()
    async with StandIn(AdminApi(registry)) as admin:
        source = AdminSource(client, url=admin.url, token=token)
        async with Configuration(source) as configuration:
            route = await configuration.route(name)
            assert [backend.endpoint_url for backend in route] == [
                "http://a.example.internal",
                "http://b.example.internal",
            ]
            assert await configuration.route("none") == ()
            await until(lambda: configuration.reachable)
            await registry.put(row(3, "http://c.example.internal", name))
            await until(lambda: [b.id for b in configuration.snapshot.routes.get(name, ())] == [3])
    await client.aclose()


async def test_a_token_that_the_admin_api_refuses_leaves_the_look_ups_that_need_none() -> None:
    client = UpstreamClient()
    async with StandIn(AdminApi(Registry(A))) as admin:
        source = AdminSource(client, url=admin.url, token="wrong")
        with pytest.raises(SourceError, match="401"):
            await source.load()
        async with Configuration(source) as configuration:
            assert await configuration.route("m") == (A,)
    await client.aclose()


async def test_an_admin_api_that_is_not_there_is_out_of_reach() -> None:
    client = UpstreamClient()
    source = AdminSource(client, url=refused_url(), token=None)
    with pytest.raises(SourceError, match="does not answer: Connection refused"):
        await source.look_up("m")
    await client.aclose()
