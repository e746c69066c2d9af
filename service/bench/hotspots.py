"""Say where the proxy's time goes: by kind of code (perf), and by function (py-spy; what is compiled, perf).

Both look at the running proxy from outside, many times a second, and slow it down little; neither stops it.
"""

import argparse
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import peers
from bench.gateways.athena import Athena, CompiledAthena
from bench.machine import (
    CACHE,
    GATEWAY_CORE,
    LOAD_CORE,
    UnavailableError,
    cpu_seconds,
    description,
    free_port,
    pinned,
    running,
)
from bench.traffic import Prompts, build, engine, send, sending

SAVED = CACHE / "profile.json"
LOADS = {"whole": ("openai", 0, "request"), "stream": ("openai", 100, "chunk"), "ollama": ("ollama", 100, "chunk")}
_COMPILED = "compiled modules"
_KINDS = {
    r"__mypyc\.cpython": _COMPILED,
    r"\[kernel|vdso": "kernel: sockets, TCP, epoll",
    r"libpython|python3": "Python's interpreter",
    r"loop\.cpython": "uvloop",
    r"parser\.cpython": "httptools",
    r"_core\.cpython": "msgspec",
    r"_asyncio": "asyncio's tasks",
    r"libc\.so": "C library: memory",
}
_SAMPLES_A_SECOND = 499  # no divisor of what the proxy itself does by the clock
_ROWS = 20


def main() -> None:
    """Profile the chosen loads, print the tables and save them."""
    parser = argparse.ArgumentParser(prog="service/bench/profile", description=__doc__)
    parser.add_argument("--load", default=",".join(LOADS), help="which loads (%(default)s)")
    parser.add_argument("--seconds", type=int, default=10, help="how long each is looked at")
    parser.add_argument("--save", type=Path, default=SAVED, help="file for the figures (%(default)s)")
    options = parser.parse_args()
    try:
        program = build()
        peers.install()
        profiles = [
            _profile(program, athena, name, options.seconds)
            for athena in (Athena(), CompiledAthena())
            for name in options.load.split(",")
        ]
    except UnavailableError as reason:
        raise SystemExit(str(reason)) from None
    result = {"date": time.strftime("%Y-%m-%d", time.gmtime()), "machine": description(), "profiles": profiles}
    options.save.parent.mkdir(parents=True, exist_ok=True)
    options.save.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\nprofile: {options.save}")


def _profile(program: Path, athena: Athena, name: str, seconds: int) -> dict[str, Any]:
    dialect, tokens, unit = LOADS[name]
    prompts = Prompts(tokens=tokens, seconds=seconds)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        behind = stack.enter_context(engine(program, dialect))
        port = free_port()
        athena.obtain()
        start = athena.start([behind], port, folder)
        pid = stack.enter_context(running(start.command, core=GATEWAY_CORE, port=port, env=start.env))
        url = f"http://127.0.0.1:{port}{start.path}"
        send(program, url, Prompts(tokens=tokens, seconds=1), start.headers, folder)
        before = cpu_seconds(pid)
        outcome = send(program, url, prompts, start.headers, folder)
        cost = (cpu_seconds(pid) - before) / max(1, outcome.tokens or outcome.answered) * 1e6
        longer = Prompts(tokens=tokens, seconds=seconds + 2)
        samples = {}
        by_function = _by_symbol if isinstance(athena, CompiledAthena) else _by_function
        for kind, look in (("kinds", _by_kind), ("functions", by_function)):
            try:
                with sending(program, url, longer, start.headers, folder):
                    samples[kind] = look(pid, seconds, folder)
            except UnavailableError as reason:
                print(f"{athena.name}, {name}: no table of {kind}: {reason}")
    result = {
        "name": f"{athena.name}, {name}",
        "unit": unit,
        "cpu": cost,
        **{kind: _shares(counts) for kind, counts in samples.items()},
    }
    _print(result)
    return result


def _by_kind(pid: int, seconds: int, folder: Path) -> Counter[str]:
    """Count samples of the processor by the library that it was in."""
    return Counter(_kind(library) for library, _ in _sampled(pid, seconds, folder))


def _by_symbol(pid: int, seconds: int, folder: Path) -> Counter[str]:
    """Count samples of the processor by the compiled function that it was in; what is not compiled, by its kind."""
    return Counter(
        _symbol(symbol) if _kind(library) == _COMPILED else _kind(library)
        for library, symbol in _sampled(pid, seconds, folder)
    )


def _sampled(pid: int, seconds: int, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the library and the symbol of each sample that perf took of the process."""
    data = folder / "perf.data"
    record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(_SAMPLES_A_SECOND), "-o", str(data), "-p", str(pid)]
    peers.output(*pinned(LOAD_CORE, [*record, "sleep", str(seconds)]))
    for line in peers.output("perf", "script", "-i", data, "-F", "ip,sym,dso").splitlines():
        if found := re.fullmatch(r"\s*[0-9a-f]+ (.+) \((.+)\)", line):
            yield Path(found[2]).name, found[1]


def _symbol(name: str) -> str:
    """`CPyDef_attempt___Attempt____leave` is `attempt: Attempt._leave`; what mypyc's library does has no module."""
    found = re.fullmatch(r"CPy(?:Def|Py|Gen)_(\w+?)(?:\.\w+)*", name)
    if found is None:
        return "compiled modules: what they share"
    module, _, function = found[1].rpartition("___") if "____" not in found[1] else found[1].partition("____")
    return f"{module.replace('___', '.')}: {function}"


def _kind(library: str) -> str:
    return next((kind for pattern, kind in _KINDS.items() if re.search(pattern, library)), f"other ({library})")


def _by_function(pid: int, seconds: int, folder: Path) -> Counter[str]:
    """Count samples of Python's stack by its innermost function; what is called in C counts for its caller."""
    data = folder / "stacks"
    rate = ["-r", str(_SAMPLES_A_SECOND // 2), "-d", str(seconds)]
    record = [str(peers.FOLDER / "bin/py-spy"), "record", "--nonblocking", *rate, "-f", "raw", "-o", str(data)]
    peers.output(*pinned(LOAD_CORE, [*record, "-p", str(pid)]))
    counts: Counter[str] = Counter()
    for line in data.read_text(encoding="utf-8").splitlines():
        stack, _, number = line.rpartition(" ")
        counts[_function(stack.rpartition(";")[2])] += int(number)
    return counts


def _function(frame: str) -> str:
    """`Connection.send (athena/router/connection.py:60)` is `router.connection: Connection.send`."""
    found = re.fullmatch(r"(\S+) \((\S+?)(?:\.py)?(?::\d+)?\)", frame)
    if found is None:
        return "elsewhere"
    name, file = found.groups()
    if file.startswith("asyncio/runners"):
        return "the event loop itself (uvloop, kernel)"
    return f"{file.removeprefix('athena/').replace('/', '.')}: {name}"


def _shares(counts: Counter[str]) -> dict[str, float]:
    """Return each one's share, the largest first; the small ones together."""
    total = max(1, counts.total())
    most = counts.most_common(_ROWS)
    rest = total - sum(count for _, count in most)
    return {name: count / total for name, count in most} | ({"all others": rest / total} if rest > 0 else {})


def _print(result: dict[str, Any]) -> None:
    print(f"\n{result['name']}: {result['cpu']:.1f} µs of the processor for each {result['unit']}")
    for kind in ("kinds", "functions"):
        print()
        for what, share in result.get(kind, {}).items():
            print(f"{share:7.1%}{share * result['cpu']:8.1f} µs  {what}")


if __name__ == "__main__":
    main()
