"""Ollama as its callers and its operator find it: whose process, with what, and answering with a model."""

import json
import plistlib
import time
from typing import Any

from testinfra.host import Host

FOLDER = "/opt/athena/ollama"
MODEL = "127.0.0.1:5050/library/first:latest"


def is_mac(host: Host) -> bool:
    return bool(host.file("/Library/LaunchDaemons").exists)


def process(host: Host) -> int:
    return int(host.check_output(f"pgrep -o -f '^{FOLDER}/current/bin/ollama serve'"))


def account(host: Host, name: str) -> dict[str, Any]:
    """Return what the host knows of an account, a Mac as well."""
    code = "import json, pwd, sys; user = pwd.getpwnam(sys.argv[1]); print(json.dumps([user.pw_uid, user.pw_shell]))"
    uid, shell = json.loads(host.check_output("python3 -c %s %s", code, name))
    return {"uid": uid, "shell": shell}


def program(host: Host, pid: int) -> str:
    """Return the file that a process runs, links followed."""
    if host.file("/proc/self").exists:
        return str(host.file(f"/proc/{pid}/exe").linked_to)
    files: str = host.check_output(f"lsof -a -p {pid} -d txt -F n")
    return next(line[1:] for line in files.splitlines() if line.endswith("/ollama"))


def ask(host: Host, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask from the host itself, with what it has in any case."""
    code = (
        "import sys, urllib.request as r;"
        "print(r.urlopen(r.Request('http://127.0.0.1:11434' + sys.argv[1], sys.argv[2].encode() or None),"
        " timeout=20).read().decode())"
    )
    text = host.check_output("python3 -c %s %s %s", code, path, json.dumps(body) if body else "")
    answer: dict[str, Any] = json.loads(text)
    return answer


def test_the_process_is_its_own_users(host: Host) -> None:
    assert host.check_output(f"ps -o user= -p {process(host)}").strip() == "_ollama"
    assert account(host, "_ollama")["shell"] == "/usr/bin/false"
    assert account(host, "_ollama")["uid"] < 1000


def test_the_settings_are_those_that_were_declared(host: Host) -> None:
    words = host.check_output(f"ps eww -o command= -p {process(host)}").split()
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    assert {name: value for name, value in variables.items() if name.startswith("OLLAMA_")} == {
        "OLLAMA_HOST": "127.0.0.1:11434",
        "OLLAMA_MODELS": f"{FOLDER}/models",
        "OLLAMA_NUM_PARALLEL": "2",
        "OLLAMA_FLASH_ATTENTION": "1",
    }
    assert variables["HOME"] == f"{FOLDER}/home"


def test_the_version_in_force_is_a_link(host: Host) -> None:
    assert host.file(f"{FOLDER}/current").linked_to == f"{FOLDER}/versions/0.11.4"
    assert program(host, process(host)).startswith(f"{FOLDER}/versions/0.11.4/")
    assert ask(host, "/api/version")["version"] == "0.11.4"


def test_the_program_is_roots_and_the_archive_gone(host: Host) -> None:
    assert host.file(f"{FOLDER}/versions/0.11.4/bin/ollama").user == "root"
    assert "fetched" not in host.check_output(f"ls {FOLDER}/versions/0.11.4")


def test_the_model_is_there_and_loaded_for_ever(host: Host) -> None:
    assert [model["name"] for model in ask(host, "/api/tags")["models"]] == [MODEL]
    (loaded,) = ask(host, "/api/ps")["models"]
    assert loaded["name"] == MODEL
    assert int(loaded["expires_at"][:4]) > 2200


def test_a_question_gets_an_answer(host: Host) -> None:
    answer = ask(
        host, "/api/generate", {"model": MODEL, "prompt": "Hello", "stream": False, "options": {"num_predict": 4}}
    )
    assert answer["eval_count"] == 4


def test_a_killed_engine_is_started_again(host: Host) -> None:
    before = process(host)
    host.check_output(f"kill -9 {before}")
    deadline = time.monotonic() + 40
    while (seen := host.run(f"pgrep -o -f '^{FOLDER}/current/bin/ollama serve'").stdout.strip()) in (
        "",
        str(before),
    ):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    assert int(seen) != before


def test_its_log_is_where_an_operator_looks(host: Host) -> None:
    if is_mac(host):
        log = host.file("/Library/Logs/Athena/com.athena.ollama.log").content_string
    else:
        log = host.check_output("journalctl --unit athena-ollama.service --output cat")
    assert "Listening on 127.0.0.1:11434" in log


def test_the_system_keeps_it_alive_from_boot_on(host: Host) -> None:
    if is_mac(host):
        keys = plistlib.loads(host.file("/Library/LaunchDaemons/com.athena.ollama.plist").content)
        assert (keys["KeepAlive"], keys["RunAtLoad"], keys["UserName"]) == (True, True, "_ollama")
        return
    assert host.service("athena-ollama").is_enabled
    shown = host.check_output("systemctl show athena-ollama.service").splitlines()
    for line in ("ProtectSystem=strict", "NoNewPrivileges=yes", "ProtectHome=yes", "Restart=always"):
        assert line in shown
    assert "CapBnd:\t0000000000000000" in host.file(f"/proc/{process(host)}/status").content_string.splitlines()
