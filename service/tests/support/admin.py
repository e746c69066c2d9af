"""The Admin API, started, with what a test needs to use it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
from psycopg import sql

from athena.admin.app import create_app
from athena.db.audit import CHANNEL
from athena.db.models import Base
from athena.settings import AdminSettings
from tests.support.http_server import serving

ADMIN_TOKEN = "the-static-token-of-these-tests"
JWT_SECRET = "the-signing-secret-of-these-tests-which-is-long-enough"


@dataclass(frozen=True)
class AdminApi:
    """A started Admin API: its address, its static token, its database, and a client that sends the token."""

    base_url: str
    token: str
    database_url: str
    client: httpx.Client

    def add(self, model_name: str, **fields: Any) -> dict[str, Any]:
        """Add a backend, by default an Ollama on its usual port; returns the row."""
        body = {"model_name": model_name, "backend_type": "ollama", "endpoint_url": "http://localhost:11434", **fields}
        answer = self.client.post("/api/llm-backends", json=body)
        assert answer.status_code == 201, answer.text
        row: dict[str, Any] = answer.json()
        return row


def admin_settings(database_url: str) -> AdminSettings:
    """Return the settings of an Admin API on this database."""
    return AdminSettings.model_validate(
        {"database_url": database_url, "admin_api_token": ADMIN_TOKEN, "jwt_secret": JWT_SECRET}
    )


@contextmanager
def running_admin_api(database_url: str, port: int = 0) -> Iterator[AdminApi]:
    """Run an Admin API on a migrated database."""
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    with (
        serving(create_app(admin_settings(database_url)), port) as url,
        httpx.Client(base_url=url, headers=headers, timeout=30) as client,
    ):
        yield AdminApi(base_url=url, token=ADMIN_TOKEN, database_url=database_url, client=client)


def forget_everything(database_url: str) -> None:
    """Empty every table, let numbers begin at 1 again, and tell the Admin API that nothing has changed yet.

    Much quicker than a database and an Admin API of each test's own.
    """
    # Locked in this order: a proxy that has just ended may have left a report of figures behind, which takes the
    # batches before the backends.
    tables = sql.SQL(", ").join(sql.Identifier(table.name) for table in reversed(Base.metadata.sorted_tables))
    with psycopg.connect(database_url) as connection:
        connection.execute("SET LOCAL lock_timeout = '10s'")
        connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(tables))
        connection.execute("SELECT pg_notify(%s, '0')", [CHANNEL])
