import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from athena.db import migrate
from athena.db.models import Base
from athena.db.session import sqlalchemy_url

FIRST = "93bea4659785"
BEFORE_LIMITS = "5c1f0e7a2b64"
BEFORE_ARMS = "c3e70b9a5d18"
BEFORE_CAPABILITIES = "e8a41f6b03d7"
SERVICE = Path(__file__).parents[2]
REGISTER = "INSERT INTO llm_backends (model_name, backend_type, endpoint_url) VALUES (%s, 'ollama', 'http://h.example')"


def models_registered(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT model_name FROM llm_backends ORDER BY id")]


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {row[0] for row in rows}


def test_the_schema_goes_up_and_down_and_up_again_with_its_data(empty_database_url: str) -> None:
    url = empty_database_url
    migrate.upgrade(url, FIRST)
    assert tables(url) == {"llm_backends", "admin_users", "config_audit_log", "alembic_version"}
    with psycopg.connect(url) as connection:
        connection.execute(REGISTER, ["before"])
    migrate.upgrade(url)
    with psycopg.connect(url) as connection:
        connection.execute(REGISTER, ["after"])
        connection.execute("UPDATE llm_backends SET avg_tokens_per_sec = 33, completion_tokens = 330")
        connection.execute("INSERT INTO llm_figure_batches (batch_id) VALUES (gen_random_uuid())")
    migrate.downgrade(url, FIRST)
    assert models_registered(url) == ["before", "after"]
    migrate.upgrade(url)
    assert models_registered(url) == ["before", "after"]
    migrate.downgrade(url, "base")
    assert tables(url) == {"alembic_version"}
    migrate.upgrade(url)
    assert models_registered(url) == []


def test_the_previous_release_goes_on_writing_on_the_schema_with_limits(empty_database_url: str) -> None:
    url = empty_database_url
    migrate.upgrade(url)
    with psycopg.connect(url) as connection:
        connection.execute(REGISTER, ["written by the previous release"])
        limits = connection.execute(
            "SELECT max_concurrency, max_queue, first_token_seconds, stall_seconds FROM llm_backends"
        )
        assert limits.fetchall() == [(None, None, None, None)]
        connection.execute("UPDATE llm_backends SET max_concurrency = 4, max_queue = 0")
    migrate.downgrade(url, BEFORE_LIMITS)
    assert models_registered(url) == ["written by the previous release"]


def test_the_previous_release_goes_on_writing_on_the_schema_with_capabilities(empty_database_url: str) -> None:
    url = empty_database_url
    migrate.upgrade(url)
    with psycopg.connect(url) as connection:
        connection.execute(REGISTER, ["written by the previous release"])
        assert connection.execute("SELECT capabilities FROM llm_backends").fetchall() == [(None,)]
        connection.execute("""UPDATE llm_backends SET capabilities = '{"tools": false}'""")
    migrate.downgrade(url, BEFORE_CAPABILITIES)
    assert models_registered(url) == ["written by the previous release"]


def test_the_previous_release_goes_on_writing_on_the_schema_with_arms(empty_database_url: str) -> None:
    url = empty_database_url
    migrate.upgrade(url)
    with psycopg.connect(url) as connection:
        connection.execute(REGISTER, ["written by the previous release"])
        assert connection.execute("SELECT arm, canary, tally FROM llm_backends").fetchall() == [(None, None, None)]
        connection.execute("""UPDATE llm_backends SET arm = 'canary', canary = '{"share": 0.5}', tally = '{}'""")
    migrate.downgrade(url, BEFORE_ARMS)
    assert models_registered(url) == ["written by the previous release"]


def test_the_database_refuses_capabilities_that_are_no_object(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(REGISTER, ["m"])
        with pytest.raises(psycopg.errors.CheckViolation, match="ck_llm_backends_capabilities"):
            connection.execute("""UPDATE llm_backends SET capabilities = '["tools"]'""")


@pytest.mark.parametrize(
    ("limit", "value"),
    [("max_concurrency", 0), ("max_queue", -1), ("first_token_seconds", 0), ("stall_seconds", 86401)],
)
def test_the_database_refuses_a_limit_out_of_bounds(database_url: str, limit: str, value: int) -> None:
    change = sql.SQL("UPDATE llm_backends SET {} = %s").format(sql.Identifier(limit))
    with psycopg.connect(database_url) as connection:
        connection.execute(REGISTER, ["m"])
        with pytest.raises(psycopg.errors.CheckViolation, match=f"ck_llm_backends_{limit}"):
            connection.execute(change, [value])


def test_every_revision_can_be_taken_back_one_by_one(empty_database_url: str) -> None:
    revisions = [script.revision for script in migrate.scripts().walk_revisions()]
    for revision in reversed(revisions):
        migrate.upgrade(empty_database_url, revision)
    assert migrate.current_and_head(empty_database_url).current == revisions[0]
    for _ in revisions:
        migrate.downgrade(empty_database_url, "-1")
    assert migrate.current_and_head(empty_database_url).current is None


def test_every_migration_says_whether_it_can_go_back_and_whether_the_previous_code_runs_on_it() -> None:
    for script in migrate.scripts().walk_revisions():
        assert isinstance(script.module.reversible, bool), script.path
        assert isinstance(script.module.previous_code_runs, bool), script.path


def test_the_first_revision_is_the_documented_one() -> None:
    script = migrate.scripts().get_revision(FIRST)
    assert script.down_revision is None
    assert Path(script.path).name == "93bea4659785_add_llm_backend_registry.py"


def test_the_models_describe_the_schema_that_the_migrations_make(database_url: str) -> None:
    engine = create_engine(sqlalchemy_url(database_url), poolclass=NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "target_metadata": Base.metadata}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_the_current_revision_is_told_before_and_after(empty_database_url: str) -> None:
    assert migrate.current_and_head(empty_database_url).current is None
    migrate.upgrade(empty_database_url)
    told = migrate.current_and_head(empty_database_url)
    assert told.current == told.head == migrate.head()


def test_two_migrators_at_once_do_not_race(empty_database_url: str) -> None:
    environment = {**os.environ, "DATABASE_URL": empty_database_url}

    def upgrade(_: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "alembic", "upgrade", "head"],
            cwd=SERVICE,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(upgrade, range(3)))
    assert [result.returncode for result in results] == [0, 0, 0], [result.stderr for result in results]
    upgrades = sum(result.stderr.count("Running upgrade") for result in results)
    assert upgrades == len(migrate.revisions())


def test_alembic_works_by_hand_from_the_service_folder(empty_database_url: str) -> None:
    environment = {**os.environ, "DATABASE_URL": empty_database_url}

    def alembic(*arguments: str) -> str:
        command = [sys.executable, "-m", "alembic", *arguments]
        return subprocess.run(command, cwd=SERVICE, env=environment, capture_output=True, text=True, check=True).stderr

    lines = alembic("upgrade", "head")
    assert "INFO  [alembic.runtime.migration] Running upgrade  -> 93bea4659785, add_llm_backend_registry\n" in lines
    assert "Running downgrade" in alembic("downgrade", "-1")
    newest = migrate.scripts().get_revision(migrate.head())
    assert migrate.current_and_head(empty_database_url).current == newest.down_revision


def test_the_lines_of_a_migration_read_like_alembics_own(
    empty_database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    migrate.upgrade(empty_database_url)
    assert "INFO  [alembic.runtime.migration] Running upgrade  -> 93bea4659785" in capsys.readouterr().err


def test_a_migration_that_fails_leaves_nothing_behind(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("CREATE TABLE config_audit_log ()")
    with pytest.raises(Exception, match="config_audit_log"):
        migrate.upgrade(empty_database_url)
    assert tables(empty_database_url) == {"config_audit_log"}


def test_without_an_address_the_migration_says_what_it_needs() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=SERVICE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "DATABASE_URL is not set; expected postgresql://" in done.stderr
