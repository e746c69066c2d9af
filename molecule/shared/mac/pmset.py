#!/usr/bin/env python3
"""pmset: the power settings of a desktop Mac, which has no battery."""

import mac
from mac import ToolError, say

DEFAULTS = {
    "standby": "0",
    "Sleep On Power Button": "1",
    "womp": "1",
    "autorestart": "0",
    "hibernatefile": "/var/vm/sleepimage",
    "powernap": "1",
    "networkoversleep": "0",
    "disksleep": "10",
    "sleep": "1",
    "hibernatemode": "0",
    "ttyskeepawake": "1",
    "displaysleep": "10",
    "tcpkeepalive": "1",
    "lowpowermode": "0",
}
FIXED = ("Sleep On Power Button", "hibernatefile")


def main(arguments: list[str]) -> None:
    values = {**DEFAULTS, **mac.read("pmset", {})}
    match arguments:
        case [] | ["-g"] | ["-g", "live"]:
            say("System-wide power settings:", "Currently in use:", *(f" {n:<20} {v}" for n, v in values.items()))
        case ["-g", "custom"]:
            say("AC Power:", *(f" {n:<20} {v}" for n, v in values.items()))
        case ["-a" | "-c", *pairs] if pairs and len(pairs) % 2 == 0:
            write(dict(zip(pairs[::2], pairs[1::2], strict=True)), values)
        case _:
            raise ToolError(64, "Usage: pmset [-g [custom | live]] | [-a | -c] setting value …")


def write(wanted: dict[str, str], values: dict[str, str]) -> None:
    if not mac.is_root():
        raise ToolError(77, "'pmset' must be run as root...")
    for name, value in wanted.items():
        if name not in values or name in FIXED or not value.isdigit():
            raise ToolError(64, f"Usage: pmset: there is no setting {name} that can be {value}")
    mac.keep("pmset", {name: wanted.get(name, value) for name, value in values.items()})


if __name__ == "__main__":
    mac.run("pmset", main)
