"""The modules that can be compiled, in their compiled form: they pass the tests of their source."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.compiled import COMPILE, SERVICE, compile_package, compiler

WITHIN_SECONDS = 1100
pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(WITHIN_SECONDS + 100)]


def run(*command: str | Path, site: Path | None = None) -> tuple[int | None, str]:
    """Run a program in the service's folder, with the package of `site` first; return how it ended, and what it said.

    None where it had to be killed. It says it to a file: a process that it left would hold a pipe open.
    """
    environment = {**os.environ, "PYTHONPATH": str(site)} if site else dict(os.environ)
    with tempfile.TemporaryFile("w+") as said:
        try:
            ended: int | None = subprocess.run(
                command, cwd=SERVICE, env=environment, stdout=said, stderr=said, check=False, timeout=WITHIN_SECONDS
            ).returncode
        except subprocess.TimeoutExpired:
            ended = None
        said.seek(0)
        return ended, said.read()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as an installation has it, compiled."""
    return compile_package(tmp_path_factory.mktemp("site"))


def modules() -> list[str]:
    """Return the names of what is compiled."""
    specification = importlib.util.spec_from_file_location("compile_py", COMPILE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return [name.removesuffix(".py").replace("/", ".") for name in module.MODULES]


def test_python_takes_the_compiled_form_of_each_module(site: Path) -> None:
    names = modules()
    assert len(names) > 10
    show = f"import importlib; print(*(importlib.import_module(name).__file__ for name in {names}), sep='\\n')"
    ended, said = run(sys.executable, "-c", show, site=site)
    assert ended == 0, said
    files = said.split()
    assert len(files) == len(names)
    assert [file for file in files if not (file.startswith(str(site)) and file.endswith(".so"))] == []


def test_what_is_compiled_passes_the_tests_of_its_source(site: Path) -> None:
    folders = ("tests/observability", "tests/orchestrator", "tests/proxy", "tests/router", "tests/steadiness")
    # Whatever hangs is told by name, and by where each of its threads stands; a few such tests are enough.
    options = ("-v", "-n", "2", "--maxfail", "3", "-o", "faulthandler_timeout=100", "-p", "no:cacheprovider")
    which = ("-m", "not engine and not slow and not patches_source")
    ended, said = run(sys.executable, "-m", "pytest", *options, *which, *folders, site=site)
    assert ended == 0, said[-30_000:]


def test_a_folder_without_the_package_is_refused(tmp_path: Path) -> None:
    ended, said = run(compiler(), COMPILE, tmp_path)
    assert ended == 1
    assert f"{tmp_path} lacks athena/" in said
    assert list(tmp_path.iterdir()) == []
