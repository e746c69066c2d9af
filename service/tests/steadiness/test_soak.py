"""The short form of service/bench/soak, and what makes its verdicts worth something."""

import json
from pathlib import Path

import msgspec
import pytest
import uvloop

from bench.soak_checks import Ask, Books, State, Tally, Verdict, disagreements, judge, leaks, plan
from bench.soaking import Options, soak
from tests.support.caller import OPENAI_CHAT, Answer
from tests.support.faults.wire import reply_to

ASK = Ask(path=OPENAI_CHAT, model="m", prompt="request 1 [tokens=3 pause=0]", stream=True, leaves=False)
TOKENS = reply_to(ASK.prompt)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_requests_survive_an_engine_that_is_killed_and_revived_every_second(tmp_path: Path, workers: int) -> None:
    result = uvloop.run(soak(Options(requests=3000, workers=workers), tmp_path))
    assert result.faults == [], result.table()
    assert result.kills >= 1
    assert result.tally.sent == 3000
    assert result.tally.verdicts[Verdict.BROKEN] > 0  # otherwise it was killed in vain


def _stream(*texts: str, more: str = "data: [DONE]\n\n", ended: bool = True) -> Answer:
    events = [{"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + more
    return Answer(path=OPENAI_CHAT, status=200, headers={}, body=body.encode(), ended=ended, stream=True)


BREAK = 'data: {"error": {"message": "The reply broke off"}}\n\n'


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (_stream(*TOKENS), Verdict.RIGHT),
        (_stream(*TOKENS[:1], more=BREAK, ended=False), Verdict.BROKEN),
        (_stream(*TOKENS[:1]), Verdict.WRONG),
        (_stream(*TOKENS, *TOKENS[:1]), Verdict.WRONG),
        (_stream(*reply_to("request 2 [tokens=3 pause=0]")), Verdict.WRONG),
        (_stream(*TOKENS, more=""), Verdict.WRONG),
        (_stream(*TOKENS, ended=False), Verdict.WRONG),
        (_stream(*TOKENS[1:2], more=BREAK, ended=False), Verdict.WRONG),
        (_stream(more=BREAK, ended=False), Verdict.WRONG),
        (_stream(*TOKENS[:1], more=BREAK), Verdict.WRONG),
        (_stream(*TOKENS[:1], more='data: {"cho', ended=False), Verdict.WRONG),
        (msgspec.structs.replace(_stream(), status=503, body=b"{}"), Verdict.REFUSED),
    ],
)
def test_the_soak_takes_nothing_but_the_right_reply_or_an_honest_break(answer: Answer, verdict: Verdict) -> None:
    assert judge(ASK, answer) is verdict


def test_the_soak_notices_a_request_that_is_missing_in_any_book() -> None:
    tally = Tally()
    for verdict in (Verdict.RIGHT, Verdict.RIGHT, Verdict.BROKEN, Verdict.LEFT):
        answer = msgspec.structs.replace(_stream(), headers={"x-athena-backend-id": "7"})
        tally.add(ASK, verdict, answer, 0.1)
    books = Books(
        requests={"": 2, "stream_broken": 1, "cancelled": 1},
        figures={7: {"requests": 3, "errors": 1}},
        attempts=4,
        completed=2,
    )
    assert disagreements(tally, books) == []
    for wrong in (
        {"requests": {"": 1, "stream_broken": 2, "cancelled": 1}},
        {"requests": {"": 2, "stream_broken": 1}},
        {"figures": {7: {"requests": 3, "errors": 2}}},
        {"figures": {8: {"requests": 3, "errors": 1}}},
        {"attempts": 3},
        {"completed": 3},
    ):
        assert disagreements(tally, msgspec.structs.replace(books, **wrong))


def test_the_soak_notices_what_is_not_given_back() -> None:
    before = State(descriptors=20, tasks=5, resident=1, active=0)
    assert leaks(before, before) == []
    for wrong in ({"descriptors": 21}, {"tasks": 6}, {"active": 1}):
        assert leaks(before, msgspec.structs.replace(before, **wrong))


def test_the_soak_asks_in_every_way() -> None:
    asked = [plan(number, 1) for number in range(2000)]
    assert {ask.path for ask in asked} >= {"/v1/chat/completions", "/v1/completions", "/api/chat", "/api/generate"}
    assert 900 < sum(ask.stream for ask in asked) < 1100
    assert len({ask.prompt for ask in asked}) == 2000
    assert asked == [plan(number, 1) for number in range(2000)]
