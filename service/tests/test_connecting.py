"""How long connections are tried anew, and which."""

import pytest

from athena.connecting import PAUSE_SECONDS, persist


class Clock:
    """A time that passes where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Part:
    """Refuses so many connections, and answers after them."""

    def __init__(self, refusals: int, answer: Exception | None = None) -> None:
        self.refusals = refusals
        self.answer = answer
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        if self.asked <= self.refusals:
            raise ConnectionRefusedError(f"refusal {self.asked}")
        if self.answer is not None:
            raise self.answer
        return "answered"


def tried(part: Part, seconds: float, clock: Clock) -> str:
    def was_kept_out(error: Exception) -> bool:
        return isinstance(error, ConnectionRefusedError)

    return persist(part, seconds=seconds, was_kept_out=was_kept_out, clock=clock.read, sleep=clock.sleep)


def test_a_connection_that_is_refused_at_first_is_made_a_moment_later() -> None:
    clock, part = Clock(), Part(refusals=2)
    assert tried(part, 10, clock) == "answered"
    assert (part.asked, clock.now) == (3, 100 + 2 * PAUSE_SECONDS)


def test_the_last_refusal_is_told_within_the_time() -> None:
    clock, part = Clock(), Part(refusals=1000)
    with pytest.raises(ConnectionRefusedError, match=r"^refusal 21$"):
        tried(part, 10, clock)
    assert clock.now == 110


def test_without_time_there_is_one_attempt() -> None:
    clock, part = Clock(), Part(refusals=1)
    with pytest.raises(ConnectionRefusedError):
        tried(part, 0, clock)
    assert (part.asked, clock.now) == (1, 100)


def test_an_answer_is_not_asked_for_again() -> None:
    clock, part = Clock(), Part(refusals=1, answer=PermissionError("no"))
    with pytest.raises(PermissionError):
        tried(part, 10, clock)
    assert (part.asked, clock.now) == (2, 100 + PAUSE_SECONDS)
