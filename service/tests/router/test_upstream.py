"""The HTTP client against servers that behave and servers that do not."""

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from athena.router.connection import HEAD_LIMIT
from athena.router.errors import BackendError, FailureKind
from athena.router.upstream import UpstreamClient
from athena.router.upstream_reply import BUFFER_LIMIT
from tests.router.standin import (
    Asked,
    Behaviour,
    StandIn,
    close_before_answer,
    gibberish,
    hang,
    refused_url,
    reset_before_answer,
    until,
)


@pytest.fixture
async def client() -> AsyncIterator[UpstreamClient]:
    """A client that is left without a connection."""
    client = UpstreamClient(connect_seconds=0.3)
    yield client
    await client.aclose()
    assert not client.connections


def make_certificate(folder: Path) -> Path:
    """Return a file with a key and a certificate for 127.0.0.1 that it signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(private + certificate.public_bytes(encoding))
    return file


async def echo(asked: Asked) -> None:
    """Give the body back."""
    await asked.answer(200, asked.body)


def sends(*pieces: bytes, close: bool = False) -> Behaviour:
    """Return a behaviour that sends these pieces one by one."""

    async def behaviour(asked: Asked) -> None:
        for piece in pieces:
            await asked.send(piece)
            await asyncio.sleep(0.005)
        if close:
            asked.writer.close()

    return behaviour


async def test_a_whole_reply_comes_with_its_status_and_headers(client: UpstreamClient) -> None:
    async with StandIn(echo) as engine:
        reply = await client.post(f"{engine.url}/v1/x?y=1", b'{"a": 1}', headers={"authorization": "Bearer t"})
    assert (reply.status, reply.body) == (200, b'{"a": 1}')
    assert reply.headers["content-type"] == "application/json"
    asked = engine.asked[0]
    assert (asked.method, asked.path) == ("POST", "/v1/x?y=1")
    assert asked.headers["authorization"] == "Bearer t"
    assert asked.headers["host"] == engine.url.removeprefix("http://")


async def test_one_connection_serves_many_requests_in_turn(client: UpstreamClient) -> None:
    async with StandIn(echo) as engine:
        for number in range(20):
            body = b"%d" % number
            assert (await client.post(engine.url, body)).body == body
        assert engine.connections == 1


@pytest.mark.parametrize(
    ("pieces", "close"),
    [
        ([b"HTTP/1.1 200 OK\r\ncontent-le", b"ngth: 10\r\n\r\n01234", b"56789"], False),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n01234\r", b"\n5\r\n56789\r\n0\r\n\r\n"], False),
        ([b"HTTP/1.0 200 OK\r\n\r\n01234", b"56789"], True),
        ([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789"], False),
        ([b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 10\r\n\r\n0123456789"], True),
    ],
    ids=["content-length", "chunked", "until-the-end", "interim", "closing"],
)
async def test_every_way_of_ending_a_body_is_understood(
    client: UpstreamClient, pieces: list[bytes], close: bool
) -> None:
    async with StandIn(sends(*pieces, close=close)) as engine:
        for _ in range(2):
            assert (await client.post(engine.url, b"{}")).body == b"0123456789"


async def test_a_reply_without_a_body_ends_at_once(client: UpstreamClient) -> None:
    async with StandIn(sends(b"HTTP/1.1 204 No Content\r\n\r\n")) as engine:
        for _ in range(2):
            assert (await client.post(engine.url, b"{}")).status == 204
        assert engine.connections == 1


async def kind_of(client: UpstreamClient, url: str, within: float = 0.3) -> FailureKind:
    """Return how a request fails."""
    with pytest.raises(BackendError) as caught:
        await client.post(url, b"{}", within=within)
    return caught.value.kind


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (hang, FailureKind.TIMEOUT),
        (close_before_answer, FailureKind.EMPTY),
        (reset_before_answer, FailureKind.RESET),
        (gibberish, FailureKind.MALFORMED),
        (sends(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234", close=True), FailureKind.RESET),
        (sends(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n01", close=True), FailureKind.RESET),
        (sends(b"HTTP/1.1 200 OK\r\ncontent-le", close=True), FailureKind.RESET),
        (sends(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234"), FailureKind.TIMEOUT),
        (sends(b"HTTP/1.1 200 OK\r\nx: " + b"a" * (HEAD_LIMIT + 1)), FailureKind.MALFORMED),
        (sends(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"), FailureKind.MALFORMED),
    ],
)
async def test_every_failure_has_its_kind(client: UpstreamClient, behaviour: Behaviour, kind: FailureKind) -> None:
    async with StandIn(behaviour) as engine:
        assert await kind_of(client, engine.url) is kind
        await asyncio.sleep(0.01)
        assert not client.connections


async def test_a_port_on_which_nobody_listens_is_refused(client: UpstreamClient) -> None:
    with pytest.raises(BackendError, match="Connection refused") as caught:
        await client.get(refused_url())
    assert caught.value.kind is FailureKind.REFUSED


async def test_a_name_that_does_not_exist_is_refused(client: UpstreamClient) -> None:
    assert await kind_of(client, "http://no-such-host.invalid", within=10) in {FailureKind.REFUSED, FailureKind.TIMEOUT}


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "http://127.0.0.1:port", "http://[::1", "nonsense"])
async def test_what_is_no_address_is_refused(client: UpstreamClient, url: str) -> None:
    assert await kind_of(client, url) is FailureKind.REFUSED


async def test_a_host_that_drops_packets_costs_one_connect_timeout(client: UpstreamClient) -> None:
    # A listener whose queue is full drops what comes next, as a host does that is gone.
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        started = time.monotonic()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert await kind_of(client, url, within=5) is FailureKind.TIMEOUT
        assert 0.2 < time.monotonic() - started < 1


async def test_a_kept_connection_that_the_engine_closed_is_replaced_without_a_word(client: UpstreamClient) -> None:
    async def one_each(asked: Asked) -> None:
        if asked.number == 1:
            await asked.answer(200, asked.body)
        else:
            asked.writer.close()  # the request crossed the engine's decision to close

    async with StandIn(one_each) as engine:
        for number in range(6):
            assert (await client.post(engine.url, b"%d" % number)).body == b"%d" % number
        assert engine.connections == 6


async def test_a_large_body_comes_whole_over_new_and_kept_connections_and_once_more_where_one_was_closed(
    client: UpstreamClient,
) -> None:
    async def third_closes(asked: Asked) -> None:
        if asked.number == 3:
            asked.writer.close()
        else:
            await asked.answer(200, asked.body)

    large = bytes(range(256)) * 4096
    async with StandIn(third_closes) as engine:
        for number in range(3):
            reply = client.start(engine.url, b"%d" % number, rest=memoryview(large), within=5)
            assert await reply.whole() == b"%d" % number + large
            assert not reply.request
            reply.close()
            assert (await client.post(engine.url, large)).body == large


async def test_a_fresh_connection_that_closes_is_not_tried_again(client: UpstreamClient) -> None:
    async with StandIn(close_before_answer) as engine:
        assert await kind_of(client, engine.url) is FailureKind.EMPTY
        assert engine.connections == 1


async def test_a_kept_connection_that_resets_after_its_first_byte_is_not_tried_again(client: UpstreamClient) -> None:
    async def second_breaks(asked: Asked) -> None:
        if asked.number == 1:
            await asked.answer(200, b"fine")
        else:
            await asked.send(b"HTTP/1.1 2")
            asked.writer.close()

    async with StandIn(second_breaks) as engine:
        await client.post(engine.url, b"{}")
        assert await kind_of(client, engine.url) is FailureKind.RESET
        assert len(engine.asked) == 2


async def test_an_engine_that_speaks_unasked_does_not_mix_up_replies(client: UpstreamClient) -> None:
    surplus = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong"

    async def says_too_much(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(asked.body), asked.body) + surplus)

    async with StandIn(says_too_much) as engine:
        for number in range(5):
            assert (await client.post(engine.url, b"%d" % number)).body == b"%d" % number
            await asyncio.sleep(0.01)


async def test_leaving_closes_the_connection_at_once(client: UpstreamClient) -> None:
    left = asyncio.Event()

    async def notice(asked: Asked) -> None:
        await asked.until_left()
        left.set()

    async with StandIn(notice) as engine:
        task = asyncio.create_task(client.post(engine.url, b"{}"))
        await asyncio.sleep(0.05)
        task.cancel()
        async with asyncio.timeout(0.1):
            await left.wait()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_engine_is_held_back_while_nobody_reads_its_stream(client: UpstreamClient) -> None:
    written = 0

    async def flood(asked: Asked) -> None:
        nonlocal written
        await asked.start()
        piece = b"x" * 65536
        for _ in range(1000):
            await asked.chunk(piece)
            written += len(piece)
        await asked.send(b"0\r\n\r\n")

    async with StandIn(flood) as engine:
        reply = client.start(engine.url, b"{}", within=10)
        await reply.head()
        await asyncio.sleep(0.3)
        assert reply._size <= BUFFER_LIMIT + 512 * 1024
        assert written < 32 * 1024 * 1024  # the rest is in the kernel's buffers
        size = 0
        while data := await reply.read():
            size += len(data)
        assert size == 65536 * 1000


async def test_a_large_request_waits_for_an_engine_that_is_slow_to_read(client: UpstreamClient) -> None:
    body, complaints = b"x" * 32 * 1024 * 1024, []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    reads = asyncio.Event()

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reads.wait()
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-length: %d" % len(body) in head.lower()
        assert await reader.readexactly(len(body)) == body
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(engine, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        asking = asyncio.create_task(client.post(f"http://127.0.0.1:{port}", body, within=60))
        await until(lambda: any(one._transport.get_write_buffer_size() for one in client.connections), 30)
        reads.set()
        assert (await asking).body == b"ok"
    assert complaints == []


async def test_a_stream_that_stalls_is_broken_off_after_its_idle_limit(client: UpstreamClient) -> None:
    async def stall(asked: Asked) -> None:
        await asked.start()
        for _ in range(5):
            await asked.chunk(b"x")
            await asyncio.sleep(0.05)
        await asked.until_left()

    async with StandIn(stall) as engine:
        reply = client.start(engine.url, b"{}", within=10)
        await reply.head()
        reply.set_idle_limit(0.1)
        for _ in range(5):
            assert await reply.read() == b"x"
            reply.note_progress()
        with pytest.raises(BackendError, match="nothing came") as caught:
            await reply.read()
    assert caught.value.kind is FailureKind.TIMEOUT


async def test_a_released_reply_that_ends_soon_keeps_its_connection(client: UpstreamClient) -> None:
    async def tail(asked: Asked) -> None:
        await asked.start()
        await asked.chunk(b"all that matters")
        await asyncio.sleep(0.02)
        await asked.send(b"0\r\n\r\n")

    async with StandIn(tail) as engine:
        for _ in range(3):
            reply = client.start(engine.url, b"{}", within=1)
            await reply.head()
            assert await reply.read() == b"all that matters"
            reply.release()
            await asyncio.sleep(0.05)
        assert engine.connections == 1


async def test_a_receiver_that_releases_the_reply_at_pieces_that_were_there_already_waits_for_no_end(
    client: UpstreamClient,
) -> None:
    async def never_ends(asked: Asked) -> None:
        await asked.start()
        await asked.chunk(b"all that matters")
        await asked.until_left()

    async with StandIn(never_ends) as engine:
        reply = client.start(engine.url, b"{}", within=10)
        await reply.head()
        await until(lambda: bool(reply._chunks), 10)

        def take(data: bytes) -> bool:
            reply.release()
            return bool(data)

        await reply.push(take)  # or it raises, once the time of a released reply is over


async def test_a_closed_client_refuses_and_leaves_nothing_open() -> None:
    client = UpstreamClient()
    async with StandIn(hang) as engine:
        waiting = asyncio.create_task(client.post(engine.url, b"{}"))
        await asyncio.sleep(0.05)
        await client.aclose()
        with pytest.raises(BackendError):
            await waiting
        with pytest.raises(BackendError, match="closed"):
            await client.get(engine.url)


async def test_https_is_spoken_to_a_server_that_is_trusted_and_to_no_other(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    async with StandIn(echo, tls=serving) as engine:
        trusting = UpstreamClient(verify=ssl.create_default_context(cafile=str(certificate)))
        for _ in range(2):
            assert (await trusting.post(engine.url, b"secret")).body == b"secret"
        assert engine.connections == 1
        await trusting.aclose()
        doubting = UpstreamClient()
        with pytest.raises(BackendError, match="certificate") as caught:
            await doubting.get(engine.url)
        await doubting.aclose()
    assert caught.value.kind is FailureKind.REFUSED


@pytest.mark.parametrize(
    "holds",
    [
        test_one_connection_serves_many_requests_in_turn,
        test_a_kept_connection_that_the_engine_closed_is_replaced_without_a_word,
        test_an_engine_that_speaks_unasked_does_not_mix_up_replies,
        test_leaving_closes_the_connection_at_once,
        test_an_engine_is_held_back_while_nobody_reads_its_stream,
        test_a_large_request_waits_for_an_engine_that_is_slow_to_read,
        test_a_stream_that_stalls_is_broken_off_after_its_idle_limit,
        test_a_port_on_which_nobody_listens_is_refused,
    ],
)
def test_the_same_holds_on_uvloop(holds: Callable[[UpstreamClient], Coroutine[None, None, None]]) -> None:
    async def on_uvloop() -> None:
        client = UpstreamClient(connect_seconds=0.3)
        await holds(client)
        await client.aclose()
        assert not client.connections

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(on_uvloop())
