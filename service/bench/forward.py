"""How much the proxy costs: requests a second on one core, beside the obvious forwarder (FastAPI and httpx).

    .venv-test/bin/python service/bench/forward.py [--seconds 5] [--passes 3] [--connections 64] [--stream]

Needs `wrk`. The gateway has one core to itself; the load and an engine that answers at once share another. Passes are
interleaved, and the table shows medians. Requests a second move with the machine's other work; the CPU time that the
gateway spends on a request is the sturdier figure. With `--stream` each reply is a stream of a hundred tokens.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

HERE = Path(__file__).parent
PROMPT = "Tell me about the weather in the mountains, please. " * 18
TICK = os.sysconf("SC_CLK_TCK")
Figures = dict[str, float]


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def pinned(core: int, command: list[str]) -> list[str]:
    """Return the command that runs on one core, where the system can do that."""
    taskset = shutil.which("taskset")
    return [taskset, "-c", str(core), *command] if taskset else command


@contextmanager
def running(core: int, command: list[str], port: int, environment: dict[str, str]) -> Iterator[int]:
    """Run a server on a core until it is no longer needed; gives its process id."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            pinned(core, command), env={**os.environ, **environment}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + 20
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"{' '.join(command)} did not start:\n{log.read().decode()}")
                time.sleep(0.05)
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(15)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def load(url: str, script: Path, pid: int, options: argparse.Namespace) -> Figures:
    """Send requests for a while and return what came of it."""
    command = [
        "wrk",
        "-t1",
        f"-c{options.connections}",
        f"-d{options.seconds}s",
        "--latency",
        "--timeout",
        "30s",
        "-s",
        str(script),
        url,
    ]
    before = cpu_seconds(pid)
    result = subprocess.run(pinned(1, command), check=True, capture_output=True, text=True).stdout
    spent = cpu_seconds(pid) - before
    if "Non-2xx" in result or "Socket errors" in result:
        raise SystemExit(f"{url} did not answer every request:\n{result}")
    count = int(_found(r"(\d+) requests in", result))
    return {
        "rate": float(_found(r"Requests/sec:\s+([\d.]+)", result)),
        "cpu": spent / count * 1e6,
        "p50": _milliseconds(_found(r"(?m)^\s+50%\s+(\S+)", result)),
        "p99": _milliseconds(_found(r"(?m)^\s+99%\s+(\S+)", result)),
        "memory": memory(pid),
    }


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise SystemExit(f"wrk printed something unexpected:\n{text}")
    return match[1]


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]  # wrk's own format
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="length of one measurement")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--stream", action="store_true", help="ask for streams of a hundred tokens")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing: install it (apt install wrk, brew install wrk)")

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        message = {"model": "bench", "messages": [{"role": "user", "content": PROMPT}], "stream": options.stream}
        body = json.dumps(message, separators=(",", ":"))
        script = folder / "post.lua"
        script.write_text(
            f"wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\nwrk.body = [==[{body}]==]\n"
        )
        upstream, athena, naive = free_port(), free_port(), free_port()
        engine = f"http://127.0.0.1:{upstream}"
        route = [{"id": 1, "model_name": "bench", "backend_type": "openai", "endpoint_url": engine}]
        state = folder / "state.json"
        state.write_text(json.dumps({"version": 1, "complete": True, "routes": {"bench": route}}))
        python = sys.executable
        processes = {
            "engine alone": (1, [python, str(HERE / "upstream.py"), str(upstream)], upstream, {}),
            "athena": (
                0,
                [str(Path(python).with_name("athena")), "serve", "proxy", "--port", str(athena)],
                athena,
                {"ROUTER_STATE_FILE": str(state), "ADMIN_API_URL": "http://127.0.0.1:1", "LOG_LEVEL": "info"},
            ),
            "FastAPI + httpx": (
                0,
                [python, "-m", "uvicorn", "naive:app", "--app-dir", str(HERE), "--no-access-log", "--port", str(naive)],
                naive,
                {"UPSTREAM": engine},
            ),
        }
        pids = {name: stack.enter_context(running(*process)) for name, process in processes.items()}
        passes: dict[str, list[Figures]] = {name: [] for name in processes}
        for _ in range(options.passes):
            for name, (_, _, port, _) in processes.items():
                url = f"http://127.0.0.1:{port}/v1/chat/completions"
                passes[name].append(load(url, script, pids[name], options))
    table(passes)


def table(passes: dict[str, list[Figures]]) -> None:
    """Print the medians, and each gateway's rate against the naive one's."""
    medians = {
        name: {key: statistics.median(figures[key] for figures in each) for key in each[0]}
        for name, each in passes.items()
    }
    naive = medians["FastAPI + httpx"]["rate"]
    print(f"{'':18}{'requests/s':>11}{'ratio':>8}{'CPU µs':>9}{'p50 ms':>9}{'p99 ms':>9}{'MB':>6}")
    for name, row in medians.items():
        print(
            f"{name:18}{row['rate']:>11.0f}{row['rate'] / naive:>8.1f}{row['cpu']:>9.0f}"
            f"{row['p50']:>9.2f}{row['p99']:>9.2f}{row['memory']:>6.0f}"
        )


if __name__ == "__main__":
    main()
