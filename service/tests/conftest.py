"""Fixtures that several folders share: the database, and the Admin API on it."""

from collections.abc import Iterator

import pytest
import structlog

from athena.db import migrate
from tests.support.admin import AdminApi, running_admin_api
from tests.support.postgres import PostgresServer


@pytest.fixture(scope="session", autouse=True)
def _plain_logs() -> None:
    """Log in one line each; structlog's default draws every exception in a frame, which takes seconds."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
        ]
    )


@pytest.fixture(scope="session")
def database_server() -> Iterator[PostgresServer]:
    """The PostgreSQL of all tests. A test that stops or kills one uses `own_database_server`."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def migrated_template(database_server: PostgresServer) -> str:
    """The name of a database with the schema of today, to copy from."""
    name = database_server.create_database()
    migrate.upgrade(database_server.url(name))
    return name


@pytest.fixture
def empty_database_url(database_server: PostgresServer) -> Iterator[str]:
    """The address of a database of the test's own, without any schema."""
    name = database_server.create_database()
    yield database_server.url(name)
    database_server.drop_database(name)


@pytest.fixture
def database_url(database_server: PostgresServer, migrated_template: str) -> Iterator[str]:
    """The address of a migrated, empty database of the test's own."""
    name = database_server.create_database(migrated_template)
    yield database_server.url(name)
    database_server.drop_database(name)


@pytest.fixture
def own_database_server() -> Iterator[PostgresServer]:
    """A PostgreSQL that the test may stop, kill and start."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def admin_api(database_url: str) -> Iterator[AdminApi]:
    """A started Admin API on a database of the test's own."""
    with running_admin_api(database_url) as api:
        yield api
