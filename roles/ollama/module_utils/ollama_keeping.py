"""How long a model stays in memory once nobody asks it: what is declared, and what an Ollama says of it."""

import re
from datetime import datetime

UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
FOR_EVER = (2**63 - 1) / 1e9  # Ollama's own: the longest duration of Go, 292 years
CLOCK_SECONDS = 60  # so far a clock may have been set back since


def lifetime(keep_alive: str) -> float:
    """Return a `keep_alive` in seconds: a number of them, or a duration such as 1h30m; a negative one is for ever."""
    if keep_alive.startswith("-"):
        return FOR_EVER
    if keep_alive.isdigit():
        return float(keep_alive)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)", keep_alive)
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def seconds_left(expires_at: str, now: float) -> float:
    """Return how long a model still stays, by the `expires_at` of /api/ps; `now` is a time of `time.time`."""
    # Python before 3.11 reads neither Go's nine decimals nor its Z.
    whole = re.sub(r"\.\d+", "", expires_at).replace("Z", "+00:00")
    return datetime.fromisoformat(whole).timestamp() - now


def is_kept_otherwise(left: float, wanted: float) -> bool:
    """Return whether a model that stays for `left` seconds was loaded for another time than `wanted`.

    That less is left of a finite time is what time does.
    """
    if wanted == FOR_EVER:
        return left < FOR_EVER / 2
    return left > wanted + CLOCK_SECONDS
