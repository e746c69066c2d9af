"""The stand-ins for a Mac's tools are as strict as the tools, also where no scenario reaches."""

import json
import os
import plistlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).parents[2] / "molecule" / "shared" / "mac"
LABEL = "com.example.job"
SLOW_TO_END = """
trap 'until [ -e may-end ]; do sleep 0.05; done; exit 0' TERM
touch is-ready
while :; do sleep 0.05; done
"""


class Mac:
    """A Mac in a folder, whose root and whose only desktop user is whoever runs the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.user = folder, os.geteuid()
        self.desktop, self.job = f"gui/{self.user}", f"gui/{self.user}/{LABEL}"
        self.environment = {**os.environ, "MAC_STATE": str(folder / "state"), "NOT_FOR": "jobs"}
        (folder / "daemons").mkdir()
        (folder / "state").mkdir()
        self.set()

    def set(self, **settings: Any) -> None:
        base = {"root": self.user, "logins": [self.user], "daemons": str(self.folder / "daemons")}
        (self.folder / "state" / "settings.json").write_text(json.dumps(base | settings))

    def call(self, tool: str, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, str(TOOLS / f"{tool}.py"), *arguments]
        ended = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return ended.returncode, (ended.stdout + ended.stderr).strip()

    def launchctl(self, *arguments: str) -> tuple[int, str]:
        return self.call("launchctl", *arguments)

    def plist(self, command: str = "sleep 60", mode: int = 0o644, **keys: Any) -> str:
        path = self.folder / f"{keys.get('Label', LABEL)}.plist"
        path.write_bytes(plistlib.dumps({"Label": LABEL, "ProgramArguments": ["/bin/sh", "-c", command], **keys}))
        path.chmod(mode)
        return str(path)

    def wait_for_file(self, name: str) -> None:
        """Wait for what a job writes; its working directory is this folder."""
        deadline = time.monotonic() + 15
        while not (self.folder / name).exists():
            assert time.monotonic() < deadline, name
            time.sleep(0.02)

    def printed(self) -> dict[str, str]:
        code, output = self.launchctl("print", self.job)
        assert code == 0, output
        pairs = [line[1:].split(" = ", 1) for line in output.splitlines() if line[:1] == "\t" and line[:2] != "\t\t"]
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}

    def wait_for(self, **wanted: str) -> dict[str, str]:
        """Wait until `print` says so; blanks in its names are underscores here."""
        deadline = time.monotonic() + 15
        names = {name.replace("_", " "): value for name, value in wanted.items()}
        while (seen := self.printed()) != {**seen, **names}:
            assert time.monotonic() < deadline, seen
            time.sleep(0.02)
        return seen


@pytest.fixture
def mac(tmp_path: Path) -> Iterator[Mac]:
    machine = Mac(tmp_path)
    command = [sys.executable, str(TOOLS / "launchd.py")]
    with subprocess.Popen(command, env=machine.environment, cwd=tmp_path) as launchd:
        try:
            while not (tmp_path / "state" / "launchd.sock").exists():
                assert launchd.poll() is None
                time.sleep(0.02)
            yield machine
        finally:
            launchd.send_signal(signal.SIGTERM)
            assert launchd.wait(20) == 0


def test_what_is_not_there_is_told_as_launchctl_tells_it(mac: Mac) -> None:
    words = f'Could not find service "{LABEL}" in domain for user gui: {mac.user}'
    assert mac.launchctl("print", mac.job) == (113, f"Bad request.\n{words}")
    assert mac.launchctl("kickstart", "-k", mac.job) == (113, words)
    assert mac.launchctl("bootout", mac.job) == (3, "Boot-out failed: 3: No such process")
    assert mac.launchctl("list", LABEL) == (113, f'Could not find service "{LABEL}" in domain for port')


def test_a_desktop_without_a_login_has_no_domain(mac: Mac) -> None:
    mac.set(logins=[])
    refusal = "125: Domain does not support specified action"
    assert mac.launchctl("bootstrap", mac.desktop, mac.plist()) == (125, f"Bootstrap failed: {refusal}")
    assert mac.launchctl("bootout", mac.job) == (125, f"Boot-out failed: {refusal}")
    assert mac.launchctl("print", mac.job) == (112, f"Bad request.\nCould not find domain for user gui: {mac.user}")


def test_what_is_loaded_or_still_ending_cannot_be_loaded(mac: Mac) -> None:
    path = mac.plist(SLOW_TO_END, RunAtLoad=True, ExitTimeOut=60, WorkingDirectory=str(mac.folder))
    refused = (5, "Bootstrap failed: 5: Input/output error")
    assert mac.launchctl("bootstrap", mac.desktop, path)[0] == 0
    assert mac.launchctl("bootstrap", mac.desktop, path) == refused
    mac.wait_for_file("is-ready")
    assert mac.launchctl("bootout", mac.job) == (36, "Boot-out failed: 36: Operation now in progress")
    assert mac.printed()["state"] == "SIGTERMed"
    assert mac.launchctl("bootstrap", mac.desktop, path) == refused
    (mac.folder / "may-end").touch()
    deadline = time.monotonic() + 10
    while mac.launchctl("print", mac.job)[0] == 0:
        assert time.monotonic() < deadline
    assert mac.launchctl("bootstrap", mac.desktop, path)[0] == 0


def test_launchd_may_take_its_time_to_forget_a_job(mac: Mac) -> None:
    mac.set(linger=600)
    path = mac.plist("exec sleep 60", RunAtLoad=True)
    mac.launchctl("bootstrap", mac.desktop, path)
    assert mac.launchctl("bootout", mac.job)[0] == 0
    assert mac.launchctl("print", mac.job)[0] == 113
    assert mac.launchctl("bootstrap", mac.desktop, path)[0] == 5
    mac.set(linger=0)
    assert mac.launchctl("bootstrap", mac.desktop, path)[0] == 0


def test_a_process_that_does_not_end_in_its_time_is_killed(mac: Mac) -> None:
    command = "trap '' TERM; touch is-ready; while :; do sleep 0.05; done"
    path = mac.plist(command, RunAtLoad=True, ExitTimeOut=1, WorkingDirectory=str(mac.folder))
    mac.launchctl("bootstrap", mac.desktop, path)
    mac.wait_for_file("is-ready")
    began = time.monotonic()
    assert mac.launchctl("bootout", mac.job)[0] == 36
    while mac.launchctl("print", mac.job)[0] == 0:
        assert time.monotonic() < began + 10
    assert time.monotonic() > began + 0.9


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_plist_that_others_may_write_is_refused(mac: Mac, mode: int) -> None:
    refused = (122, "Bootstrap failed: 122: Path had bad ownership/permissions")
    assert mac.launchctl("bootstrap", "system", mac.plist(mode=mode)) == refused


def test_a_daemons_plist_has_to_be_roots(mac: Mac) -> None:
    path = mac.plist()
    mac.set(root=mac.user + 1)
    # Who is not root may not even ask.
    assert mac.launchctl("bootstrap", "system", path) == (1, "Bootstrap failed: 1: Operation not permitted")
    assert mac.launchctl("bootstrap", mac.desktop, path)[0] == 0


@pytest.mark.parametrize(
    "keys",
    [
        {"ProgramArguments": ["/bin/sh", 5]},
        {"ProgramArguments": []},
        {"EnvironmentVariables": {"A": 1}},
        {"KeepAlive": "true"},
        {"ExitTimeOut": "20"},
        {"ProcessType": "Fast"},
        {"SoftResourceLimits": {"Files": 5}},
        {"Label": ""},
    ],
    ids=str,
)
def test_values_of_another_type_are_refused(mac: Mac, keys: dict[str, Any]) -> None:
    assert mac.launchctl("bootstrap", mac.desktop, mac.plist(**keys))[0] == 5


def test_what_is_no_plist_is_refused(mac: Mac) -> None:
    path = mac.folder / "broken.plist"
    path.write_text("<plist><dict>")
    assert mac.launchctl("bootstrap", mac.desktop, str(path))[0] == 5
    assert mac.launchctl("bootstrap", mac.desktop, str(mac.folder / "none.plist"))[0] == 5
    assert mac.call("plutil", "-lint", str(path))[0] == 1


def test_a_disabled_job_does_not_start_until_it_is_enabled(mac: Mac) -> None:
    path = mac.plist(RunAtLoad=True)
    mac.launchctl("disable", mac.job)
    assert mac.launchctl("bootstrap", mac.desktop, path)[0] == 5
    assert mac.launchctl("print-disabled", mac.desktop)[1].splitlines()[1] == f'\t"{LABEL}" => disabled'
    mac.launchctl("enable", mac.job)
    assert mac.launchctl("bootstrap", mac.desktop, path)[0] == 0
    assert mac.launchctl("print-disabled", mac.desktop)[1].splitlines()[1] == f'\t"{LABEL}" => enabled'


def test_a_job_gets_nothing_of_whoever_loads_it(mac: Mac) -> None:
    log = mac.folder / "log"
    command = "echo $PATH $MINE $XPC_SERVICE_NAME ${NOT_FOR:-nothing} $PWD; echo problem >&2"
    mac.launchctl(
        "bootstrap",
        "system",
        mac.plist(
            command,
            RunAtLoad=True,
            EnvironmentVariables={"MINE": "mine"},
            WorkingDirectory="/usr",
            StandardOutPath=str(log),
            StandardErrorPath=str(log),
        ),
    )
    deadline = time.monotonic() + 10
    while not (log.exists() and "problem" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert log.read_text() == f"/usr/bin:/bin:/usr/sbin:/sbin mine {LABEL} nothing /usr\nproblem\n"


def test_a_log_is_opened_once_so_that_renaming_it_renames_what_is_written_to(mac: Mac) -> None:
    log = mac.folder / "log"
    command = "while :; do echo line; sleep 0.05; done"
    mac.launchctl("bootstrap", mac.desktop, mac.plist(command, RunAtLoad=True, StandardOutPath=str(log)))
    mac.wait_for(state="running")
    renamed = log.rename(mac.folder / "log.0")
    size = renamed.stat().st_size
    time.sleep(0.3)
    assert renamed.stat().st_size > size
    assert not log.exists()


def test_it_is_started_again_after_its_time_between_two_starts(mac: Mac) -> None:
    mac.launchctl("bootstrap", mac.desktop, mac.plist("exit 3", KeepAlive=True, ThrottleInterval=1))
    began = time.monotonic()
    seen = mac.wait_for(state="spawn scheduled", last_exit_code="3")
    assert int(seen["runs"]) >= 1
    mac.wait_for(runs=str(int(seen["runs"]) + 1))
    assert time.monotonic() - began > 0.5


def test_it_waits_ten_seconds_where_nothing_else_is_said(mac: Mac) -> None:
    mac.launchctl("bootstrap", mac.desktop, mac.plist("exit 3", KeepAlive=True))
    mac.wait_for(state="spawn scheduled")
    time.sleep(1.5)
    assert mac.wait_for(state="spawn scheduled", minimum_runtime="10")["runs"] == "1"


@pytest.mark.parametrize(
    ("keep_alive", "command", "state"),
    [
        ({"SuccessfulExit": False}, "exit 0", "not running"),
        ({"SuccessfulExit": False}, "exit 1", "spawn scheduled"),
        ({"SuccessfulExit": False}, "kill -9 $$", "spawn scheduled"),
        ({"SuccessfulExit": True}, "exit 0", "spawn scheduled"),
        ({"SuccessfulExit": True}, "exit 1", "not running"),
        ({"Crashed": True}, "exit 1", "not running"),
    ],
    ids=str,
)
def test_whether_it_is_started_again_depends_on_its_exit(
    mac: Mac, keep_alive: dict[str, bool], command: str, state: str
) -> None:
    mac.launchctl("bootstrap", mac.desktop, mac.plist(command, RunAtLoad=True, KeepAlive=keep_alive))
    mac.wait_for(state=state, runs="1")


def test_a_program_that_is_not_there_is_a_wrong_configuration(mac: Mac) -> None:
    mac.launchctl("bootstrap", mac.desktop, mac.plist(RunAtLoad=True, ProgramArguments=["/nonexistent"]))
    mac.wait_for(last_exit_code="78: EX_CONFIG")


def test_kickstart_starts_what_does_not_run_and_leaves_alone_what_does(mac: Mac) -> None:
    mac.launchctl("bootstrap", mac.desktop, mac.plist())
    assert mac.printed()["state"] == "not running"
    assert mac.printed()["last exit code"] == "(never exited)"
    code, said = mac.launchctl("kickstart", "-p", mac.job)
    pid = mac.printed()["pid"]
    assert (code, said) == (0, f"service spawned with pid: {pid}")
    mac.launchctl("kickstart", mac.job)
    assert mac.printed()["pid"] == pid


def test_kickstart_with_k_kills_and_starts_at_once(mac: Mac) -> None:
    mac.launchctl("bootstrap", mac.desktop, mac.plist("trap '' TERM; sleep 60", KeepAlive=True))
    pid = mac.wait_for(state="running")["pid"]
    mac.launchctl("kickstart", "-k", mac.job)
    seen = mac.printed()
    assert seen["state"] == "running"
    assert seen["pid"] != pid
    assert seen["last terminating signal"] == "Killed: 9"


def test_a_signal_reaches_the_process(mac: Mac) -> None:
    mac.launchctl("bootstrap", mac.desktop, mac.plist("exec sleep 60", RunAtLoad=True))
    assert mac.launchctl("kill", "SIGUSR1", mac.job)[0] == 0
    mac.wait_for(state="not running", last_terminating_signal="User defined signal 1: 10")
    assert mac.launchctl("kill", "TERM", mac.job) == (3, "3: No such process")


def test_a_boot_loads_the_daemons_that_are_not_disabled(tmp_path: Path) -> None:
    machine = Mac(tmp_path)
    for label in ("com.example.on", "com.example.off"):
        keys = {"Label": label, "ProgramArguments": ["/bin/sleep", "60"], "RunAtLoad": True}
        (tmp_path / "daemons" / f"{label}.plist").write_bytes(plistlib.dumps(keys))
    (tmp_path / "state" / "disabled.json").write_text(json.dumps({"system": {"com.example.off": True}}))
    with subprocess.Popen([sys.executable, str(TOOLS / "launchd.py")], env=machine.environment) as launchd:
        while not (tmp_path / "state" / "launchd.sock").exists():
            time.sleep(0.02)
        listed = machine.launchctl("list")[1].splitlines()
        launchd.send_signal(signal.SIGTERM)
        assert launchd.wait(20) == 0
    assert [line.split("\t")[2] for line in listed] == ["Label", "com.example.on"]


@pytest.mark.parametrize(
    "arguments",
    [["load", "x"], ["bootstrap", "system"], ["print", "nowhere/job"], ["kickstart", "system"], ["bootout"]],
    ids=" ".join,
)
def test_what_launchctl_does_not_understand_is_a_wrong_usage(mac: Mac, arguments: list[str]) -> None:
    assert mac.launchctl(*arguments)[0] == 64


def test_every_call_is_in_the_journal_with_its_code(mac: Mac) -> None:
    mac.launchctl("bootout", mac.job)
    mac.call("sysctl", "-n", "hw.memsize")
    entries = [json.loads(line) for line in (mac.folder / "state" / "journal").read_text().splitlines()]
    assert [(entry["tool"], entry["arguments"], entry["code"]) for entry in entries] == [
        ("launchctl", ["bootout", mac.job], 3),
        ("sysctl", ["-n", "hw.memsize"], 0),
    ]


def test_figures_are_read_and_some_are_written(tmp_path: Path) -> None:
    mac = Mac(tmp_path)
    assert mac.call("sysctl", "-n", "hw.memsize", "machdep.cpu.brand_string") == (0, "103079215104\nApple M2 Ultra")
    assert mac.call("sysctl", "iogpu.wired_limit_mb") == (0, "iogpu.wired_limit_mb: 0")
    assert mac.call("sysctl", "-w", "iogpu.wired_limit_mb=90000") == (0, "iogpu.wired_limit_mb: 0 -> 90000")
    assert mac.call("sysctl", "-n", "iogpu.wired_limit_mb") == (0, "90000")
    assert mac.call("sysctl", "-w", "hw.memsize=1")[0] == 1
    assert mac.call("sysctl", "-n", "hw.none") == (1, "sysctl: unknown oid 'hw.none'")
    assert mac.call("sw_vers", "-productVersion") == (0, "15.6")
    mac.set(root=mac.user + 1)
    assert mac.call("sysctl", "-w", "iogpu.wired_limit_mb=1")[0] == 1


def test_power_settings_are_roots_to_change(tmp_path: Path) -> None:
    mac = Mac(tmp_path)
    assert " sleep                1" in mac.call("pmset", "-g")[1]
    assert mac.call("pmset", "-a", "sleep", "0", "autorestart", "1") == (0, "")
    assert " sleep                0" in mac.call("pmset", "-g", "custom")[1]
    assert mac.call("pmset", "-a", "sleeep", "0")[0] == 64
    mac.set(root=mac.user + 1)
    assert mac.call("pmset", "-a", "sleep", "0") == (77, "'pmset' must be run as root...")


def test_homebrew_installs_what_there_is_and_never_as_root(tmp_path: Path) -> None:
    mac = Mac(tmp_path)
    formulae = {"ollama": {"version": "0.33.0", "service": {"ProgramArguments": ["/bin/sleep", "60"]}}}
    mac.set(formulae=formulae)
    assert mac.call("brew", "install", "ollama")[0] == 1
    mac.set(formulae=formulae, root=mac.user + 1)
    assert mac.call("brew", "list", "--versions", "ollama") == (1, "Error: No such keg: /opt/homebrew/Cellar/ollama")
    assert mac.call("brew", "install", "ollama")[0] == 0
    assert mac.call("brew", "list", "--versions", "ollama") == (0, "ollama 0.33.0")
    assert mac.call("brew", "install", "none")[0] == 1


def test_homebrew_names_what_it_has_installed_with_the_formulas_revision(tmp_path: Path) -> None:
    mac = Mac(tmp_path)
    mac.set(formulae={"ollama": {"version": "0.33.0", "revision": 1}}, root=mac.user + 1)
    assert mac.call("brew", "install", "ollama")[0] == 0
    assert mac.call("brew", "list", "--versions", "ollama") == (0, "ollama 0.33.0_1")
    [told] = json.loads(mac.call("brew", "info", "--json=v2", "ollama")[1])["formulae"]
    assert (told["versions"]["stable"], told["revision"], told["linked_keg"]) == ("0.33.0", 1, "0.33.0_1")


def test_newsyslog_renames_and_leaves_what_is_not_due(tmp_path: Path) -> None:
    mac = Mac(tmp_path)
    log, configuration = tmp_path / "log", tmp_path / "newsyslog.conf"
    log.write_text("x" * 3000)
    configuration.write_text(f"# a comment\n{log} 640 2 4 * NZB\n")
    ended = mac.call("newsyslog", "-f", str(configuration))
    assert (ended, log.stat().st_size) == ((0, ""), 3000)
    configuration.write_text(f"{log} 640 two 4 *\n")
    assert mac.call("newsyslog", "-f", str(configuration))[0] == 1
    configuration.write_text(f"{log} 640 2 4 * NQ\n")
    assert mac.call("newsyslog", "-f", str(configuration))[0] == 1


RULES = """\
# a comment
table <callers> const { 192.168.10.0/24 fd00:10::/64 }
pass in quick on lo0 proto tcp from any to any port { 11434 8080:8099 } flags any no state label "mine"
pass in quick proto tcp from <callers> to any port { 11434 8080:8099 } flags any no state label "mine"
block return in quick proto tcp from any to any port { 11434 8080:8099 } label "mine"
"""


def test_rules_of_an_anchor_are_loaded_shown_and_cleared(tmp_path: Path) -> None:
    mac = Mac(tmp_path)
    file = tmp_path / "rules"
    file.write_text(RULES)
    assert mac.call("pfctl", "-n", "-a", "com.apple/x", "-f", str(file)) == (0, "")
    assert "Status: Disabled" in mac.call("pfctl", "-s", "info")[1]
    assert mac.call("pfctl", "-E", "-a", "com.apple/x", "-f", str(file)) == (0, "pf enabled\nToken : 1")
    assert "Status: Enabled" in mac.call("pfctl", "-s", "info")[1]
    shown = [line for line in mac.call("pfctl", "-a", "com.apple/x", "-s", "rules")[1].splitlines() if "label" in line]
    assert len(shown) == 6
    assert shown[4] == 'block return in quick proto tcp from any to any port = 11434 label "mine"'
    assert "label" not in mac.call("pfctl", "-s", "rules")[1]
    assert mac.call("pfctl", "-e") == (1, "pfctl: pf already enabled")
    assert mac.call("pfctl", "-a", "com.apple/x", "-F", "rules")[0] == 0
    assert "label" not in mac.call("pfctl", "-a", "com.apple/x", "-s", "rules")[1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("pass in quick proto tcp from any to any port { }", "rules:1: syntax error"),
        ('pass in quick proto tcp from <none> to any port { 80 } label "x"', "table <none> is not defined"),
        ("table <callers> const { 192.168.10.0/33 }", "no IP address found for 192.168.10.0/33"),
        ('block in quick proto tcp from any to any port { 8099:8080 } label "x"', "invalid port 8099:8080"),
        ('block in quick proto tcp from any to any port { 80 } no state label "x"', "doesn't make sense"),
        ("allow in all", "rules:1: syntax error"),
    ],
    ids=str,
)
def test_rules_that_the_packet_filter_cannot_read_are_refused(tmp_path: Path, line: str, words: str) -> None:
    mac = Mac(tmp_path)
    (tmp_path / "rules").write_text(f"{line}\n")
    code, said = mac.call("pfctl", "-n", "-f", str(tmp_path / "rules"))
    assert code == 1
    assert words in said


def test_the_packet_filter_is_roots_and_knows_its_options(tmp_path: Path) -> None:
    mac = Mac(tmp_path)
    assert mac.call("pfctl", "-Z")[0] == 1
    assert mac.call("pfctl", "-n", "-f", str(tmp_path / "none"))[0] == 1
    mac.set(root=mac.user + 1)
    assert mac.call("pfctl", "-s", "info") == (1, "pfctl: /dev/pf: Permission denied")
