"""Limits of API keys: what is counted, what is refused, and that nobody gets more by asking several processes."""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from athena.proxy.app import create_app
from athena.proxy.quota import Quota, Quotas, RateLimitError
from athena.proxy.quota_redis import PAUSE_SECONDS, RedisQuotas
from athena.proxy.quota_window import SLICE_SECONDS, Window
from athena.proxy.server.limits import Limits
from athena.router.board import Board
from athena.router.types import ApiKey
from tests.proxy.conftest import Run, wait_for_configuration
from tests.proxy.engines import ollama_engine, openai_engine
from tests.proxy.standin import Heard
from tests.proxy.test_registry_keys import CHAT, Asking, settings_for, within
from tests.support.admin import AdminApi
from tests.support.clock import Clock
from tests.support.processes import serving
from tests.support.prompt_server import serving_prompts
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
GENERATE = {"model": "m-ollama", "prompt": "Once", "stream": False}
EMBED = {"model": "m-ollama", "input": "Once"}
TOKENS_OF_A_REPLY = 12  # as the stand-in counts: 7 of the prompt, 5 written


def key(number: int = 7, *, requests: int | None = None, tokens: int | None = None) -> ApiKey:
    return ApiKey(
        id=number,
        name="alice",
        prefix="sk-athena-abcdef",
        digest="00" * 32,
        scopes=("prompts",),
        requests_per_minute=requests,
        tokens_per_minute=tokens,
    )


def quota_of(known: ApiKey, board: Board, redis: RedisQuotas | None = None, *, clock: Clock | None = None) -> Quota:
    quota = Quotas(board, redis, clock=clock or Clock()).of(known)
    assert quota is not None
    return quota


async def admitted(quota: Quota) -> bool:
    try:
        await quota.admit()
    except RateLimitError:
        return False
    return True


@settings(deadline=None)
@given(
    limit=st.integers(1, 8),
    steps=st.lists(st.tuples(st.floats(0, 40), st.integers(1, 10)), max_size=40),
    start=st.floats(0, 1e6),
)
def test_in_no_minute_is_more_used_than_allowed_and_a_wait_is_as_long_as_said(
    limit: int, steps: list[tuple[float, int]], start: float
) -> None:
    window, now = Window(Board().slot("api-key", "1", "requests")), start
    taken: list[float] = []
    for pause, times in steps:
        now += pause
        for _ in range(times):
            wait = window.take(limit, now).wait
            recent = [at for at in taken if now - at < 60]
            if not wait:
                assert len(recent) < limit
                taken.append(now)
            else:
                assert 0 < wait <= 60 + SLICE_SECONDS
                assert window.look(limit, now + wait * 0.999 - 0.01).wait > 0 or wait < 0.02
                # What was used more than a minute and a slice ago is not held against anybody.
                assert len([at for at in taken if now - at <= 60 + SLICE_SECONDS]) >= limit
                later = Window(Board().slot("api-key", "1", "requests"))
                for at in taken:
                    later.add(1, at)
                assert later.look(limit, now + wait + 1e-3).wait == 0


async def test_a_key_has_its_requests_and_is_told_which_limit_it_has_used_up_and_when_to_come_again() -> None:
    clock = Clock()
    quota = quota_of(key(requests=3), Board(), clock=clock)
    for _ in range(3):
        await quota.admit()
    with pytest.raises(RateLimitError) as caught:
        await quota.admit()
    assert "sk-athena-abcdef… of alice has used up its requests_per_minute, which is 3" in caught.value.detail
    assert caught.value.retry_after is not None
    assert 60 <= caught.value.retry_after <= 64
    clock.now += caught.value.retry_after
    assert [await admitted(quota) for _ in range(4)] == [True] * 3 + [False]


async def test_tokens_are_counted_afterwards_and_refuse_what_follows() -> None:
    clock = Clock()
    quota = quota_of(key(requests=100, tokens=50), Board(), clock=clock)
    await quota.admit()
    quota.spend(49)
    await quota.admit()
    quota.spend(500)
    with pytest.raises(RateLimitError, match="tokens_per_minute, which is 50") as caught:
        await quota.admit()
    clock.now += caught.value.retry_after or 0
    await quota.admit()


async def test_what_is_refused_for_its_tokens_costs_no_request() -> None:
    clock = Clock()
    quota = quota_of(key(requests=2, tokens=10), Board(), clock=clock)
    await quota.admit()
    quota.spend(10)
    assert [await admitted(quota) for _ in range(5)] == [False] * 5
    clock.now += 30
    quota.spend(1)
    clock.now += 33
    assert await admitted(quota)


