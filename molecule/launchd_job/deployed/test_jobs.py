"""The jobs as the Mac's operator finds them: whose process, with what, kept alive."""

import json
import plistlib
import time
from collections.abc import Callable
from typing import Any

from testinfra.host import Host

LABEL = "com.athena.service"
PLIST = f"/Library/LaunchDaemons/{LABEL}.plist"
WORDS = 'it\'s <"quoted"> & 100 %'


def printed(host: Host, target: str) -> dict[str, str]:
    lines = host.check_output(f"launchctl print {target}").splitlines()
    pairs = [line.strip().split(" = ", 1) for line in lines if line.startswith("\t") and not line.startswith("\t\t")]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def process(host: Host, target: str = f"system/{LABEL}") -> int:
    return int(printed(host, target)["pid"])


def parts(host: Host, path: str) -> list[str]:
    """Return the parts of a file that zeros end."""
    output: bytes = host.run(f"cat {path}").stdout_bytes
    return output.decode().split("\0")[:-1]


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_process_is_the_users_with_the_declared_arguments(host: Host) -> None:
    pid = process(host)
    assert host.file(f"/proc/{pid}").user == "_athena"
    assert parts(host, f"/proc/{pid}/cmdline")[1:] == ["/opt/athena/service.py", "first & second", '<"third">']
    assert host.file(f"/proc/{pid}/cwd").linked_to == "/opt/athena"


def test_its_environment_is_the_declared_one_and_what_launchd_gives(host: Host) -> None:
    environment = dict(part.split("=", 1) for part in parts(host, f"/proc/{process(host)}/environ"))
    assert environment == {
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        "XPC_FLAGS": "0x0",
        "XPC_SERVICE_NAME": LABEL,
        "HOME": "/Users/_athena",
        "SECONDS_TO_END": "2",
        "WORDS": WORDS,
    }


def test_its_limits_are_the_declared_ones(host: Host) -> None:
    limits = host.file(f"/proc/{process(host)}/limits").content_string
    assert [line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files")] == [["4096"] * 2]


def test_the_plist_says_what_was_declared_and_belongs_to_root(host: Host) -> None:
    file = host.file(PLIST)
    assert (file.user, file.mode) == ("root", 0o644)
    assert host.run(f"plutil -lint {PLIST}").rc == 0
    keys = plistlib.loads(file.content)
    assert keys["EnvironmentVariables"]["WORDS"] == WORDS
    assert keys["UserName"] == "_athena"
    assert keys["KeepAlive"] is True
    assert keys["RunAtLoad"] is True
    assert (keys["ThrottleInterval"], keys["ExitTimeOut"], keys["ProcessType"]) == (1, 10, "Standard")
    assert "GroupName" not in keys


def test_launchctl_was_asked_for_what_was_needed_and_nothing_else(host: Host) -> None:
    entries = [json.loads(line) for line in host.file("/var/db/mac/journal").content_string.splitlines()]
    calls = [" ".join(entry["arguments"]) for entry in entries if entry["tool"] == "launchctl"]
    assert [call for call in calls if not call.startswith("print")] == [
        f"enable system/{LABEL}",
        f"bootstrap system {PLIST}",
        f"enable system/{LABEL}.log",
        f"bootstrap system /Library/LaunchDaemons/{LABEL}.log.plist",
        "enable gui/502/com.athena.agent",
        "bootstrap gui/502 /Users/person/Library/LaunchAgents/com.athena.agent.plist",
        "enable system/com.athena.agent.log",
        "bootstrap system /Library/LaunchDaemons/com.athena.agent.log.plist",
    ]


def test_the_agent_is_its_users_with_a_home(host: Host) -> None:
    pid = process(host, "gui/502/com.athena.agent")
    assert host.file(f"/proc/{pid}").user == "person"
    assert "HOME=/Users/person" in parts(host, f"/proc/{pid}/environ")
    assert host.file("/Users/person/Library/LaunchAgents/com.athena.agent.plist").user == "person"


def test_a_process_that_is_killed_comes_back(host: Host) -> None:
    before = process(host)
    host.check_output(f"kill -9 {before}")
    wait_for(lambda: printed(host, f"system/{LABEL}").get("pid", str(before)) != str(before))
    assert printed(host, f"system/{LABEL}")["last terminating signal"] == "Killed: 9"
