"""The package with the modules compiled that every request goes through, as an installation has it."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.engines.fixtures import locked_environment

SERVICE = Path(__file__).parents[2]
COMPILE = SERVICE / "compile.py"


def compiler() -> Path:
    """Return the Python of an environment that has what compiling takes; made once, for the Python that runs this."""
    return locked_environment("compile", SERVICE / "requirements-compile.txt") / "bin" / "python"


def compile_package(folder: Path) -> Path:
    """Make a compiled copy of the package in a folder, which then belongs on PYTHONPATH; fails with what went wrong."""
    for package in ("athena", "shared"):
        shutil.copytree(SERVICE / "src" / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(SERVICE / "migrations", folder / "athena" / "migrations")
    done = subprocess.run(
        [compiler(), COMPILE, folder], cwd=SERVICE, env=dict(os.environ), text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
