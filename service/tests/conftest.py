"""Fixtures that several folders share: the database, and the Admin API on it."""

import functools
from collections.abc import Iterator

import httpx
import pytest
import structlog

from athena.db import migrate
from tests.support.admin import AdminApi, forget_everything, running_admin_api
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


@pytest.fixture(scope="session", autouse=True)
def _authorities_read_once() -> Iterator[None]:
    """Let httpx read the machine's certificate authorities once, and not for each client, at 20 ms a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", functools.cache(httpx.create_ssl_context))
        yield


@pytest.fixture(scope="session")
def database_server() -> Iterator[PostgresServer]:
    """The PostgreSQL of all tests. A test that stops or kills one uses `own_database_server`."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
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
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def _shared_admin_api(database_server: PostgresServer, migrated_template: str) -> Iterator[AdminApi]:
    name = database_server.create_database(migrated_template)
    with running_admin_api(database_server.url(name)) as api:
        api.client.get("/health").raise_for_status()
        yield api
    database_server.drop_database(name)


@pytest.fixture
def admin_api(_shared_admin_api: AdminApi) -> AdminApi:
    """A started Admin API whose tables are empty. A test that changes more than rows uses `own_admin_api`."""
    forget_everything(_shared_admin_api.database_url)
    return _shared_admin_api


@pytest.fixture
def own_admin_api(database_url: str) -> Iterator[AdminApi]:
    """A started Admin API on a database of the test's own, which has had no other change yet."""
    with running_admin_api(database_url) as api:
        yield api
