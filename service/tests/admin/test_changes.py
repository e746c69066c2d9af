import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy import text

from athena.db.audit import lock_configuration
from athena.db.session import Database, DatabaseUnavailableError
from tests.support.admin import ADMIN_TOKEN, JWT_SECRET, AdminApi, running_admin_api
from tests.support.postgres import PostgresServer
from tests.support.processes import Server

AT_ONCE = 5.0  # on a busy machine; far from the 25 s of a wait


@pytest.fixture
def sibling(own_admin_api: AdminApi) -> Iterator[AdminApi]:
    """A second Admin API on the same database."""
    with running_admin_api(own_admin_api.database_url) as api:
        yield api


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def changes(url: str, after: int, wait: float) -> tuple[int, float]:
    """Ask for news; returns the version and how long the answer took."""
    began = time.monotonic()
    answer = httpx.get(url + "/api/llm-backends/changes", params={"after": after, "wait": wait}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["version"], time.monotonic() - began


def test_the_version_is_nought_before_the_first_change_and_grows_with_every_one(own_admin_api: AdminApi) -> None:
    assert changes(own_admin_api.base_url, 0, 0)[0] == 0
    row = own_admin_api.add("m")
    assert changes(own_admin_api.base_url, 0, 25)[0] == 1
    own_admin_api.client.post(f"/api/llm-backends/{row['id']}/toggle")
    assert changes(own_admin_api.base_url, 0, 25)[0] == 2


def test_an_old_version_is_answered_at_once(own_admin_api: AdminApi) -> None:
    own_admin_api.add("m")
    assert changes(own_admin_api.base_url, 0, 25)[1] < AT_ONCE


def test_without_news_the_answer_comes_when_the_wait_is_over(own_admin_api: AdminApi) -> None:
    own_admin_api.add("m")
    latest, seconds = changes(own_admin_api.base_url, 1, 0.5)
    assert latest == 1
    assert 0.4 < seconds < AT_ONCE


def test_a_change_made_by_another_process_is_news_here_at_once(
    own_admin_api: AdminApi, sibling: AdminApi, pool: ThreadPoolExecutor
) -> None:
    waiting = [pool.submit(changes, api.base_url, 0, 25) for api in (own_admin_api, sibling)]
    time.sleep(0.3)
    sibling.add("m")
    for answer in waiting:
        latest, seconds = answer.result()
        assert latest == 1
        assert seconds < AT_ONCE


def test_a_database_that_was_restored_is_news_at_once_though_its_version_is_the_same(
    own_admin_api: AdminApi, database_server: PostgresServer, pool: ThreadPoolExecutor
) -> None:
    def ask(**query: str | int) -> dict[str, str | int]:
        answer = httpx.get(f"{own_admin_api.base_url}/api/llm-backends/changes", params=query, timeout=60)
        assert answer.status_code == 200, answer.text
        told: dict[str, str | int] = answer.json()
        return told

    own_admin_api.add("m")
    known = ask(after=0, wait=0)
    waiting = pool.submit(ask, after=1, database=known["database"], wait=50)
    before = database_server.replace_database(own_admin_api.database_url.rpartition("/")[2])
    try:
        told = waiting.result(25)
        assert told["version"] == known["version"] == 1
        assert told["database"] != known["database"]
        # Whoever was not waiting just then learns it as well.
        assert pool.submit(ask, after=1, database=known["database"], wait=50).result(25) == told
    finally:
        database_server.drop_database(before)


def test_news_is_not_missed_while_nobody_listened(own_admin_api: AdminApi, pool: ThreadPoolExecutor) -> None:
    waiting = pool.submit(changes, own_admin_api.base_url, 0, 25)
    time.sleep(0.3)
    with psycopg.connect(own_admin_api.database_url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'athena-admin-changes' "
            "AND datname = current_database()"
        )
    own_admin_api.add("m")
    latest, seconds = waiting.result()
    assert latest == 1
    assert seconds < AT_ONCE + 2


@pytest.mark.parametrize("query", ["", "after=-1", "after=x", "after=0&wait=56", "after=0&wait=nan", f"after={2**63}"])
def test_a_question_for_news_that_makes_no_sense_is_refused(own_admin_api: AdminApi, query: str) -> None:
    assert httpx.get(f"{own_admin_api.base_url}/api/llm-backends/changes?{query}").status_code == 422


def test_the_list_says_of_which_version_it_is(own_admin_api: AdminApi) -> None:
    assert own_admin_api.client.get("/api/llm-backends").headers["x-registry-version"] == "0"
    own_admin_api.add("m")
    assert own_admin_api.client.get("/api/llm-backends").headers["x-registry-version"] == "1"


async def test_one_change_waits_for_the_other_so_that_versions_appear_in_order(database_url: str) -> None:
    database = Database(database_url)
    async with database.transaction() as first:
        await lock_configuration(first)

        async def change() -> None:
            async with database.transaction() as second:
                await second.execute(text("SET LOCAL lock_timeout = '100ms'"))
                await lock_configuration(second)

        with pytest.raises(DatabaseUnavailableError):
            await change()
    await change()
    await database.close()


def test_a_process_that_is_to_end_does_not_wait_for_those_who_wait_for_news(
    database_url: str, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    server = Server(
        "admin",
        tmp_path / "log",
        {"DATABASE_URL": database_url, "ADMIN_API_TOKEN": ADMIN_TOKEN, "JWT_SECRET": JWT_SECRET},
    )
    waiting = pool.submit(changes, server.url, 0, 50)
    time.sleep(0.3)
    server.process.terminate()
    assert server.process.wait(AT_ONCE + 1) in {0, -15}
    assert waiting.result()[0] == 0
