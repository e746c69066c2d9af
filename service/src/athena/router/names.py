"""Where hosts are: their names looked up beside the event loop, one look-up for all who wait for the same name."""

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple, TypeVar

# As long as a connection waits for its next request: a host that has moved may be asked at its old address for that
# long anyway. An engine that closes each connection would otherwise cost a look-up for each prompt.
ADDRESS_SECONDS = 30.0

T = TypeVar("T")


class Found(NamedTuple):
    """The addresses of a host, the system's first choice first; where there are none, `error` says why."""

    addresses: tuple[str, ...]
    error: str = ""


def look_up(host: str) -> Found:
    """Ask the system for a host's addresses. Blocks, for seconds where whoever knows the name does not answer."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return Found((), f"{host}: {error.strerror or error}")
    except ValueError as error:  # of a label that is empty or too long
        return Found((), f"{host} is not the name of a host: {error}")
    return Found(tuple(_written(*address) for *_, address in found))


class Names:
    """The addresses of hosts, for one event loop.

    Each look-up has a thread to itself, and each host at most one look-up: the few threads of a pool would all be taken
    by a name that is asked for again and again and takes seconds to be not found, and no other host would be reached.
    """

    def __init__(self, look_up: Callable[[str], Found] = look_up) -> None:
        self._loop = asyncio.get_running_loop()
        self._look_up = look_up
        self._under_way: dict[str, asyncio.Future[Found]] = {}
        self._known: dict[str, tuple[tuple[str, ...], float]] = {}  # the addresses, and until when they are kept

    async def reach(self, host: str, connect: Callable[[str], Awaitable[T]]) -> T:
        """Return what `connect` makes of the first of a host's addresses that it can reach.

        Addresses that led nowhere are kept no longer. Raises OSError where the host is not found, and else what
        `connect` raises of the first address.
        """
        known, until = self._known.get(host, ((), 0.0))
        if self._loop.time() < until:
            with suppress(OSError):  # the host may have moved
                return await self._connect(host, known, connect)
        found = await self._find(host)
        if not found.addresses:
            raise OSError(found.error)
        return await self._connect(host, found.addresses, connect)

    async def _connect(self, host: str, addresses: tuple[str, ...], connect: Callable[[str], Awaitable[T]]) -> T:
        try:
            return await _first(addresses, connect)
        except BaseException:  # whoever's time is up is cancelled
            self._known.pop(host, None)
            raise

    async def _find(self, host: str) -> Found:
        """Look a host up, or wait with those who do; the look-up goes on when they give up."""
        if _is_address(host):
            return Found((host,))
        under_way = self._under_way.get(host)
        if under_way is None:
            under_way = self._under_way[host] = self._loop.create_future()
            # The end of the process waits for no such thread.
            thread = threading.Thread(target=self._ask, args=(host,), name=f"look-up of {host}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the process may have no more of them
                self._note(host, Found((), f"{host} was not looked up: {error}"))
        return await asyncio.shield(under_way)

    def _ask(self, host: str) -> None:
        found = self._look_up(host)
        with suppress(RuntimeError):  # the loop may have ended before the look-up
            self._loop.call_soon_threadsafe(self._note, host, found)

    def _note(self, host: str, found: Found) -> None:
        if found.addresses:
            self._known[host] = (found.addresses, self._loop.time() + ADDRESS_SECONDS)
        self._under_way.pop(host).set_result(found)


async def _first(addresses: tuple[str, ...], connect: Callable[[str], Awaitable[T]]) -> T:
    try:
        return await connect(addresses[0])
    except OSError:
        for address in addresses[1:]:
            with suppress(OSError):
                return await connect(address)
        raise


def _is_address(host: str) -> bool:
    """Whether a host needs no look-up; one with the name of a network in it does."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def _written(address: str | int, _port: int | bytes, _flow: int = 0, network: int = 0) -> str:
    """Return a socket's address as a host: one that is valid on one network alone with that network's number."""
    return f"{address}%{network}" if network else str(address)