def told(fields: bytes) -> dict[str, str]:
    """Return header lines by their names, without what they all begin with."""
    lines = (line.partition(": ") for line in fields.decode().removesuffix("\r\n").split("\r\n") if line)
    return {name.removeprefix("x-ratelimit-"): value for name, _, value in lines}


async def test_an_admitted_request_is_told_how_the_limits_stand_and_a_refused_one_too() -> None:
    clock = Clock()  # a second into a slice of three
    quota = quota_of(key(requests=2, tokens=50), Board(), clock=clock)
    of_tokens = {"limit-tokens": "50", "remaining-tokens": "50", "reset-tokens": "0s"}
    of_requests = {"limit-requests": "2", "remaining-requests": "1", "reset-requests": "1m2s"}
    assert told(await quota.admit()) == of_tokens | of_requests
    quota.spend(20)
    clock.now += 30
    of_tokens |= {"remaining-tokens": "30", "reset-tokens": "32s"}
    of_requests |= {"remaining-requests": "0"}
    assert told(await quota.admit()) == of_tokens | of_requests
    quota.spend(500)
    of_tokens |= {"remaining-tokens": "0", "reset-tokens": "1m2s"}
    with pytest.raises(RateLimitError) as caught:
        await quota.admit()
    assert told(caught.value.fields) == of_tokens | of_requests
    clock.now += 63
    assert told(await quota.admit())["remaining-requests"] == "1"


async def test_a_limit_that_is_none_is_not_told_of() -> None:
    of_requests = told(await quota_of(key(requests=2), Board()).admit())
    assert set(of_requests) == {"limit-requests", "remaining-requests", "reset-requests"}
    of_tokens = told(await quota_of(key(tokens=2), Board()).admit())
    assert set(of_tokens) == {"limit-tokens", "remaining-tokens", "reset-tokens"}


async def test_keys_do_not_share_their_limits() -> None:
    board = Board()
    mine, yours = quota_of(key(1, requests=1), board), quota_of(key(2, requests=1), board)
    assert [await admitted(quota) for quota in (mine, yours, mine, yours)] == [True, True, False, False]


def test_a_key_without_limits_has_nothing_to_ask() -> None:
    assert Quotas(Board(), None).of(key()) is None


def test_workers_that_take_at_once_take_as_many_as_one_would() -> None:
    board, limit, workers = Board(4), 1000, 4
    pids = []
    for index in range(workers):
        pid = os.fork()
        if not pid:
            board.attach(index)
            window = Window(board.slot("api-key", "7", "requests"))
            for _ in range(400):
                window.take(limit, 1000.0)
            os._exit(0)
        pids.append(pid)
    assert {os.waitpid(pid, 0)[1] for pid in pids} == {0}
    window = Window(board.slot("api-key", "7", "requests"))
    assert window.look(limit, 1000.0).wait > 0
    assert window.look(limit + 1, 1000.0).wait == 0
    board.close()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[RedisQuotas]:
    quotas = RedisQuotas(redis_server.url, within=20.0)
    yield quotas
    await quotas.aclose()


@pytest.fixture
async def redis_of_another_host(redis_server: RedisServer) -> AsyncIterator[RedisQuotas]:
    quotas = RedisQuotas(redis_server.url, within=20.0)
    yield quotas
    await quotas.aclose()


async def test_hosts_count_together_where_there_is_redis(
    redis: RedisQuotas, redis_of_another_host: RedisQuotas
) -> None:
    known = key(11, requests=10)
    one, other = quota_of(known, Board(), redis), quota_of(known, Board(), redis_of_another_host)
    results = await asyncio.gather(*(admitted(quota) for _ in range(20) for quota in (one, other)))
    assert sum(results) == 10
    with pytest.raises(RateLimitError, match="requests_per_minute, which is 10") as caught:
        await other.admit()
    assert caught.value.retry_after is not None
    assert 50 <= caught.value.retry_after <= 64


async def test_tokens_spent_at_one_host_are_spent_at_the_other(
    redis: RedisQuotas, redis_of_another_host: RedisQuotas
) -> None:
    known = key(12, tokens=100)
    one, other = quota_of(known, Board(), redis), quota_of(known, Board(), redis_of_another_host)
    await one.admit()
    one.spend(100)
    deadline = time.monotonic() + 5
    while await admitted(other):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    with pytest.raises(RateLimitError, match="tokens_per_minute, which is 100"):
        await other.admit()


