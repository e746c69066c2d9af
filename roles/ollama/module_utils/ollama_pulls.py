"""How a model comes from its registry: what Ollama says of a pull, what ends one, what goes on, and how far it is.

A person sees how far it is between two calls of the module only. So a pull that takes longer ends now and then, and the
next call goes on from there: Ollama keeps what came.
"""

from __future__ import annotations  # a host's Python may be 3.9

import time
from collections.abc import Callable, Iterator
from typing import Any

VERIFY_SECONDS = 1800  # Ollama says nothing while it computes the digest of what it pulled
LONGEST_PAUSE = 8
# What another attempt does not mend: words of Ollama, and the remedy.
FINAL = (
    ("does not exist", "There is no such model there: look at its name and tag."),
    ("invalid model name", "Look at the name."),
    ("unauthorized", "Its registry wants credentials, which ollama_models does not have: take a model that is public."),
    ("insecure", "Its registry speaks plain http: say insecure: true, if you trust the network to it."),
    (
        "HTTP response to HTTPS client",
        "Its registry speaks plain http: say insecure: true, if you trust the network to it.",
    ),
    ("no space left", "Free some space in OLLAMA_MODELS."),
    ("requires a newer version", "Declare a newer ollama_version."),
)


class ModelError(Exception):
    """What went wrong, in words for a person."""


class BrokenOffError(Exception):
    """A pull that ended before its end, which may be taken up again."""


class Silence(Exception):  # noqa: N818 no error where Ollama is still to be installed
    """Nobody answers."""


class Progress:
    """How far one attempt of a pull is, as Ollama's lines tell it: bytes of each part of the model.

    It begins with what the attempt before had. What was there before the first one is known from its first lines.
    """

    def __init__(self, now: float, had: dict[str, int]) -> None:
        self.moved_at = self.fed_at = now
        self.status = ""
        self.had = dict(had)
        self.has: dict[str, int] = {}
        self.total: dict[str, int] = {}
        self.is_done = False

    def feed(self, line: dict[str, Any], now: float) -> None:
        """Take in a line; raise if it says that the pull failed."""
        if "error" in line:
            raise BrokenOffError(line["error"])
        status, digest = line.get("status", ""), line.get("digest", "")
        completed = line.get("completed", 0)
        if status != self.status or completed > self.has.get(digest, -1):
            self.moved_at = now
        self.fed_at = now
        self.status = status
        self.is_done = status == "success"
        if digest:
            self.had.setdefault(digest, completed)
            self.has[digest] = completed
            self.total[digest] = line.get("total", 0)

    @property
    def came(self) -> int:
        """Return how many bytes this attempt brought."""
        return sum(max(0, count - self.had[digest]) for digest, count in self.has.items())

    @property
    def may_pause(self) -> bool:
        """Return whether nothing is lost if it ends here and is taken up again.

        It has just brought something, so that one which stands still is not taken for one that goes on. And it brought
        no part to its end: Ollama computes the digest of such a part in the same pull, or never.
        """
        is_moving = self.came > 0 and self.moved_at == self.fed_at
        is_whole = any(count > self.had[digest] and count >= self.total[digest] for digest, count in self.has.items())
        return is_moving and self.status.startswith("pulling") and not is_whole

    def is_stalled(self, now: float, seconds: float) -> bool:
        return now - self.moved_at > seconds

    def patience(self, seconds: float) -> float:
        """Return how long the next line may take: Ollama shows its downloads many times a second."""
        return seconds if self.status.startswith("pulling") or not self.status else VERIFY_SECONDS

    def told(self, seconds: float) -> str:
        """Return how far it is, where this attempt took so many seconds."""
        return how_far(sum(self.has.values()), sum(self.total.values()), self.came, seconds)

    def __str__(self) -> str:
        return f"{mib(sum(self.has.values()))} of {mib(sum(self.total.values()))} MiB, {self.status}"


def mib(count: float) -> str:
    return f"{count / 2**20:.1f}"


def size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{mib(count)} MiB"


def how_far(has: int, total: int, came: int, seconds: float) -> str:
    """Return how much there is of a model, where so many seconds brought what `came`."""
    return f"{100 * has // max(total, 1)} % of {size(total)}, {mib(came / max(seconds, 0.1))} MiB/s"


def final(words: str) -> str:
    """Return the remedy of what another attempt does not mend, nothing if it may."""
    return next((remedy for part, remedy in FINAL if part in words), "")


def pull(
    attempt: Callable[[dict[str, int]], Iterator[Progress]], given: dict[str, Any], log: Callable[[str], None]
) -> dict[str, Any]:
    """Pull until all is there; give up after so many attempts in a row that brought nothing.

    `attempt` begins one with what the attempts before had. After `given["seconds"]` the result is how far it is,
    `progress`, and what the next call is given to go on, `so_far`.
    """
    name, began, so_far = given["name"], time.monotonic(), given["so_far"]
    had, broken_off = dict(so_far.get("had", {})), list(so_far.get("broken_off", []))
    came, barren = so_far.get("came", 0), 0  # whichever call ended before its pull did, brought something at last
    while True:
        progress, attempt_began = None, time.monotonic()
        try:
            for progress in attempt(had):
                now = time.monotonic()
                if now - began >= given["seconds"] and progress.may_pause:
                    return {
                        "progress": f"{name}: {progress.told(now - attempt_began)}",
                        "so_far": {
                            "had": had | progress.has,
                            "came": came + progress.came,
                            "broken_off": broken_off,
                            "seconds": so_far.get("seconds", 0.0) + now - began,
                        },
                    }
        except (BrokenOffError, Silence) as error:
            words = str(error)
        else:
            break
        if remedy := final(words):
            raise ModelError(f"{words}. {remedy}")
        came += progress.came if progress else 0
        had |= progress.has if progress else {}
        barren = 0 if progress and progress.came else barren + 1
        broken_off.append(f"{progress or 'before the first byte'}: {words}")
        log(f"{name}: broken off, {broken_off[-1]}")
        if barren >= given["attempts"]:
            raise ModelError(
                f"{words}. It was tried {len(broken_off)} times, {mib(came)} MiB came; run again to go on from there."
            )
        time.sleep(min(2**barren, LONGEST_PAUSE))
    came += progress.came if progress else 0
    seconds = so_far.get("seconds", 0.0) + time.monotonic() - began
    return {
        "bytes": came,
        "seconds": round(seconds, 1),
        "broken_off": broken_off,
        "msg": f"{name}: {mib(came)} MiB came in {seconds:.0f} s, {mib(came / max(seconds, 0.1))} MiB/s",
    }
