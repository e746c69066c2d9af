"""The proxy's own description, taken at its word by a fuzzer."""

from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from athena.proxy.model_changes import CHANGES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EXAMPLES = 100
EXAMPLES_OF_REFUSALS = 10  # of what this caller may not send, whatever is in it
CHECKS: list[CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_whatever_is_sent_is_answered_as_described(proxy: str, mode: GenerationMode) -> None:
    description = schemathesis.openapi.from_url(f"{proxy}/openapi.json")
    for found in description.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and operation.method != "post":
            continue  # without a body there is nothing to get wrong

        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        @hypothesis.settings(
            max_examples=EXAMPLES_OF_REFUSALS if operation.path in CHANGES else EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def answer(case: schemathesis.Case[Any]) -> None:
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = ("m-openai", "m-mlx", "m-ollama")[len(str(case.body)) % 3]
            response = case.call(timeout=10)
            assert "Traceback" not in response.text
            case.validate_response(response, checks=CHECKS)

        answer()
