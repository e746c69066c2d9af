#!/usr/bin/python
"""Have one model with an Ollama, have it loaded, or have none but those that are declared."""

import http.client
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.ollama_copies import canonical, copied, is_digest

DOCUMENTATION = """
module: ollama_model
short_description: Copy, pull, load or remove models of an Ollama
description: >-
  A model that another host has is copied from there, and pulled where none can be. A pull is read as it goes. One that
  breaks off, or gets no byte for a while, is taken up again: Ollama keeps what it has. How far it is stands in the
  system's log every 10 seconds, the result says how much came and how fast. A check says what would be done, also where
  no Ollama answers yet.
options:
  url: {description: Where Ollama listens., type: str, required: true}
  name: {description: "The model, for `present` and `loaded`.", type: str, default: ''}
  state:
    description: >-
      `present`, it is there, with the digest; `loaded`, it is in memory as well; `only`, no model is in memory that
      `declared` does not name, and none is there either where that is asked for.
    type: str
    choices: [present, loaded, only]
    default: present
  digest: {description: "Its digest, or the first 12 or more characters; empty for any.", type: str, default: ''}
  insecure: {description: Whether its registry speaks plain http., type: bool, default: false}
  keep_alive: {description: "How long it stays loaded, empty for Ollama's own default.", type: str, default: ''}
  declared: {description: The models that may be there., type: list, elements: str, default: []}
  prune: {description: "Whether `only` removes files; otherwise it reports them.", type: bool, default: false}
  stall_seconds: {description: A pull without a byte for so long is broken off., type: int, default: 60}
  attempts: {description: So many attempts without a byte end a pull., type: int, default: 5}
  load_seconds:
    description: How long loading may take, and an answer of a model that is to be unloaded.
    type: int
    default: 900
  peers:
    description: "Hosts that may have it: `url`, where they share models; `models`, name to digest, as each said."
    type: list
    elements: dict
    default: []
  copier: {description: The program that copies., type: path}
  folder: {description: Where Ollama keeps its models., type: path}
  user: {description: In whose name they are copied., type: str, default: ''}
"""
LOOK_SECONDS = 10  # how long an answer that needs no work may take
VERIFY_SECONDS = 1800  # Ollama says nothing while it computes the digest of what it pulled
LOG_SECONDS = 10
LONGEST_PAUSE = 8
LOADED_PAUSE = 0.2
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
        self.moved_at = now
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

    def is_stalled(self, now: float, seconds: float) -> bool:
        return now - self.moved_at > seconds

    def patience(self, seconds: float) -> float:
        """Return how long the next line may take: Ollama shows its downloads many times a second."""
        return seconds if self.status.startswith("pulling") or not self.status else VERIFY_SECONDS

    def __str__(self) -> str:
        return f"{mib(sum(self.has.values()))} of {mib(sum(self.total.values()))} MiB, {self.status}"


def mib(count: float) -> str:
    return f"{count / 2**20:.1f}"


