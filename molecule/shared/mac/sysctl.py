#!/usr/bin/env python3
"""sysctl: reads and writes the figures of the settings; what is written is gone after a boot, as on a Mac."""

import mac
from mac import ToolError, say

WRITABLE = ("iogpu.wired_limit_mb", "iogpu.wired_lwm_mb")


def main(arguments: list[str]) -> None:
    options = {letter for word in arguments if word.startswith("-") for letter in word[1:]}
    names = [word for word in arguments if not word.startswith("-")]
    if not names or options - set("nwi"):
        raise ToolError(1, "usage: sysctl [-n] [-w] name[=value] …")
    written = mac.read("sysctl", {})
    values = {**mac.settings()["sysctl"], **written}
    for word in names:
        name, assigns, value = word.partition("=")
        if name not in values:
            raise ToolError(1, f"sysctl: unknown oid '{name}'")
        before = values[name]
        if assigns:
            write(name, value)
            values[name] = written[name] = value
            mac.keep("sysctl", written)
        shown = f"{before} -> {value}" if assigns else before
        say(shown if "n" in options else f"{name}: {shown}")


def write(name: str, value: str) -> None:
    """Refuse what the kernel does not take."""
    if name not in WRITABLE:
        raise ToolError(1, f"sysctl: oid '{name}' is read only")
    if not mac.is_root():
        raise ToolError(1, f"sysctl: {name}={value}: Operation not permitted")
    if not value.isdigit():
        raise ToolError(1, f"sysctl: invalid integer '{value}'")


if __name__ == "__main__":
    mac.run("sysctl", main)
