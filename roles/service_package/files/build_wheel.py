"""Build the wheel of the service package under a version that says what it was made of.

usage: build_wheel.py UV SOURCE_FOLDER VERSION CONSTRAINTS OUTPUT_FOLDER
CONSTRAINTS is a lock with hashes of what the build itself needs.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def main(uv: str, source: Path, version: str, constraints: Path, output: Path) -> None:
    """Build from a copy, because the version is written into the project file."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "service"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", "tests", "bench", "*.egg-info"))
        project = copy / "pyproject.toml"
        text, changes = re.subn(r'(?m)^version = ".*"$', f'version = "{version}"', project.read_text(), count=1)
        if changes != 1:
            sys.exit(f'{source / "pyproject.toml"} has no line version = "…"')
        project.write_text(text)
        locked = ["--build-constraints", constraints, "--require-hashes"]
        target = ["--python", sys.executable, "--out-dir", output]
        subprocess.run([uv, "build", "--quiet", "--wheel", *locked, *target, copy], check=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5]))
