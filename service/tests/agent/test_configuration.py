"""The file that declares the engines of a host."""

import json
from pathlib import Path
from typing import Any

import pytest

from athena.agent.configuration import ConfigurationError, parse, read
from athena.agent.jobs import JobState, name_of, restart_command, show_command, state_in
from tests.support.processes import athena

ENGINE: dict[str, Any] = {"name": "llama", "kind": "mlx", "url": "http://127.0.0.1:8081/", "model": "m"}
LAUNCHD = {"manager": "launchd", "label": "com.athena.mlx.llama"}


def declared(**engine: Any) -> str:
    return json.dumps({"host": "mac-1", "engines": [{**ENGINE, **engine}]})


def test_what_is_not_said_has_its_default() -> None:
    config = parse(declared())
    (engine,) = config.engines
    assert (engine.url, engine.port, engine.job) == ("http://127.0.0.1:8081", 8081, None)
    assert (engine.interval_seconds, engine.deadline_seconds, engine.hung_after) == (15, 10, 3)
    assert (config.restarts.most, config.restarts.window_seconds) == (3, 3600)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON in line 1, column 2"),
        ("{}", "engines is missing; set it to a list of at least one engine"),
        ('{"engines": []}', "engines: Tuple should have at least 1 item after validation, not 0"),
        (declared(name="a b"), "engines.0.name is not of the right form; set it to letters, digits"),
        (declared(kind="vllm"), "engines.0.kind is unknown; set it to mlx, ollama or openai"),
        (declared(kind="auto"), "engines.0.kind is unknown"),
        (declared(url="localhost:8081"), "engines.0.url is not of the right form; set it to the engine's address"),
        (declared(url="http://me:secret@localhost"), "engines.0.url: must not hold a user or a password"),
        (declared(deadline_seconds=0), "engines.0.deadline_seconds: Input should be greater than 0"),
        (declared(deadline_seconds=20, patience_seconds=10), "engines.0: patience_seconds: must be at least deadline"),
        (declared(speed=1), "engines.0.speed is unknown"),
        (declared(job={"label": "x"}), "engines.0.job"),
        (declared(job={"manager": "launchd"}), "engines.0.job.label is missing; set it to the launchd job's label"),
        (declared(job={**LAUNCHD, "label": "-k"}), "engines.0.job.label is not of the right form"),
        (declared(job={**LAUNCHD, "domain": "gui"}), "engines.0.job.domain is not of the right form; set it to system"),
        (json.dumps({"engines": [ENGINE, ENGINE]}), "two of them have the same name"),
        (json.dumps({"engines": [ENGINE], "disk": "models"}), "disk: must be an absolute path"),
        (json.dumps({"engines": [ENGINE], "host": "a/b"}), "host is not of the right form"),
    ],
)
def test_what_does_not_hold_is_named_with_its_remedy(text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    assert complaint in caught.value.detail
    assert "secret" not in caught.value.detail


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.json cannot be used: No such file"):
        read(tmp_path / "none.json")


def test_a_configuration_that_does_not_hold_stops_the_agent(tmp_path: Path) -> None:
    file = tmp_path / "agent.json"
    file.write_text(declared(kind="vllm"))
    done = athena("serve", "agent", "--port", "0", AGENT_CONFIG=str(file))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: the agent's configuration {file} cannot be used: engines.0.kind is unknown")
    assert "Traceback" not in done.stderr
    unset = athena("serve", "agent", "--port", "0")
    assert unset.returncode == 2
    assert unset.stderr.startswith("AGENT_CONFIG: is not set; set it to the path of the file")


@pytest.mark.parametrize(
    ("content", "complaint"), [(None, "cannot read the token file"), (b" \n", "is empty"), (b"\xff", "it is not text")]
)
def test_a_token_file_without_a_token_stops_the_agent(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    (tmp_path / "agent.json").write_text(declared())
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    command = ("serve", "agent", "--port", "0", "--token-file", str(tmp_path / "token"))
    done = athena(*command, AGENT_CONFIG=str(tmp_path / "agent.json"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert complaint in done.stderr
    assert "only the agent takes one" in athena("serve", "admin", "--token-file", "x").stderr


LAUNCHD_PRINT = """system/com.athena.mlx.llama = {
\tactive count = 1
\tpath = /Library/LaunchDaemons/com.athena.mlx.llama.plist
\ttype = LaunchDaemon
\tstate = running

\tprogram = /opt/athena/mlx/bin/mlx_lm.server
\tdomain = system
\tusername = athena
\truns = 2
\tpid = 17611
\timmediate reason = kickstart
\tforks = 0
\tlast exit code = 0
\tendpoints = {
\t\t"com.example" = {
\t\t\tport = 0x1703
\t\t}
\t}
}
"""


@pytest.mark.parametrize(
    ("job", "name", "restart", "ask", "answers"),
    [
        (
            LAUNCHD,
            "system/com.athena.mlx.llama",
            "launchctl kickstart -k system/com.athena.mlx.llama",
            "launchctl print system/com.athena.mlx.llama",
            [
                (LAUNCHD_PRINT, JobState(17611, "exit code 0")),
                (LAUNCHD_PRINT.replace("\tpid = 17611\n", ""), JobState(None, "exit code 0")),
                (LAUNCHD_PRINT.replace("code = 0", "code = 78: EX_CONFIG"), JobState(17611, "exit code 78: EX_CONFIG")),
                (LAUNCHD_PRINT.replace("code = 0", "code = (never exited)"), JobState(17611)),
                (
                    LAUNCHD_PRINT.replace("exit code = 0", "terminating signal = Killed: 9"),
                    JobState(17611, "Killed: 9"),
                ),
                ("", JobState()),
            ],
        ),
        (
            {**LAUNCHD, "domain": "gui/501", "sudo": True},
            "gui/501/com.athena.mlx.llama",
            "sudo -n launchctl kickstart -k gui/501/com.athena.mlx.llama",
            "launchctl print gui/501/com.athena.mlx.llama",
            [],
        ),
        (
            {"manager": "systemd", "unit": "ollama.service"},
            "ollama.service",
            "systemctl --no-ask-password restart ollama.service",
            "systemctl show --property=MainPID --value ollama.service",
            [("321\n", JobState(321)), ("0\n", JobState()), ("", JobState())],
        ),
        (
            {"manager": "systemd", "unit": "mlx@1.service", "scope": "user"},
            "mlx@1.service",
            "systemctl --user --no-ask-password restart mlx@1.service",
            "systemctl --user show --property=MainPID --value mlx@1.service",
            [],
        ),
    ],
)
def test_each_service_manager_is_asked_in_its_own_words(
    job: dict[str, Any], name: str, restart: str, ask: str, answers: list[tuple[str, JobState]]
) -> None:
    (engine,) = parse(declared(job=job)).engines
    assert engine.job is not None
    assert name_of(engine.job) == name
    assert " ".join(restart_command(engine.job)) == restart
    assert " ".join(show_command(engine.job)) == ask
    for answer, state in answers:
        assert state_in(engine.job, answer) == state
