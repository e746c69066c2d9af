#!/usr/bin/env python3
"""Ask a proxy for a model, one question after the other. usage: fleet_caller.py FOLDER PROXY MODEL

It ends once FOLDER/stop is there; then FOLDER/asked has how many were answered, and each failure.
"""

import json
import sys
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

PAUSE_SECONDS = 0.1  # the engines share the machine with the run that is watched


def main(folder: Path, proxy: str, model: str) -> None:
    """Ask, and tell."""
    answered, lost = 0, []
    body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 8}).encode()
    while not (folder / "stop").exists():
        request = urllib.request.Request(f"{proxy}/v1/completions", body, {"Content-Type": "application/json"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  # of the test
                json.load(answer)["usage"]
            answered += 1
        except (OSError, HTTPException, ValueError, KeyError) as error:
            said = error.read().decode() if hasattr(error, "read") else ""
            lost.append(f"after {answered}: {error!r} {said}")
        time.sleep(PAUSE_SECONDS)
    (folder / "asked.new").write_text(json.dumps({"answered": answered, "lost": lost}))
    (folder / "asked.new").rename(folder / "asked")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
