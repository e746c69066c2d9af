"""How commands write what they know: one line where it has many, columns, no credentials."""

import re
from collections.abc import Sequence

_USERINFO = re.compile(r"(?<=://)[^/\s]*@")


def without_credentials(text: str) -> str:
    """Return the text with no user and no password in any URL in it."""
    return _USERINFO.sub("", text)


def one_line(text: str, longest: int | None = None) -> str:
    """Return the text as one line that a terminal can be shown, cut to `longest` characters."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if longest is None or len(line) <= longest else line[: longest - 1].rstrip() + "…"


def columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of cells as text, each column as wide as its widest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