class Ollama:
    """An Ollama's API."""

    def __init__(self, url: str) -> None:
        self.address = urlsplit(url).netloc
        self.url = url

    def open(self, method: str, path: str, body: Any, seconds: float) -> http.client.HTTPConnection:
        """Send a request, not through a proxy; whoever does not take the connection is silent."""
        connection = http.client.HTTPConnection(self.address, timeout=LOOK_SECONDS)
        try:
            connection.connect()
        except OSError as error:
            raise Silence(f"{self.url} does not answer: {error}") from None
        connection.sock.settimeout(seconds)
        connection.request(method, path, None if body is None else json.dumps(body))
        return connection

    def ask(self, method: str, path: str, body: Any = None, seconds: float = LOOK_SECONDS) -> dict[str, Any]:
        """Return the answer; raise with Ollama's words if that is an error."""
        connection = self.open(method, path, body, seconds)
        try:
            answer = connection.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ModelError(f"{method} {self.url}{path}: {error or type(error).__name__}") from None
        finally:
            connection.close()
        content: dict[str, Any] = json.loads(said) if said.strip().startswith(b"{") else {}
        if answer.status >= http.client.BAD_REQUEST:
            raise ModelError(f"{method} {self.url}{path}: {answer.status} {content.get('error', said.decode())}")
        return content

    def models(self) -> dict[str, str]:
        """Return the digests of its models, by name."""
        return {canonical(model["name"]): model["digest"] for model in self.ask("GET", "/api/tags").get("models") or []}

    def loaded(self) -> dict[str, str]:
        """Return the digests of the models in memory, by name."""
        return {canonical(model["name"]): model["digest"] for model in self.ask("GET", "/api/ps").get("models") or []}

    def is_loaded(self, name: str) -> bool:
        """Return whether a model is in memory, as it is on the disk now."""
        loaded = self.loaded()
        return name in loaded and loaded[name] == self.models().get(name)

    def unload(self, name: str, seconds: float) -> None:
        """Have a model in memory no longer; what is asked of it is answered first, for so many seconds at most."""
        deadline = time.monotonic() + seconds
        try:
            self.ask("POST", "/api/generate", {"model": name, "keep_alive": 0, "stream": False})
        except ModelError as error:
            raise ModelError(
                f"{name} is not declared, is in memory, and cannot be unloaded: start Ollama anew. {error}"
            ) from None
        while name in self.loaded():
            if time.monotonic() > deadline:
                raise ModelError(
                    f"{name} is not declared, and was still in memory after {seconds:g} s (ollama_load_seconds),"
                    " because it is still asked something. Have nobody ask it, and run again."
                )
            time.sleep(LOADED_PAUSE)

    def pull(self, name: str, insecure: bool, seconds: float, had: dict[str, int]) -> Iterator[Progress]:
        """Pull, as far as it goes in one attempt."""
        progress = Progress(time.monotonic(), had)
        connection = self.open("POST", "/api/pull", {"model": name, "insecure": insecure}, seconds)
        socket = connection.sock
        try:
            answer = connection.getresponse()
            while line := answer.readline():
                progress.feed(json.loads(line), time.monotonic())
                yield progress
                if progress.is_stalled(time.monotonic(), progress.patience(seconds)):
                    raise BrokenOffError(f"no byte came for {seconds:g} s")
                socket.settimeout(progress.patience(seconds))
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            raise BrokenOffError(str(error) or type(error).__name__) from None
        finally:
            connection.close()
        if not progress.is_done:
            raise BrokenOffError("Ollama ended before the pull did")

    def load(self, name: str, keep_alive: str, seconds: float) -> None:
        """Load a model into memory; one that only embeds is asked for that."""
        body: dict[str, Any] = {"model": name, "stream": False}
        if keep_alive:
            body["keep_alive"] = int(keep_alive) if re.fullmatch(r"-?\d+", keep_alive) else keep_alive
        try:
            self.ask("POST", "/api/generate", body, seconds)
        except ModelError as error:
            if "does not support generate" not in str(error):
                raise
            self.ask("POST", "/api/embed", {**body, "input": []}, seconds)


def final(words: str) -> str:
    """Return the remedy of what another attempt does not mend, nothing if it may."""
    return next((remedy for part, remedy in FINAL if part in words), "")


def pull(ollama: Ollama, given: dict[str, Any], log: Callable[[str], None]) -> dict[str, Any]:
    """Pull until all is there; give up after so many attempts in a row that brought nothing."""
    name, began, broken_off = given["name"], time.monotonic(), []
    had: dict[str, int] = {}
    came, barren, logged = 0, 0, began
    while True:
        progress = None
        try:
            for progress in ollama.pull(name, given["insecure"], given["stall_seconds"], had):
                if time.monotonic() - logged > LOG_SECONDS:
                    logged = time.monotonic()
                    log(f"{name}: {progress}")
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
    seconds = time.monotonic() - began
    return {
        "bytes": came,
        "seconds": round(seconds, 1),
        "broken_off": broken_off,
        "msg": f"{name}: {mib(came)} MiB came in {seconds:.0f} s, {mib(came / max(seconds, 0.1))} MiB/s",
    }


def difference(name: str, before: str, after: str) -> dict[str, str]:
    return {"before": f"{name}: {before}\n", "after": f"{name}: {after or 'pulled'}\n"}