async def test_what_is_told_of_the_limits_holds_for_all_hosts(
    redis: RedisQuotas, redis_of_another_host: RedisQuotas
) -> None:
    known = key(14, requests=5, tokens=100)
    one, other = quota_of(known, Board(), redis), quota_of(known, Board(), redis_of_another_host)
    assert told(await one.admit())["remaining-requests"] == "4"
    one.spend(40)
    await redis._spending.finish()
    standing = told(await other.admit())
    assert (standing["remaining-requests"], standing["remaining-tokens"]) == ("3", "60")
    assert (standing["limit-requests"], standing["limit-tokens"]) == ("5", "100")
    other.spend(60)
    await redis_of_another_host._spending.finish()
    with pytest.raises(RateLimitError, match="tokens_per_minute") as caught:
        await one.admit()
    standing = told(caught.value.fields)
    assert (standing["remaining-requests"], standing["remaining-tokens"]) == ("3", "0")
    assert standing["reset-tokens"] in {"1m0s", "1m1s", "1m2s", "1m3s"}


async def test_without_redis_prompts_go_on_and_each_host_counts_for_itself(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    clock = Clock()
    redis = RedisQuotas(server.url, within=20.0, clock=clock)
    try:
        quota = quota_of(key(requests=4, tokens=1000), Board(), redis, clock=clock)
        await quota.admit()
        server.stop()
        began = time.monotonic()
        with capture_logs() as logs:
            for _ in range(3):
                await quota.admit()
                quota.spend(1)
            assert not await admitted(quota)
            assert time.monotonic() - began < 2.0
            for _ in range(3):  # it is asked again, in vain
                clock.now += PAUSE_SECONDS
                assert await redis.admit(7, 1, None) is None
            assert [line["event"] for line in logs] == ["redis_failed_limits_by_host"]
            server.start()
            clock.now += PAUSE_SECONDS + 60 + SLICE_SECONDS
            await quota.admit()
            assert await redis.admit(7, 1, None) is not None
            assert [line["event"] for line in logs][1:] == ["redis_answers_limits_of_all_hosts"]
    finally:
        await redis.aclose()
        server.stop()


async def test_redis_keeps_no_window_for_longer_than_it_counts(redis: RedisQuotas) -> None:
    await redis.admit(13, 5, 5)
    redis.spend(13, 3)
    await redis._spending.finish()
    left = [await redis._redis.ttl(name) for name in await redis._redis.keys("athena:api-key:{13}:*")]
    assert len(left) == 2
    assert all(60 <= seconds <= 66 for seconds in left)


@pytest.fixture
def asking(admin_api: AdminApi, stack: ExitStack, stand_in: Run) -> Asking:
    """A proxy that asks for keys, in front of the models `m-openai` and `m-ollama`."""
    admin_api.add("m-openai", backend_type="openai", endpoint_url=stand_in(openai_engine).url)
    url = stand_in(ollama_engine).url
    admin_api.add("m-ollama", endpoint_url=url)
    known = settings_for(admin_api.base_url, admin_api.token, url)
    server = stack.enter_context(serving_prompts(create_app(known), Limits()))
    return Asking(admin_api, wait_for_configuration(server.url))


def test_a_caller_beyond_its_requests_is_refused_in_both_protocols(asking: Asking) -> None:
    made = asking.make(requests_per_minute=2)
    for _ in range(2):
        assert asking.post("/v1/chat/completions", CHAT, made["key"]).status_code == 200
    refused = asking.post("/v1/chat/completions", CHAT, made["key"])
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 64
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert "requests_per_minute, which is 2" in error["message"]
    assert made["key"] not in refused.text
    refused = asking.post("/api/generate", GENERATE, made["key"])
    assert refused.status_code == 429
    assert "requests_per_minute, which is 2" in refused.json()["error"]
    # Lists are no requests of this kind, and others go on.
    assert asking.get("/v1/models", made["key"]).status_code == 200
    assert asking.post("/api/generate", GENERATE, asking.make("bob")["key"]).status_code == 200
    assert 'error_type="rate_limit_exceeded"' in httpx.get(f"{asking.url}/metrics").text
    client = openai.OpenAI(base_url=f"{asking.url}/v1", api_key=made["key"], max_retries=0)
    with client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="m-openai", messages=[{"role": "user", "content": "Hello"}])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", CHAT), ("/api/generate", GENERATE), ("/api/embed", EMBED)]
)
def test_each_answer_tells_a_key_how_its_limits_stand(
    asking: Asking, path: str, body: dict[str, Any], stream: bool
) -> None:
    made = asking.make(requests_per_minute=2, tokens_per_minute=1000)
    for left, status in ((1, 200), (0, 200), (0, 429)):
        answer = asking.post(path, {**body, "stream": stream}, made["key"])
        assert answer.status_code == status
        headers = answer.headers
        assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-limit-tokens"]) == ("2", "1000")
        assert int(headers["x-ratelimit-remaining-requests"]) == left
        assert re.fullmatch(r"(1m)?[1-5]?\d?s", headers["x-ratelimit-reset-requests"])
    # Two replies, or what two are thought to have cost.
    assert 1000 - 200 < int(headers["x-ratelimit-remaining-tokens"]) < 1000
    free = asking.post(path, {**body, "stream": stream}, asking.make("bob")["key"])
    assert not [name for name in free.headers if name.startswith("x-ratelimit")]


