"""deploy.sh that is told to end while its playbook runs: the real script, and a playbook that tells how it ended."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from loading import ROOT
from scratch import wait_until

# It takes a moment to end, as Ansible does.
PLAYBOOK = f"""#!{sys.executable}
import pathlib, signal, sys, time
exchange = pathlib.Path(sys.argv[-1].removeprefix("release_exchange="))
told = pathlib.Path("told")

def end(number, frame):
    time.sleep(0.5)
    is_there = exchange.is_dir()
    told.write_text(f"{{signal.Signals(number).name}} {{is_there}} {{exchange}} {{sys.stdin.readline()}}")
    sys.exit(1)

signal.signal(signal.SIGTERM, end)
told.touch()
time.sleep(60)
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with deploy.sh in it, whose tools are there."""
    (tmp_path / "inventory" / "dev").mkdir(parents=True)
    (tmp_path / "site.yml").touch()
    (tmp_path / "bootstrap").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "complete").touch()
    shutil.copy(ROOT / "deploy.sh", tmp_path)
    shutil.copy(ROOT / "bootstrap" / "uv-settings.sh", tmp_path / "bootstrap")
    for program, text in (("bootstrap/venv", "#!/bin/sh\n"), (".venv/bin/ansible-playbook", PLAYBOOK)):
        (tmp_path / program).write_text(text)
        (tmp_path / program).chmod(0o755)
    return tmp_path


@pytest.fixture
def heard(number: signal.Signals) -> Iterator[None]:
    """Have what is started hear the signal: who runs tests in the background may ignore it, which is inherited."""
    before = signal.signal(number, lambda *_: None)
    yield
    signal.signal(number, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_playbook_before_the_folder_that_it_works_in_goes(
    clone: Path, number: signal.Signals
) -> None:
    command = [str(clone / "deploy.sh"), "dev", "deploy"]
    environment = {**os.environ, "ATHENA_PYTHON": sys.executable}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True, text=True) as run:
        wait_until((clone / "told").exists, 30)
        os.kill(run.pid, number)
        run.communicate("its input\n")
    assert run.returncode == 128 + number
    name, is_there, exchange, read = (clone / "told").read_text().strip().split(" ", 3)
    assert (name, is_there, read) == ("SIGTERM", "True", "its input")
    assert not Path(exchange).exists()
