"""How sure it is that one arm is worse than another.

Errors by Fisher's exact test (R. A. Fisher, 1922), which holds for few requests as well; times by Welch's unequal
variances t-test (B. L. Welch, 1947) on their logarithms, because times to first token are skewed and are compared as
ratios. Both one-sided: the question is whether the first arm is worse.
"""

import math

import msgspec

SHORTEST_SECONDS = 1e-6  # that a time is taken for; there is no logarithm of none
_FEW = 2  # times; fewer have no variance
_CLOSE = 1e-12
_TERMS = 300


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one arm. `logs` and `squares` are the sums of the logarithms of seconds and of their squares."""

    requests: int = 0
    errors: int = 0
    times: int = 0
    logs: float = 0.0
    squares: float = 0.0


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How the first arm differs from the second, and how sure it is that it is worse, between 0 and 1.

    `more_errors` is a difference of shares, `slower` a ratio of geometric means of times; 1 where nothing is known.
    """

    more_errors: float
    errors_confidence: float
    slower: float
    slower_confidence: float


def with_outcome(tally: Tally, *, first_token: float | None) -> Tally:
    """Return the tally with one more request: its seconds to the first token, or None where it failed."""
    if first_token is None:
        return msgspec.structs.replace(tally, requests=tally.requests + 1, errors=tally.errors + 1)
    log = math.log(max(first_token, SHORTEST_SECONDS))
    return Tally(
        requests=tally.requests + 1,
        errors=tally.errors,
        times=tally.times + 1,
        logs=tally.logs + log,
        squares=tally.squares + log * log,
    )


def compare(one: Tally, other: Tally, *, times: float = 1.0, more: float = 0.0) -> Difference:
    """Return how `one` differs from `other`.

    The confidences are those that it is slower by more than so many `times`, and has `more` errors than by chance: the
    errors that are allowed beside the other's (a share of requests) are counted as the other's own.
    """
    allowed = min(other.errors + round(more * other.requests), other.requests)
    return Difference(
        more_errors=_share(one) - _share(other),
        errors_confidence=1.0 - fisher(one.errors, one.requests, allowed, other.requests),
        slower=math.exp(one.logs / one.times - other.logs / other.times) if one.times and other.times else 1.0,
        slower_confidence=1.0 - welch(one, other, math.log(times)),
    )


def fisher(errors: int, requests: int, other_errors: int, other_requests: int) -> float:
    """Return the probability of so many errors or more in the first arm if both have the same rate of errors."""
    total, failed = requests + other_requests, errors + other_errors
    if not requests or not other_requests:
        return 1.0
    most = min(failed, requests)
    # The hypergeometric distribution, summed upwards from what was seen.
    term = math.exp(
        _log_choose(failed, errors) + _log_choose(total - failed, requests - errors) - _log_choose(total, requests)
    )
    found = term
    for count in range(errors, most):
        term *= (failed - count) * (requests - count) / ((count + 1) * (total - failed - requests + count + 1))
        found += term
        if term < found * _CLOSE:
            break
    return min(found, 1.0)


def welch(one: Tally, other: Tally, shift: float) -> float:
    """Return the probability of such a difference of mean logarithms, or a greater one, were it really `shift`."""
    if one.times < _FEW or other.times < _FEW:
        return 1.0
    first, second = _variance(one) / one.times, _variance(other) / other.times
    difference = one.logs / one.times - other.logs / other.times - shift
    if first + second <= 0:
        return 0.0 if difference > 0 else 1.0
    part = first / (first + second)
    freedom = 1.0 / (part**2 / (one.times - 1) + (1.0 - part) ** 2 / (other.times - 1))
    return student_above(difference / math.sqrt(first + second), freedom)


def student_above(t: float, freedom: float) -> float:
    """Return the probability that Student's t with so many degrees of freedom is greater than `t`."""
    tail = _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2
    return tail if t > 0 else 1.0 - tail


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function, by Lentz's continued fraction."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1.0 - front * _fraction(b, a, 1.0 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    found = d
    for m in range(1, _TERMS):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 + numerator * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + numerator / c
            c = c if abs(c) > tiny else tiny
            found *= d * c
        if abs(d * c - 1.0) < _CLOSE:
            break
    return found


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _variance(tally: Tally) -> float:
    return max(tally.squares - tally.logs**2 / tally.times, 0.0) / (tally.times - 1)


def _share(tally: Tally) -> float:
    return tally.errors / tally.requests if tally.requests else 0.0
