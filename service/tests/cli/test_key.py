"""`athena key`, from making a key to letting its caller in."""

from pathlib import Path

from athena.auth.api_keys import digest_of
from athena.proxy.keys import read
from tests.support.processes import athena


def test_a_key_is_made_put_into_the_file_and_lets_its_caller_in(tmp_path: Path) -> None:
    made = athena("key", "create", "alice")
    assert made.returncode == 0, made.stderr
    key, line = made.stdout.splitlines()
    assert "cannot be shown again" in made.stderr
    assert key not in made.stderr + line
    file = tmp_path / "keys"
    file.write_text(line + "\n")
    assert [(known.caller, known.digest.hex()) for known in read(file)] == [("alice", digest_of(key))]
    checked = athena("key", "check", str(file))
    assert checked.stdout == f"{file}: 1 keys of 1 callers: alice\n"


def test_a_wrong_name_and_a_wrong_file_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("alice sk-athena-in-the-clear\n")
    name, checked = athena("key", "create", "two words"), athena("key", "check", str(file))
    assert (name.returncode, checked.returncode) == (1, 1)
    assert name.stderr.startswith("error: a caller's name is ")
    assert checked.stderr.startswith(f"error: the file of API keys {file} cannot be used: line 1: ")
    assert "in-the-clear" not in checked.stderr
