#!/usr/bin/python
"""Have one model with an Ollama, have it loaded, or have none but those that are declared."""

import http.client
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.ollama_copies import CopyPausedError, canonical, copied, is_digest
from ansible.module_utils.ollama_keeping import FOR_EVER, is_kept_otherwise, lifetime, seconds_left
from ansible.module_utils.ollama_pulls import BrokenOffError, ModelError, Progress, Silence, pull

DOCUMENTATION = """
module: ollama_model
short_description: Copy, pull, load or remove models of an Ollama
description: >-
  A model that another host has is copied from there, and pulled where none can be. A pull is read as it goes. One that
  breaks off, or gets no byte for a while, is taken up again: Ollama keeps what it has. The result says how much came
  and how fast. A copy or a pull that takes longer than `seconds` ends with `progress` and `so_far`, and the next call
  goes on from there; the action of the same name makes these calls, and shows the progress. What a name led to before
  is kept under another, which the result tells as `kept`. A check says what would be done, also where no Ollama
  answers yet.
options:
  url: {description: Where Ollama listens., type: str, required: true}
  name: {description: "The model, for `present` and `loaded`.", type: str, default: ''}
  state:
    description: >-
      `present`, it is there, with the digest; `loaded`, it is in memory as well, and stays for `keep_alive`; `only`, no
      model is in memory that `declared` does not name, and none is there either where that is asked for. Those in
      memory that no name leads to are told as `lost`, because only a start of Ollama's rids the memory of them.
    type: str
    choices: [present, loaded, only]
    default: present
  digest: {description: "Its digest, or the first 12 or more characters; empty for any.", type: str, default: ''}
  former_digest:
    description: >-
      Where no digest is declared: the one that it had once. If its name leads to another by now, and what that led to
      before is the one, it comes back.
    type: str
    default: ''
  insecure: {description: Whether its registry speaks plain http., type: bool, default: false}
  keep_alive:
    description: >-
      How long it stays loaded once nobody asks it: seconds, or 10m; negative, for ever. That begins anew with each
      call, which is a change only if it was loaded for another time; of a shorter one nobody can tell.
    type: str
  declared: {description: The models that may be there., type: list, elements: str, default: []}
  kept: {description: Models that `only` leaves as they are., type: list, elements: str, default: []}
  prune: {description: "Whether `only` removes files; otherwise it reports them.", type: bool, default: false}
  stall_seconds: {description: A pull without a byte for so long is broken off., type: int, default: 60}
  attempts: {description: So many attempts without a byte end a pull., type: int, default: 5}
  seconds: {description: After so long a call ends in the middle of a copy or a pull., type: int, default: 30}
  so_far: {description: What the call before said of one that it ended in the middle of., type: dict, default: {}}
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
LOADED_PAUSE = 0.2
BEFORE, ASIDE = "-athena-before", "-athena-aside"  # what a name led to before; and what it leads to, for a moment


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

    def memory(self) -> list[dict[str, Any]]:
        """Return what Ollama says of each model in memory."""
        rows: list[dict[str, Any]] = self.ask("GET", "/api/ps").get("models") or []
        return rows

    def loaded(self) -> dict[str, str]:
        """Return the names of the models in memory, by digest: after a change there may be two of one name."""
        return {model["digest"]: canonical(model["name"]) for model in self.memory()}

    def stays(self, name: str) -> float | None:
        """Return for how many seconds a model, as it is on the disk now, is still in memory; None if it is not."""
        digest = self.models().get(name)
        ends = [model["expires_at"] for model in self.memory() if model["digest"] == digest]
        return seconds_left(ends[0], time.time()) if ends else None

    def unload(self, name: str, digest: str, seconds: float) -> None:
        """Have a model in memory no longer; what is asked of it is answered first, for so many seconds at most."""
        deadline = time.monotonic() + seconds
        self.ask("POST", "/api/generate", {"model": name, "keep_alive": 0, "stream": False})
        while digest in self.loaded():
            if time.monotonic() > deadline:
                raise ModelError(
                    f"{name} is not declared, and was still in memory after {seconds:g} s (ollama_load_seconds),"
                    " because it is still asked something. Have nobody ask it, and run again."
                )
            time.sleep(LOADED_PAUSE)

    def copy(self, name: str, to: str) -> None:
        """Have another name lead to what one leads to; no byte of the model is copied."""
        self.ask("POST", "/api/copy", {"source": name, "destination": to})

    def delete(self, name: str) -> None:
        """Have a name no longer, nor the files that no other leads to."""
        self.ask("DELETE", "/api/delete", {"model": name})

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
        kept = int(keep_alive) if re.fullmatch(r"-?\d+", keep_alive) else keep_alive
        body: dict[str, Any] = {"model": name, "keep_alive": kept, "stream": False}
        try:
            self.ask("POST", "/api/generate", body, seconds)
        except ModelError as error:
            if "does not support generate" not in str(error):
                raise
            self.ask("POST", "/api/embed", {**body, "input": []}, seconds)


def difference(name: str, before: str, after: str) -> dict[str, str]:
    return {"before": f"{name}: {before}\n", "after": f"{name}: {after or 'pulled'}\n"}


def bring(ollama: Ollama, given: dict[str, Any], log: Callable[[str], None]) -> dict[str, Any]:
    """Copy the model or, where no host gives it, pull it. Where that fails too, it is told why there is no copy."""
    began, so_far = time.monotonic(), given["so_far"]
    is_pulled = "had" in so_far  # already, because nobody gives a copy
    try:
        url, refusals = ("", so_far["not_copied"]) if is_pulled else copied(ollama.models, given, log)
    except CopyPausedError as pause:
        return pause.told
    told = {"copied_from": url, "not_copied": refusals}
    if url:
        seconds = so_far.get("seconds", 0.0) + time.monotonic() - began
        return {**told, "seconds": round(seconds, 1), "msg": f"{given['name']}: copied from {url} in {seconds:.0f} s"}
    try:
        pulled = pull(
            lambda had: ollama.pull(given["name"], given["insecure"], given["stall_seconds"], had),
            {**given, "so_far": so_far if is_pulled else {}},
            log,
        )
    except ModelError as error:
        if not refusals:
            raise
        raise ModelError(f"{error} Nor could it be copied from another host: {'; '.join(refusals)}") from None
    if "so_far" in pulled:
        return {**told, **pulled, "so_far": {**pulled["so_far"], "not_copied": refusals}}
    begun = Path(given["folder"]) / ".copied"
    if refusals and begun.exists():  # what came of copies is of no use any more
        try:
            shutil.rmtree(begun)
        except OSError as error:
            log(f"{begun} is of no use any more, and could not be removed: {error}")
    return {**told, **pulled}


def take_back(ollama: Ollama, name: str) -> None:
    """Have a name lead to what it led to before, which then leads to what the name led to."""
    ollama.copy(name, name + ASIDE)
    ollama.copy(name + BEFORE, name)
    ollama.copy(name + ASIDE, name + BEFORE)
    ollama.delete(name + ASIDE)


def bring_another(
    ollama: Ollama, given: dict[str, Any], has: Mapping[str, str], log: Callable[[str], None]
) -> dict[str, Any]:
    """Bring the model where its name leads to another one, and keep that: for the way back, and to unload it by a name.

    What the name led to before comes back without a byte, if that is the one.
    """
    name = canonical(given["name"])
    kept = name + BEFORE
    if given["digest"] and kept in has and is_digest(given["digest"], has[kept]):
        take_back(ollama, name)
        return {"kept": kept, "copied_from": "", "not_copied": [], "msg": f"{name} is what it was before"}
    ollama.copy(name, kept)
    try:
        return {"kept": kept, **bring(ollama, given, log)}
    except ModelError:
        if ollama.models().get(name) == has[name]:
            ollama.delete(kept)
        raise


def wanted_digest(given: Mapping[str, Any], has: Mapping[str, str]) -> str:
    """Return the digest that is declared, or else the former one where it can be taken back; empty for any."""
    name, former = canonical(given["name"]), given["former_digest"]
    can_be_taken_back = name in has and has.get(name + BEFORE) == former
    return str(given["digest"] or (former if can_be_taken_back else ""))


def have(ollama: Ollama, given: dict[str, Any], is_check: bool, log: Callable[[str], None]) -> dict[str, Any]:
    """Have the model with its digest."""
    name = canonical(given["name"])
    try:
        listed = ollama.models()
    except Silence:
        if not is_check:
            raise
        listed = {}
    found, wanted = listed.get(name), wanted_digest(given, listed)
    if found is not None and is_digest(wanted, found):
        return {"changed": False, "digest": found, "copied_from": "", "not_copied": []}
    if is_check:
        return {"changed": True, "diff": difference(given["name"], "absent" if found is None else found[:12], wanted)}
    brought = (
        bring(ollama, given, log) if found is None else bring_another(ollama, {**given, "digest": wanted}, listed, log)
    )
    if "so_far" in brought:
        return {"changed": True, **brought}
    has = ollama.models().get(name, "")
    if not is_digest(wanted, has):
        raise ModelError(
            f"its registry has {has[:12] or 'nothing'}, and ollama_models declares {wanted}. Ollama has now what the"
            " registry has: if you want that one, declare its digest; otherwise name a tag that does not move."
        )
    shown = difference(given["name"], "absent" if found is None else found[:12], has[:12])
    return {"changed": has != found, "digest": has, "diff": shown, **brought}


def have_loaded(ollama: Ollama, given: dict[str, Any], is_check: bool) -> dict[str, Any]:
    """Have the model in memory, for as long as is declared from now on."""
    wanted = lifetime(given["keep_alive"])
    try:
        left = ollama.stays(canonical(given["name"]))
    except Silence:
        if not is_check:
            raise
        left = None
    is_other = left is None or is_kept_otherwise(left, wanted)
    if not is_check and (is_other or wanted < FOR_EVER):
        ollama.load(given["name"], given["keep_alive"], given["load_seconds"])
    return {"changed": is_other}


def have_only(ollama: Ollama, given: dict[str, Any], is_check: bool) -> dict[str, Any]:
    """Unload the models that are not declared; report them, and remove them if that is asked for."""
    declared, kept = ({canonical(name) for name in given[names]} for names in ("declared", "kept"))
    try:
        has, loaded = ollama.models(), ollama.loaded()
    except Silence:
        if not is_check:
            raise
        has, loaded = {}, {}
    # By digest, because the name by which it was loaded may lead to another one by now, or to none.
    names = {digest: name for name, digest in sorted(has.items())}
    wanted = {has[name] for name in declared & set(has)}
    unloaded = sorted(names[digest] for digest in loaded if digest in names and digest not in wanted)
    undeclared = sorted(set(has) - declared - kept)
    removed = undeclared if given["prune"] else []
    lost = sorted(name for digest, name in loaded.items() if digest not in names)
    if not is_check:
        for name in unloaded:  # first, because Ollama knows no more of one whose files are gone
            ollama.unload(name, has[name], given["load_seconds"])
        for name in removed:
            ollama.delete(name)
    return {
        "changed": bool(unloaded or removed),
        "undeclared": undeclared,
        "unloaded": unloaded,
        "removed": removed,
        "lost": lost,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "name": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["present", "loaded", "only"], "default": "present"},
            "digest": {"type": "str", "default": ""},
            "former_digest": {"type": "str", "default": ""},
            "insecure": {"type": "bool", "default": False},
            "keep_alive": {"type": "str"},
            "declared": {"type": "list", "elements": "str", "default": []},
            "kept": {"type": "list", "elements": "str", "default": []},
            "prune": {"type": "bool", "default": False},
            "stall_seconds": {"type": "int", "default": 60},
            "attempts": {"type": "int", "default": 5},
            "seconds": {"type": "int", "default": 30},
            "so_far": {"type": "dict", "default": {}},
            "load_seconds": {"type": "int", "default": 900},
            "peers": {"type": "list", "elements": "dict", "default": []},
            "copier": {"type": "path"},
            "folder": {"type": "path"},
            "user": {"type": "str", "default": ""},
        },
        required_if=[("state", "present", ("name",)), ("state", "loaded", ("name", "keep_alive"))],
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
