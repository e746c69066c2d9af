"""Connections of a short-lived process, which the rules of a cluster's network may not know yet.

Where network policies are enforced, the address of a new pod reaches the rules a moment late. Until then what it
connects to refuses it, or says nothing. Such a process tries anew for a while; what was answered is never asked again.
"""

import time
from collections.abc import Callable
from typing import TypeVar

PAUSE_SECONDS = 0.5
Result = TypeVar("Result")


def persist(
    attempt: Callable[[], Result],
    *,
    seconds: float,
    was_kept_out: Callable[[Exception], bool],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """Return what `attempt` returns, tried anew for `seconds` (0: once) where no connection came to be.

    `was_kept_out` tells that from every other error. Raises the last error of `attempt`. No attempt begins after
    `seconds`; how long one takes is its own affair.
    """
    deadline = clock() + seconds
    while True:
        try:
            return attempt()
        except Exception as error:
            if not was_kept_out(error) or clock() + PAUSE_SECONDS > deadline:
                raise
        sleep(PAUSE_SECONDS)
