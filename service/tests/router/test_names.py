"""The names of hosts: looked up once for all who wait, and a slow one at nobody else's cost."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
import uvloop

from athena.router import names
from athena.router.errors import BackendError, FailureKind
from athena.router.names import Found, Names
from athena.router.upstream import UpstreamClient
from tests.router.standin import Asked, StandIn


class Directory:
    """Knows one host; who asks for another waits until `gives_up` is set, and learns that there is none."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.gives_up = threading.Event()
        self.asked: Counter[str] = Counter()

    def look_up(self, host: str) -> Found:
        self.asked[host] += 1
        if host == "studio.local":
            return Found(self.addresses)
        self.gives_up.wait()
        return Found((), f"{host}: not found")


@pytest.fixture
def directory() -> Iterator[Directory]:
    """A directory that leaves nobody waiting."""
    directory = Directory("127.0.0.1")
    yield directory
    directory.gives_up.set()


async def close_after_answer(asked: Asked) -> None:
    """Answer, and keep no connection."""
    await asked.answer(200, asked.body, more="connection: close\r\n")
    asked.close()


def at(host: str, engine: StandIn) -> str:
    """Return the URL of an engine by the name of its host."""
    return engine.url.replace("127.0.0.1", host)


def test_hosts_whose_names_are_not_found_for_long_cost_the_others_nothing(directory: Directory) -> None:
    switched_off = [f"http://macbook-{number}.local:11434" for number in range(20)]

    async def ask() -> None:
        client = UpstreamClient(connect_seconds=0.05, names=Names(directory.look_up))
        async with StandIn(close_after_answer) as engine:
            for body in (b"first", b"second"):
                trials = [client.get(url, within=5) for url in switched_off for _ in range(4)]
                failed = await asyncio.gather(*trials, return_exceptions=True)
                assert all(isinstance(one, BackendError) and one.kind is FailureKind.TIMEOUT for one in failed)
                assert (await client.post(at("studio.local", engine), body, within=5)).body == body
        await client.aclose()

    uvloop.run(ask())
    assert len(directory.asked) == 21
    assert set(directory.asked.values()) == {1}  # those who gave up have left theirs to the next


def test_who_waits_for_a_name_learns_that_there_is_none(directory: Directory) -> None:
    async def ask() -> None:
        client = UpstreamClient(names=Names(directory.look_up))
        asked = [asyncio.create_task(client.get("http://macbook.local", within=5)) for _ in range(3)]
        await asyncio.sleep(0)
        directory.gives_up.set()
        for one in asked:
            with pytest.raises(BackendError, match=r"^macbook.local: not found$") as caught:
                await one
            assert caught.value.kind is FailureKind.REFUSED
        await client.aclose()

    uvloop.run(ask())


def test_an_engine_that_keeps_no_connection_is_looked_up_once(directory: Directory) -> None:
    async def ask() -> None:
        client = UpstreamClient(names=Names(directory.look_up))
        async with StandIn(close_after_answer) as engine:
            for _ in range(5):
                await client.post(at("studio.local", engine), b"{}")
            assert engine.connections == 5
        await client.aclose()

    uvloop.run(ask())
    assert directory.asked == {"studio.local": 1}


def test_an_address_needs_no_look_up(directory: Directory) -> None:
    async def ask() -> None:
        client = UpstreamClient(names=Names(directory.look_up))
        async with StandIn(close_after_answer) as engine:
            assert (await client.post(engine.url, b"{}")).body == b"{}"
        with pytest.raises(BackendError, match="refused"):
            await client.get(engine.url)
        await client.aclose()

    uvloop.run(ask())
    assert not directory.asked


async def taken(address: str) -> str:
    """Connect to any address."""
    return address


async def taken_by_the_new(address: str) -> str:
    """Connect to 192.0.2.2 alone."""
    if address != "192.0.2.2":
        raise ConnectionRefusedError(address)
    return address


async def never_taken(_: str) -> str:
    """Wait for a host that drops what it is sent."""
    await asyncio.Event().wait()
    return ""


async def test_addresses_are_looked_up_anew_after_a_while(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "ADDRESS_SECONDS", 0)
    known = Names(directory.look_up)
    for _ in range(3):
        assert await known.reach("studio.local", taken) == "127.0.0.1"
    assert directory.asked["studio.local"] == 3


async def test_a_host_that_has_moved_is_reached_where_it_is_now(directory: Directory) -> None:
    known = Names(directory.look_up)
    await known.reach("studio.local", taken)
    directory.addresses = ("192.0.2.2",)
    assert await known.reach("studio.local", taken_by_the_new) == "192.0.2.2"
    assert await known.reach("studio.local", taken_by_the_new) == "192.0.2.2"
    assert directory.asked["studio.local"] == 2


async def test_an_address_that_does_not_answer_in_time_is_looked_up_anew(directory: Directory) -> None:
    known = Names(directory.look_up)
    await known.reach("studio.local", taken)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(known.reach("studio.local", never_taken), 0.01)
    await known.reach("studio.local", taken)
    assert directory.asked["studio.local"] == 2


async def test_an_address_that_refuses_is_looked_up_anew_by_the_next(directory: Directory) -> None:
    known = Names(directory.look_up)
    for times in (1, 2):
        with pytest.raises(ConnectionRefusedError):
            await known.reach("studio.local", taken_by_the_new)
        assert directory.asked["studio.local"] == times


async def test_the_addresses_of_a_host_are_tried_in_turn(directory: Directory) -> None:
    known = Names(directory.look_up)
    directory.addresses = ("192.0.2.1", "192.0.2.2")
    assert await known.reach("studio.local", taken_by_the_new) == "192.0.2.2"


async def test_where_no_address_takes_the_connection_the_first_says_why(directory: Directory) -> None:
    known = Names(directory.look_up)
    directory.addresses = ("192.0.2.3", "192.0.2.4")
    with pytest.raises(ConnectionRefusedError, match=r"192\.0\.2\.3"):
        await known.reach("studio.local", taken_by_the_new)


async def test_without_a_thread_for_it_a_host_is_not_reached_and_is_later(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    known = Names(directory.look_up)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(OSError, match="can't start new thread"):
            await known.reach("studio.local", taken)
    assert await known.reach("studio.local", taken) == "127.0.0.1"


def test_the_system_is_asked_for_the_addresses_of_a_host() -> None:
    assert "127.0.0.1" in names.look_up("localhost").addresses
    assert names.look_up("no-such-host.invalid").addresses == ()


def test_an_address_of_one_network_alone_is_kept_with_the_network() -> None:
    (network, name), *_ = socket.if_nameindex()
    assert names.look_up(f"fe80::1%{name}").addresses == (f"fe80::1%{network}",)


@pytest.mark.parametrize(
    "host",
    ["a..b", "a" * 64 + ".example", ".", "a b", "a\x00b", "1.2.3.4.5", "[fe80::1%25lo]", f"[fe80::1%{'a' * 70}]"],
)
def test_what_can_be_no_host_is_refused(host: str) -> None:
    async def ask() -> None:
        client = UpstreamClient()
        with pytest.raises(BackendError) as caught:
            await client.get(f"http://{host}:1/", within=20)
        assert caught.value.kind is FailureKind.REFUSED
        await client.aclose()

    uvloop.run(ask())
