#!/usr/bin/env python3
"""sw_vers: which macOS this is."""

import mac
from mac import ToolError, say


def main(arguments: list[str]) -> None:
    settings = mac.settings()
    values = {"ProductName": "macOS", "ProductVersion": settings["version"], "BuildVersion": settings["build"]}
    if not arguments:
        say(*(f"{name}:\t\t{value}" for name, value in values.items()))
        return
    wanted = arguments[0].lstrip("-").lower()
    for name, value in values.items():
        if name.lower() == wanted:
            say(value)
            return
    raise ToolError(1, f"sw_vers: unrecognized option: {arguments[0]}")


if __name__ == "__main__":
    mac.run("sw_vers", main)