def bring(ollama: Ollama, given: dict[str, Any], log: Callable[[str], None]) -> dict[str, Any]:
    """Copy the model or, where no host gives it, pull it. Where that fails too, it is told why there is no copy."""
    began = time.monotonic()
    url, refusals = copied(ollama.models, given, log)
    told = {"copied_from": url, "not_copied": refusals}
    if url:
        seconds = time.monotonic() - began
        return {**told, "seconds": round(seconds, 1), "msg": f"{given['name']}: copied from {url} in {seconds:.0f} s"}
    try:
        pulled = pull(ollama, given, log)
    except ModelError as error:
        if not refusals:
            raise
        raise ModelError(f"{error} Nor could it be copied from another host: {'; '.join(refusals)}") from None
    begun = Path(given["folder"]) / ".copied"
    if refusals and begun.exists():  # what came of copies is of no use any more
        try:
            shutil.rmtree(begun)
        except OSError as error:
            log(f"{begun} is of no use any more, and could not be removed: {error}")
    return {**told, **pulled}


def have(ollama: Ollama, given: dict[str, Any], is_check: bool, log: Callable[[str], None]) -> dict[str, Any]:
    """Have the model with its digest."""
    name, wanted = canonical(given["name"]), given["digest"]
    try:
        found = ollama.models().get(name)
    except Silence:
        if not is_check:
            raise
        found = None
    if found is not None and is_digest(wanted, found):
        return {"changed": False, "digest": found, "copied_from": "", "not_copied": []}
    if is_check:
        return {"changed": True, "diff": difference(given["name"], "absent" if found is None else found[:12], wanted)}
    brought = bring(ollama, given, log)
    has = ollama.models().get(name, "")
    if not is_digest(wanted, has):
        raise ModelError(
            f"its registry has {has[:12] or 'nothing'}, and ollama_models declares {wanted}. Ollama has now what the"
            " registry has: if you want that one, declare its digest; otherwise name a tag that does not move."
        )
    shown = difference(given["name"], "absent" if found is None else found[:12], has[:12])
    return {"changed": has != found, "digest": has, "diff": shown, **brought}


def have_loaded(ollama: Ollama, given: dict[str, Any], is_check: bool) -> dict[str, Any]:
    """Have the model in memory."""
    try:
        is_loaded = ollama.is_loaded(canonical(given["name"]))
    except Silence:
        if not is_check:
            raise
        is_loaded = False
    if not is_loaded and not is_check:
        ollama.load(given["name"], given["keep_alive"], given["load_seconds"])
    return {"changed": not is_loaded}


def have_only(ollama: Ollama, given: dict[str, Any], is_check: bool) -> dict[str, Any]:
    """Unload the models that are not declared; report them, and remove them if that is asked for."""
    declared = {canonical(name) for name in given["declared"]}
    try:
        undeclared = sorted(set(ollama.models()) - declared)
        unloaded = sorted(set(ollama.loaded()) - declared)
    except Silence:
        if not is_check:
            raise
        undeclared, unloaded = [], []
    removed = undeclared if given["prune"] else []
    if not is_check:
        for name in unloaded:  # first, because Ollama knows no more of one whose files are gone
            ollama.unload(name, given["load_seconds"])
        for name in removed:
            ollama.ask("DELETE", "/api/delete", {"model": name})
    return {
        "changed": bool(unloaded or removed),
        "undeclared": undeclared,
        "unloaded": unloaded,
        "removed": removed,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "name": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["present", "loaded", "only"], "default": "present"},
            "digest": {"type": "str", "default": ""},
            "insecure": {"type": "bool", "default": False},
            "keep_alive": {"type": "str", "default": ""},
            "declared": {"type": "list", "elements": "str", "default": []},
            "prune": {"type": "bool", "default": False},
            "stall_seconds": {"type": "int", "default": 60},
            "attempts": {"type": "int", "default": 5},
            "load_seconds": {"type": "int", "default": 900},
            "peers": {"type": "list", "elements": "dict", "default": []},
            "copier": {"type": "path"},
            "folder": {"type": "path"},
            "user": {"type": "str", "default": ""},
        },
        required_if=[("state", "present", ("name",)), ("state", "loaded", ("name",))],
        supports_check_mode=True,
    )
    given, ollama = module.params, Ollama(module.params["url"])
    try:
        if given["state"] == "present":
            result = have(ollama, given, module.check_mode, module.log)
        elif given["state"] == "loaded":
            result = have_loaded(ollama, given, module.check_mode)
        else:
            result = have_only(ollama, given, module.check_mode)
    except (ModelError, Silence) as error:
        module.fail_json(msg=f"{given['name'] or 'The models'}: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
