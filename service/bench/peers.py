"""The environment of Python packages that only the benchmark needs, apart from the service's: `locks/bench.txt`."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench.machine import CACHE, UnavailableError, environment

REPOSITORY = Path(__file__).parents[2]
FOLDER = CACHE / "peers"


def install() -> None:
    """Make the environment hold what its lock says; quick where it does. Raises UnavailableError with the reason."""
    CACHE.mkdir(parents=True, exist_ok=True)
    output(REPOSITORY / "bootstrap/venv", FOLDER, REPOSITORY / "locks/bench.txt")


def output(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Return what a program prints. Raises UnavailableError, with that, if it fails or is not there."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment(env),
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        raise UnavailableError(str(error)) from error
    if done.returncode:
        raise UnavailableError(f"{command[0]} failed: {done.stdout.strip()[-1000:]}")
    return done.stdout
