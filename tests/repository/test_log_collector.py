"""What the log collector reads, what it says of a line, and what it does while Loki is down."""

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT, load

role = load("roles/log_collector/filter_plugins/log_collector.py")
SETTINGS = {
    "loki_url": "http://loki.example.internal:3100",
    "queue_mib": 512,
    "folder": "/var/lib/x/queue",
    "metrics_address": "127.0.0.1",
    "metrics_port": 8889,
    "traces_endpoint": "",
    "traces_address": "127.0.0.1",
}
ORIGIN = {"host": "host-1", "environment": "test"}


def of_a_host(**settings: Any) -> dict[str, Any]:
    journal = {"ollama": ["_SYSTEMD_UNIT=athena-ollama.service"]}
    files = [{"path": "/logs/*.log"}, {"path": "/pg/*.log", "app": "postgresql"}]
    config: dict[str, Any] = role.of_a_host({**SETTINGS, **settings}, ORIGIN, journal, files)
    return config


def test_every_line_says_where_it_is_from() -> None:
    receivers = of_a_host()["receivers"]
    assert {name: one["resource"] for name, one in receivers.items()} == {
        "journald/ollama": {"app": "ollama", **ORIGIN},
        "file_log/by_name": ORIGIN,
        "file_log/postgresql": {"app": "postgresql", **ORIGIN},
    }


@pytest.mark.parametrize(
    ("file", "app"),
    [
        ("proxy.log", "proxy"),
        ("com.athena.ollama.log", "ollama"),
        ("com.athena.mlx.phi3-mini.log", "mlx.phi3-mini"),
        ("orchestrator.log.1", "orchestrator"),
        ("com.athena.ollama.log.past", "ollama"),
        ("com.athena.mlx.phi3-mini.log.past.0.gz", "mlx.phi3-mini"),
    ],
)
def test_a_files_name_says_which_app_it_is_of(file: str, app: str) -> None:
    parser = of_a_host()["receivers"]["file_log/by_name"]["operators"][0]
    found = re.fullmatch(parser["regex"].replace("$$", "$"), file)
    assert found is not None
    assert found["app"] == app


def test_no_line_is_given_up_while_loki_is_down() -> None:
    config = of_a_host()
    exporter = config["exporters"]["otlp_http/loki"]
    assert exporter["retry_on_failure"]["max_elapsed_time"] == 0
    assert exporter["sending_queue"]["block_on_overflow"]
    assert exporter["sending_queue"]["storage"] in config["extensions"]
    assert exporter["sending_queue"]["queue_size"] == 512 * 1024 * 1024
    assert all(one["retry_on_failure"]["max_elapsed_time"] == 0 for one in config["receivers"].values())
    assert all(one["storage"] in config["extensions"] for one in config["receivers"].values())


def test_traces_are_taken_only_where_somebody_has_them_in_the_end() -> None:
    assert "otlp" not in of_a_host()["receivers"]
    config = of_a_host(traces_endpoint="http://tempo.example.internal:4318")
    assert config["receivers"]["otlp"]["protocols"]["http"]["endpoint"] == "127.0.0.1:4318"
    assert config["service"]["pipelines"]["traces"]["exporters"] == ["otlp_http/traces"]
    assert config["exporters"]["otlp_http/traces"]["endpoint"] == "http://tempo.example.internal:4318"


def test_a_dollar_is_no_variable_of_the_collector() -> None:
    config = of_a_host(loki_url="http://a$b")
    assert config["exporters"]["otlp_http/loki"]["endpoint"] == "http://a$$b/otlp"


@pytest.mark.parametrize(
    ("journal", "files", "words"),
    [
        ({}, [], "there is nothing to read"),
        ({"a": ["athena-a.service"]}, [], "which is not FIELD=VALUE"),
        ({}, [{"path": "logs/x.log"}], "absolute path"),
        ({}, [{"path": "/x.log", "name": "x"}], "absolute path, and may have an app"),
        ({"a b": ["_SYSTEMD_UNIT=a.service"]}, [], "cannot be the name of an app"),
    ],
)
def test_what_cannot_be_read_is_refused(journal: dict[str, list[str]], files: list[dict[str, str]], words: str) -> None:
    assert any(words in problem for problem in role.problems(journal, files))


def test_what_can_be_read_is_not_refused() -> None:
    journal = {"postgresql": ["_SYSTEMD_SLICE=system-postgresql.slice"]}
    assert role.problems(journal, [{"path": "/var/log/postgresql/*.log", "app": "postgresql"}]) == []


def killing() -> list[str]:
    """Return what a Mac's job runs the collector by."""
    words: list[str] = yaml.safe_load((ROOT / "roles/log_collector/vars/main.yml").read_text())["log_collector_killing"]
    return words


def test_the_collector_of_a_mac_is_killed_where_its_job_is_told_to_end(tmp_path: Path) -> None:
    told = tmp_path / "told"
    program = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(sys.argv[1]).touch(), sys.exit(0)))\n"
        "print('there', flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [*killing(), sys.executable, "-c", program, str(told)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
        try:
            assert job.stdout is not None
            assert job.stdout.readline() == "there\n"
            job.send_signal(signal.SIGTERM)
            assert job.stdout.read() == "", "the program has ended"
        finally:
            job.kill()
    assert not told.exists(), "it was not asked to end, but killed"


@pytest.mark.parametrize("status", [0, 3])
def test_a_collector_that_ends_by_itself_ends_its_job(status: int) -> None:
    done = subprocess.run([*killing(), "/bin/sh", "-c", f"exit {status}"], check=False, timeout=60)
    assert done.returncode == status
