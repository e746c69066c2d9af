import uuid
from collections.abc import AsyncIterator

import pytest
import redis

from athena.orchestrator.conversations import Conversations, MemoryConversations, RedisConversations, Turn
from athena.orchestrator.intents import ConversationLimits
from tests.support.clock import Clock
from tests.support.redis_server import RedisServer

LIMITS = ConversationLimits(turns=3, ttl_seconds=60, in_memory=5)


@pytest.fixture
def key() -> str:
    return f"owner:{uuid.uuid4()}"


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Conversations]:
    conversations: Conversations
    if request.param == "memory":
        conversations = MemoryConversations(LIMITS)
    else:
        server: RedisServer = request.getfixturevalue("redis_of_the_module")
        conversations = RedisConversations(server.url, LIMITS)
    yield conversations
    await conversations.aclose()


async def test_an_unknown_conversation_has_no_turns(store: Conversations, key: str) -> None:
    assert list(await store.turns(key)) == []


async def test_the_last_turns_are_kept_in_their_order(store: Conversations, key: str) -> None:
    for number in range(5):
        await store.add(key, Turn(f"question {number}?", f"Antwört {number} 🌦"))
    assert [turn.question for turn in await store.turns(key)] == ["question 2?", "question 3?", "question 4?"]
    assert (await store.turns(key))[-1].answer == "Antwört 4 🌦"


async def test_two_conversations_do_not_mix(store: Conversations, key: str) -> None:
    await store.add(key, Turn("mine", "a"))
    await store.add(key + "x", Turn("yours", "b"))
    assert [turn.question for turn in await store.turns(key)] == ["mine"]


async def test_redis_forgets_a_conversation_some_time_after_its_last_turn(
    redis_of_the_module: RedisServer, key: str
) -> None:
    store = RedisConversations(redis_of_the_module.url, LIMITS)
    await store.add(key, Turn("q", "a"))
    with redis.Redis.from_url(redis_of_the_module.url) as client:
        assert 55 < client.ttl(f"athena:conversation:{key}") <= 60
    await store.aclose()


async def test_memory_forgets_a_conversation_some_time_after_its_last_turn() -> None:
    clock = Clock()
    store = MemoryConversations(LIMITS, clock)
    await store.add("a", Turn("first", ""))
    clock.now += 50
    await store.add("a", Turn("second", ""))
    clock.now += 59
    assert len(await store.turns("a")) == 2
    clock.now += 2
    assert list(await store.turns("a")) == []


async def test_memory_is_bounded_and_gives_up_the_conversation_unused_for_longest() -> None:
    store = MemoryConversations(LIMITS)
    for name in ["a", "b", "c", "d", "e"]:
        await store.add(name, Turn(name, ""))
    await store.add("a", Turn("again", ""))
    await store.add("f", Turn("f", ""))
    assert [len(await store.turns(name)) for name in "abcdef"] == [2, 0, 1, 1, 1, 1]


async def test_a_conversation_goes_on_in_memory_while_redis_is_down_and_returns_to_it(
    own_redis: RedisServer, key: str
) -> None:
    clock = Clock()
    store = RedisConversations(own_redis.url, LIMITS, clock)
    await store.add(key, Turn("before", ""))
    assert await store.state() == "healthy"

    own_redis.stop()
    await store.add(key, Turn("during", ""))
    assert [turn.question for turn in await store.turns(key)] == ["before", "during"]
    assert await store.state() == "unavailable"

    own_redis.start()
    clock.now += 10
    await store.add(key, Turn("after", ""))
    assert [turn.question for turn in await store.turns(key)] == ["after"]
    assert await store.state() == "healthy"
    await store.aclose()


async def test_what_somebody_else_wrote_under_the_key_in_redis_does_no_harm(
    redis_of_the_module: RedisServer, key: str
) -> None:
    with redis.Redis.from_url(redis_of_the_module.url) as client:
        client.set(f"athena:conversation:{key}", "not a list")
    store = RedisConversations(redis_of_the_module.url, LIMITS)
    await store.add(key, Turn("q", "a"))
    assert [turn.question for turn in await store.turns(key)] == ["q"]
    await store.aclose()
