import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.admin import ADMIN_TOKEN, JWT_SECRET
from tests.support.ports import quiet_port
from tests.support.postgres import PASSWORD
from tests.support.processes import Server, athena, serving


def test_help_is_shown_before_anything_heavy_is_imported() -> None:
    program = (
        "import sys; sys.argv = ['athena', '--help']\n"
        "try:\n    import athena.cli; athena.cli.main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "heavy = {'fastapi', 'pydantic', 'sqlalchemy', 'httpx', 'uvicorn', 'rich', 'asyncio'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "backends" in done.stdout


def test_every_wrong_setting_is_one_line_with_its_variable_and_no_value() -> None:
    done = athena("serve", "admin", JWT_SECRET="tiny-secret", ADMIN_API_TOKEN="x1y2")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["DATABASE_URL", "ADMIN_API_TOKEN", "JWT_SECRET"]
    assert "postgresql://USER:PASSWORD@HOST:PORT/NAME" in lines[0]
    assert "tiny-secret" not in done.stderr
    assert "x1y2" not in done.stderr


@pytest.mark.parametrize(
    ("role", "variables", "complaint"),
    [
        ("admin", {"DATABASE_URL": "mysql://root:hidden@db/x"}, "DATABASE_URL: must start with postgresql://"),
        ("proxy", {"OLLAMA_URL": "localhost:11434"}, "OLLAMA_URL: is not of the right form"),
        ("proxy", {"CONFIG_CACHE_SECONDS": "0"}, "CONFIG_CACHE_SECONDS: Input should be greater than 0"),
        ("proxy", {"QUEUE_SECONDS": "0"}, "QUEUE_SECONDS: Input should be greater than 0"),
        ("proxy", {"PROXY_WORKERS": "0"}, "PROXY_WORKERS: Input should be greater than or equal to 1"),
        ("orchestrator", {"REDIS_URL": "http://redis:6379"}, "REDIS_URL: is not of the right form"),
        ("orchestrator", {"LOG_LEVEL": "loud"}, "LOG_LEVEL: is not of the right form"),
    ],
)
def test_a_setting_that_does_not_hold_stops_the_start(role: str, variables: dict[str, str], complaint: str) -> None:
    done = athena("serve", role, "--port", "0", **variables)
    assert done.returncode == 2
    assert done.stderr.startswith(complaint)
    assert "hidden" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_of_api_keys_that_does_not_hold_stops_the_proxy(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice sk-athena-in-the-clear\n")
    for workers in ("1", "2"):
        done = athena("serve", "proxy", "--port", "0", PROXY_API_KEYS_FILE=str(keys), PROXY_WORKERS=workers)
        assert done.returncode == 1
        assert f"the file of API keys {keys} cannot be used: line 1: " in done.stdout + done.stderr
        assert "in-the-clear" not in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr


def test_a_table_of_intents_that_does_not_hold_stops_the_orchestrator(tmp_path: Path) -> None:
    table = tmp_path / "intents.toml"
    table.write_text("default_intent = 'talk'")
    done = athena("serve", "orchestrator", "--port", "0", ORCHESTRATOR_INTENTS_FILE=str(table))
    assert done.returncode == 1
    assert f"error: {table}: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_taken_port_is_named(tmp_path: Path, database_url: str) -> None:
    access = {"DATABASE_URL": database_url, "ADMIN_API_TOKEN": ADMIN_TOKEN}
    with serving("admin", tmp_path / "log", **access) as server:
        second = athena("serve", "admin", "--port", str(server.port), **access)
    assert second.returncode == 1
    assert f"cannot listen on 127.0.0.1:{server.port}" in second.stderr


def test_the_admin_api_is_served_logs_json_and_ends_on_sigterm_though_a_router_waits(
    tmp_path: Path, database_url: str
) -> None:
    log = tmp_path / "log"
    with serving("admin", log, DATABASE_URL=database_url, ADMIN_API_TOKEN=ADMIN_TOKEN) as server:
        assert httpx.get(f"{server.url}/health").status_code == 200
        with ThreadPoolExecutor() as pool:
            news = f"{server.url}/api/llm-backends/changes?after=9&wait=30"
            waiting = pool.submit(httpx.get, news, timeout=40)
            time.sleep(0.3)
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 15  # half of what the router would have waited
            assert waiting.result(5).status_code == 200
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["service"] for line in lines} == {"admin"}


@pytest.mark.parametrize("role", ["admin", "proxy"])
def test_while_a_server_winds_down_each_answer_closes_its_connection_and_no_idle_one_ends(
    tmp_path: Path, database_url: str, role: str
) -> None:
    variables = {"DATABASE_URL": database_url, "ADMIN_API_TOKEN": ADMIN_TOKEN, "ADMIN_API_URL": "http://127.0.0.1:9"}
    server = Server(role, tmp_path / "log", variables, arguments=("--wind-down", "2"))
    try:
        with httpx.Client(base_url=server.url) as kept:
            assert "connection" not in kept.get("/livez").headers
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            for client in kept, httpx.Client():
                answer = client.get(f"{server.url}/livez")
                assert answer.status_code == 200
                assert answer.headers["connection"] == "close"
        assert server.process.wait(10) == 0
    finally:
        server.kill()


@pytest.mark.slow
def test_the_schema_goes_up_and_down_and_is_told(empty_database_url: str) -> None:
    database = {"DATABASE_URL": empty_database_url}
    before = json.loads(athena("migrate", "--show", **database).stdout)
    assert before["current"] is None
    assert [step["revision"] for step in before["pending"]][:: len(before["pending"]) - 1] == [
        "93bea4659785",
        before["head"],
    ]
    assert athena("migrate", "93bea4659785", **database).returncode == 0
    assert athena("migrate", **database).returncode == 0
    assert json.loads(athena("migrate", "--show", **database).stdout) == {
        "current": before["head"],
        "head": before["head"],
        "ahead": False,
        "pending": [],
    }
    way = json.loads(athena("migrate", "--back-to", "93bea4659785", **database).stdout)
    assert way["way"] == "down"
    assert way["steps"][0]["revision"] == before["head"]
    assert all(step["reversible"] and step["title"] for step in way["steps"])
    unknown = athena("migrate", "--back-to", "feedbeef", **database)
    assert unknown.returncode == 1
    assert "feedbeef is not below" in unknown.stderr
    assert athena("migrate", "--down", "base", **database).returncode == 0
    assert json.loads(athena("migrate", "--show", **database).stdout)["current"] is None


def test_the_revisions_that_a_version_knows_are_told_without_a_database() -> None:
    known = json.loads(athena("migrate", "--known").stdout)
    assert "93bea4659785" in known
    assert len(set(known)) == len(known) > 1


def test_a_database_that_refuses_and_a_revision_that_is_none_are_told(empty_database_url: str) -> None:
    wrong = athena("migrate", DATABASE_URL=empty_database_url.replace(PASSWORD, "not-the-password"))
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines()[-1].startswith("error: the database cannot be used: ")
    assert "not-the-password" not in wrong.stderr
    unknown = athena("migrate", "feedbeef", DATABASE_URL=empty_database_url)
    assert unknown.returncode == 1
    assert "feedbeef" in unknown.stderr
    assert "Traceback" not in wrong.stderr + unknown.stderr


@pytest.mark.slow
def test_a_personal_token_opens_the_admin_api(database_url: str, tmp_path: Path) -> None:
    settings = {"DATABASE_URL": database_url, "JWT_SECRET": JWT_SECRET}
    made = athena("token", "--user", "ann", **settings)
    assert made.returncode == 0, made.stderr
    with serving("admin", tmp_path / "log", **settings) as server:
        access = {"ADMIN_API_URL": server.url, "ADMIN_API_TOKEN": made.stdout.strip()}
        add = ["backends", "add", "m", "--type", "ollama", "--url", "http://localhost:11434"]
        assert athena(*add, **access).returncode == 0
        entries = httpx.get(f"{server.url}/api/audit-log", headers={"Authorization": f"Bearer {made.stdout.strip()}"})
        assert entries.json()[0]["actor"] == "ann"
        reading = athena("token", "--user", "bob", "--scope", "service", **settings).stdout.strip()
        assert athena("backends", "list", **{**access, "ADMIN_API_TOKEN": reading}).returncode == 0
        assert athena("backends", "rm", "1", **{**access, "ADMIN_API_TOKEN": reading}).returncode == 1


def test_a_token_needs_a_secret_to_sign_it(database_url: str) -> None:
    done = athena("token", "--user", "ann", DATABASE_URL=database_url)
    assert done.returncode == 1
    assert "JWT_SECRET is not set" in done.stderr


def test_a_folder_without_a_database_is_not_run(tmp_path: Path) -> None:
    done = athena("postgres", "run", "--data", str(tmp_path / "none"), "--port", str(quiet_port()))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