def test_what_is_refused_for_another_reason_costs_no_request(asking: Asking) -> None:
    made = asking.make(requests_per_minute=1, models=["m-openai"])
    for _ in range(3):
        assert asking.post("/api/generate", GENERATE, made["key"]).status_code == 403
    assert asking.post("/v1/chat/completions", CHAT, made["key"]).status_code == 200
    assert asking.post("/v1/chat/completions", CHAT, made["key"]).status_code == 429


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
        ("/api/generate", GENERATE),
        ("/api/generate", {**GENERATE, "stream": True}),
        ("/v1/chat/completions", {**CHAT, "model": "m-ollama", "stream": True}),
    ],
    ids=["openai whole", "openai stream", "ollama whole", "ollama stream", "translated stream"],
)
def test_the_tokens_of_a_reply_are_counted_as_its_engine_did(asking: Asking, path: str, body: dict[str, Any]) -> None:
    enough, short = TOKENS_OF_A_REPLY + 1, TOKENS_OF_A_REPLY
    for limit, status in ((enough, 200), (short, 429)):
        made = asking.make(tokens_per_minute=limit)
        assert asking.post(path, body, made["key"]).status_code == 200
        second = asking.post(path, body, made["key"])
        assert second.status_code == status
        if status == 429:
            assert f"tokens_per_minute, which is {limit}" in second.text


def test_a_stream_that_its_engine_does_not_count_is_estimated(asking: Asking) -> None:
    made = asking.make(tokens_per_minute=10)
    stream = {**CHAT, "stream": True}
    assert asking.post("/v1/chat/completions", stream, made["key"]).status_code == 200
    assert asking.post("/v1/chat/completions", stream, made["key"]).status_code == 429


async def endless(heard: Heard) -> None:
    """Write tokens until the caller leaves."""
    if heard.path != "/api/generate":
        await ollama_engine(heard)
        return
    await heard.start("application/x-ndjson")
    with suppress(ConnectionError):
        while True:
            await heard.chunk(b'{"model": "m", "response": "on and on", "done": false}\n')
            await asyncio.sleep(0.002)


def test_whoever_leaves_early_pays_for_what_it_got(admin_api: AdminApi, stack: ExitStack, stand_in: Run) -> None:
    url = stand_in(endless).url
    admin_api.add("endless", endpoint_url=url)
    known = settings_for(admin_api.base_url, admin_api.token, url)
    server = stack.enter_context(serving_prompts(create_app(known), Limits()))
    asking = Asking(admin_api, wait_for_configuration(server.url))
    made = asking.make(tokens_per_minute=50)
    body = {"model": "endless", "prompt": "Once", "stream": True}
    with httpx.stream("POST", f"{asking.url}/api/generate", json=body, headers={"x-api-key": made["key"]}) as reply:
        lines = reply.iter_lines()
        for _ in range(60):
            next(lines)

    def refused() -> bool:
        with httpx.stream("POST", f"{asking.url}/api/generate", json=body, headers={"x-api-key": made["key"]}) as more:
            return more.status_code == 429

    within(refused)


@pytest.mark.slow
def test_the_limits_of_a_key_hold_over_all_workers_and_hosts(
    admin_api: AdminApi, stack: ExitStack, stand_in: Run, redis_server: RedisServer, tmp_path: Path
) -> None:
    url = stand_in(ollama_engine).url
    admin_api.add("m-ollama", endpoint_url=url)
    variables = {
        "ADMIN_API_URL": admin_api.base_url,
        "ADMIN_API_TOKEN": admin_api.token,
        "OLLAMA_URL": url,
        "PROXY_ASK_FOR_KEYS": "true",
        "REDIS_URL": redis_server.url,
    }
    made = admin_api.client.post("/api/api-keys", json={"name": "alice", "requests_per_minute": 12}).json()
    hosts = [
        stack.enter_context(serving("proxy", tmp_path / f"log-{host}", "--workers", "2", **variables)).url
        for host in range(2)
    ]
    headers = {"x-api-key": made["key"]}
    for host in hosts:
        for _ in range(4):  # connections of their own, so that both workers are asked
            within(lambda host=host: httpx.get(f"{host}/v1/models", headers=headers).status_code == 200)  # type: ignore[misc]
    statuses = [
        httpx.post(f"{host}/api/generate", json=GENERATE, headers=headers).status_code
        for _ in range(15)
        for host in hosts
    ]
    assert statuses.count(200) == 12
    assert statuses.count(429) == 18
