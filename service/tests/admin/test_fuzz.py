"""The Admin API's own description, taken at its word by a fuzzer."""

from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import positive_data_acceptance

from athena.admin.app import create_app
from tests.support.admin import ADMIN_TOKEN, admin_settings
from tests.support.http_server import serving
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.slow
HEADERS = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


@pytest.fixture(scope="module")
def base_url(database_server: PostgresServer, migrated_template: str) -> Iterator[str]:
    """An Admin API with a few backends, for all examples together, in which nobody waits for news."""
    name = database_server.create_database(migrated_template)
    app = create_app(admin_settings(database_server.url(name)))
    app.state.changes.close()
    with serving(app) as url:
        for number in range(3):
            body = {"model_name": f"m{number}", "backend_type": "mlx", "endpoint_url": "http://localhost:8081"}
            httpx.post(f"{url}/api/llm-backends", json=body, headers=HEADERS).raise_for_status()
        yield url
    database_server.drop_database(name)


# The description needs no database; the address is never called.
description = create_app(admin_settings("postgresql://127.0.0.1/none")).openapi()
schema = schemathesis.openapi.from_dict(description)


@schema.parametrize()
@hypothesis.settings(
    max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
def test_whatever_is_sent_is_answered_as_described(case: schemathesis.Case[Any], base_url: str) -> None:
    # That there are no more errors than requests is a rule between two fields, which a schema cannot tell.
    excluded: list[CheckFunction] = [positive_data_acceptance] if case.path.endswith("/figures") else []
    response = case.call_and_validate(base_url=base_url, headers=HEADERS, excluded_checks=excluded, timeout=10)
    assert "Traceback" not in response.text
