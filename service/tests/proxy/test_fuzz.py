"""The proxy's own description, taken at its word by a fuzzer."""

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

pytestmark = pytest.mark.slow

CHECKS: list[CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]


@pytest.fixture
def description(proxy: str) -> schemathesis.BaseSchema:
    """The description, with a configuration that makes the fuzzer call the models of the test."""
    return schemathesis.openapi.from_url(f"{proxy}/openapi.json")


schema = schemathesis.pytest.from_fixture("description")


@schema.parametrize()
@hypothesis.settings(max_examples=30, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_whatever_is_sent_is_answered_as_described(case: schemathesis.Case) -> None:
    if isinstance(case.body, dict) and "model" in case.body:
        case.body["model"] = ("m-openai", "m-mlx", "m-ollama")[len(str(case.body)) % 3]
    response = case.call(timeout=10)
    assert "Traceback" not in response.text
    case.validate_response(response, checks=CHECKS)
