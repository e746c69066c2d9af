"""The deployment guide's examples that concern the schema, the Admin API, the orchestrator, logs and figures."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.support.processes import Server, athena, environment, serving
from tests.walkthrough.installation import BACKENDS, LARGE, SMALL, Installation

pytestmark = [pytest.mark.engine, pytest.mark.slow]
SERVICE = Path(__file__).resolve().parents[2]


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {row[0] for row in rows}


def test_the_migration_announces_the_registry_and_makes_its_tables(empty_database_url: str) -> None:
    done = athena("migrate", DATABASE_URL=empty_database_url)
    assert done.returncode == 0, done.stderr
    assert "Running upgrade  -> 93bea4659785, add_llm_backend_registry" in done.stderr
    assert "Will assume transactional DDL." in done.stderr
    assert {"llm_backends", "admin_users", "config_audit_log"} <= tables(empty_database_url)

    assert athena("migrate", "--down", "base", DATABASE_URL=empty_database_url).returncode == 0
    assert "llm_backends" not in tables(empty_database_url)


def test_alembic_works_by_hand_from_the_service_folder(empty_database_url: str) -> None:
    alembic = str(Path(sys.executable).with_name("alembic"))
    for arguments, there in ((["upgrade", "head"], True), (["downgrade", "base"], False)):
        done = subprocess.run(
            [alembic, *arguments],
            cwd=SERVICE,
            env=environment(DATABASE_URL=empty_database_url),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert ("llm_backends" in tables(empty_database_url)) is there


def test_the_admin_api_is_healthy_and_its_registry_closed_to_strangers(installation: Installation) -> None:
    health = installation.anonymous.get("/health")
    assert health.status_code == 200
    assert health.json()["components"]["database"] == "healthy"
    assert installation.anonymous.get("/livez").status_code == 200
    assert installation.anonymous.get(BACKENDS).status_code == 401


def test_the_orchestrator_answers_a_question_and_logs_what_the_guide_says(
    installation: Installation, tmp_path: Path
) -> None:
    installation.create(SMALL, "auto", installation.mlx.url)
    log = tmp_path / "log"
    neighbours = {
        "ADMIN_API_URL": installation.admin.url,
        "ADMIN_API_TOKEN": installation.token,
        "OLLAMA_URL": installation.ollama.url,
    }
    with serving("orchestrator", log, **neighbours) as server:
        health = httpx.get(f"{server.url}/health").json()
        assert health == {"status": "healthy", "components": {"llm_router": "healthy", "redis": "memory"}}

        answer = query(server, "Will it rain in Lisbon?")
        assert [step["backend"] for step in answer["steps"]] == ["mlx", "mlx"]
        routed, completed = server.told("routing_llm_request"), server.told("llm_request_completed")
        assert {name: routed[name] for name in ("model", "backend_type", "endpoint")} == {
            "model": SMALL,
            "backend_type": "mlx",
            "endpoint": installation.mlx.url,
        }
        assert (completed["model"], completed["backend_type"]) == (SMALL, "mlx")
        assert completed["duration"] > 0

        installation.mlx.kill()
        answer = query(server, "And in Porto?")
        assert [step["backend"] for step in answer["steps"]] == ["ollama", "ollama"]
        assert "refused" in server.told("mlx_failed_falling_back_to_ollama")["error"].lower()


def query(server: Server, question: str) -> dict[str, Any]:
    answer = httpx.post(f"{server.url}/query", json={"query": question, "mode": "owner"}, timeout=60)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_the_running_figures_of_every_backend_are_shown(installation: Installation) -> None:
    good = installation.create(SMALL, "mlx", installation.mlx.url)
    bad = installation.create(LARGE, "openai", "http://127.0.0.1:9")
    program = """
import asyncio
from shared.llm_router import NoBackendError, get_llm_router

async def main():
    router = get_llm_router()
    for number in range(3):
        await router.generate(model={good!r}, prompt=f"Question {{number}}")
    try:
        await router.generate(model={bad!r}, prompt="Nobody hears this.")
    except NoBackendError:
        print("failed as expected")
    await router.close()

asyncio.run(main())
"""
    done = installation.python(program.format(good=SMALL, bad=LARGE), ADMIN_API_TOKEN=installation.token)
    assert done.returncode == 0, done.stderr
    figures = [
        {
            "id": row["id"],
            "tokens_per_sec": row["avg_tokens_per_sec"],
            "latency_ms": row["avg_latency_ms"],
            "requests": row["total_requests"],
            "errors": row["total_errors"],
        }
        for row in installation.backends()
    ]
    assert [(row["id"], row["requests"], row["errors"]) for row in figures] == [(good["id"], 3, 0), (bad["id"], 1, 1)]
    assert figures[0]["tokens_per_sec"] > 0
    assert 0 < figures[0]["latency_ms"] < 60_000
    assert figures[1]["tokens_per_sec"] is None


def test_the_engines_answer_their_own_health_questions(installation: Installation) -> None:
    assert httpx.get(f"{installation.ollama.url}/api/tags").status_code == 200
    assert httpx.get(f"{installation.mlx.url}/v1/models").status_code == 200


def test_an_orchestrator_goes_on_with_what_it_knows_while_the_admin_api_is_away(
    installation: Installation, database_url: str, tmp_path: Path
) -> None:
    with serving("admin", tmp_path / "admin", DATABASE_URL=database_url, ADMIN_API_TOKEN=installation.token) as admin:
        own = Installation(admin, installation.token, installation.ollama, installation.mlx)
        own.create(SMALL, "mlx", installation.mlx.url)
        with serving(
            "orchestrator",
            tmp_path / "orchestrator",
            ADMIN_API_URL=admin.url,
            ADMIN_API_TOKEN=installation.token,
            OLLAMA_URL=installation.ollama.url,
        ) as server:
            query(server, "Is all well?")
            own.close()
            assert admin.stop() == 0
            assert [step["backend"] for step in query(server, "And now?")["steps"]] == ["mlx", "mlx"]
            health = httpx.get(f"{server.url}/health").json()
            assert health["status"] == "degraded"
            assert health["components"]["llm_router"] == "unavailable"
