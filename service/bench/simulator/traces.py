"""Arrival traces: who asks what, and when. The same seed gives the same trace, whatever the policy."""

from collections.abc import Callable, Sequence
from random import Random

import msgspec

BYTES_A_TOKEN = 4
FLOODER = "flooder"


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt. `at` is in seconds from the beginning; `known_tokens` of it its conversation's last turn had."""

    number: int
    at: float
    tenant: str
    model: str
    conversation: int
    prompt_tokens: int
    known_tokens: int
    reply_tokens: int
    body: bytes


class Mix(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked: medians in tokens, the spread of their logarithms, and shares between 0 and 1.

    A document is a long prompt with a short reply. `again` is the share that goes on with an earlier conversation.
    """

    models: dict[str, float]  # how often each is asked for, relative to the others
    chat_tokens: float = 150.0
    reply_tokens: float = 120.0
    documents: float = 0.12
    document_tokens: float = 1500.0
    summary_tokens: float = 40.0
    spread: float = 0.6
    again: float = 0.5
    tenants: int = 8


Arrivals = Callable[[float, int, Random], list[tuple[float, str | None]]]


def poisson(rate: float, count: int, random: Random) -> list[tuple[float, str | None]]:
    """Return times of arrival with no memory, `rate` a second."""
    times: list[tuple[float, str | None]] = []
    now = 0.0
    for _ in range(count):
        now += random.expovariate(rate)
        times.append((now, None))
    return times


def bursts(rate: float, count: int, random: Random) -> list[tuple[float, str | None]]:
    """Return the same number in the same time, half of it in bursts of 20 s at four times the rate, 120 s apart."""
    length, apart, factor = 20.0, 120.0, 4.0
    calm = rate * (apart - length * factor) / (apart - length)
    times: list[tuple[float, str | None]] = []
    now = 0.0
    while len(times) < count:
        now += random.expovariate(rate * factor)
        if now % apart < length or random.random() < calm / (rate * factor):
            times.append((now, None))
    return times


def flood(rate: float, count: int, random: Random) -> list[tuple[float, str | None]]:
    """Return three quarters of the prompts as Poisson has them, the others by one tenant in the middle, all at once."""
    usual = poisson(rate * 0.75, count - count // 4, random)
    begin, end = usual[len(usual) // 3][0], usual[len(usual) // 2][0]
    flooding: list[tuple[float, str | None]] = [(random.uniform(begin, end), FLOODER) for _ in range(count // 4)]
    return sorted(usual + flooding, key=lambda arrival: arrival[0])


TRACES: dict[str, Arrivals] = {"poisson": poisson, "bursts": bursts, "flood": flood}


class _Conversation:
    def __init__(self, number: int, tenant: str, model: str) -> None:
        self.number = number
        self.tenant = tenant
        self.model = model
        self.tokens = 0
        self.text = Random(number)  # noqa: S311 - repeatable, nothing secret
        self.body = b""


def trace(arrivals: Arrivals, mix: Mix, *, rate: float, count: int, seed: int) -> list[Ask]:
    """Return the prompts of a trace in order."""
    random = Random(seed)  # noqa: S311 - repeatable, nothing secret
    open_ones: list[_Conversation] = []
    asks = []
    for number, (at, tenant) in enumerate(arrivals(rate, count, random)):
        conversation = _pick(open_ones, tenant, mix, random)
        if conversation is None:
            who = tenant or f"tenant{min(int(random.expovariate(0.4)), mix.tenants - 1)}"
            model = random.choices(list(mix.models), list(mix.models.values()))[0]
            conversation = _Conversation(seed * 1_000_000 + number, who, model)
            open_ones.append(conversation)
            del open_ones[:-24]
        asks.append(_ask(number, conversation, at, mix, random))
    return asks


def _pick(open_ones: Sequence[_Conversation], tenant: str | None, mix: Mix, random: Random) -> _Conversation | None:
    if tenant is None and open_ones and random.random() < mix.again:
        found = random.choice(open_ones)
        if found.tenant != FLOODER and found.tokens < 3 * mix.document_tokens:
            return found
    return None


def _ask(number: int, conversation: _Conversation, at: float, mix: Mix, random: Random) -> Ask:
    document = random.random() < mix.documents
    said = _tokens(mix.document_tokens if document else mix.chat_tokens, mix.spread, random)
    reply = _tokens(mix.summary_tokens if document else mix.reply_tokens, mix.spread, random)
    known = conversation.tokens
    conversation.body += conversation.text.randbytes((known + said) * BYTES_A_TOKEN - len(conversation.body))
    conversation.tokens = known + said + reply
    return Ask(
        number=number,
        at=at,
        tenant=conversation.tenant,
        model=conversation.model,
        conversation=conversation.number,
        prompt_tokens=known + said,
        known_tokens=known,
        reply_tokens=reply,
        body=conversation.body,
    )


def _tokens(median: float, spread: float, random: Random) -> int:
    return max(1, round(median * random.lognormvariate(0.0, spread)))
