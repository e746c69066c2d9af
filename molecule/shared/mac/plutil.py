#!/usr/bin/env python3
"""plutil: whether files are property lists."""

import plistlib
from pathlib import Path
from xml.parsers.expat import ExpatError

import mac
from mac import ToolError, say


def problem(path: Path) -> str:
    try:
        plistlib.loads(path.read_bytes())
    except FileNotFoundError:
        return "file does not exist or is not readable or is not a regular file"
    except (plistlib.InvalidFileException, ExpatError, ValueError) as error:
        return f"Unexpected input: {error}"
    return ""


def main(arguments: list[str]) -> None:
    is_quiet = "-s" in arguments
    match [word for word in arguments if word != "-s"]:
        case ["-lint", *paths] if paths:
            problems = {path: problem(Path(path)) for path in paths}
        case _:
            raise ToolError(1, "plutil: this stands for no more than `plutil -lint [-s] file …`")
    for path, text in problems.items():
        if text or not is_quiet:
            say(f"{path}: {text or 'OK'}")
    if any(problems.values()):
        raise ToolError(1, "")


if __name__ == "__main__":
    mac.run("plutil", main)
