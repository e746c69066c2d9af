#!/usr/bin/env python3
"""A service for tests: logs a line a tenth of a second, and takes SECONDS to end when it is told to."""

import os
import signal
import sys
import time

leave_at = None


def leave(*_: object) -> None:
    global leave_at  # noqa: PLW0603  # a signal handler has nothing else
    leave_at = leave_at or time.monotonic() + float(os.environ.get("SECONDS_TO_END", "0"))
    sys.stdout.write("ending\n")


signal.signal(signal.SIGTERM, leave)
sys.stdout.write(f"started {' '.join(sys.argv[1:])}\n")
while leave_at is None or time.monotonic() < leave_at:
    sys.stdout.write(f"tick {time.time():.1f}\n")
    sys.stdout.flush()
    time.sleep(0.1)
sys.stdout.write("ended\n")
