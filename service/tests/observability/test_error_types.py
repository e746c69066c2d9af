"""The closed table of error types, against the errors that there are."""

import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import athena
from athena.errors import AthenaError
from athena.observability import error_types


def every_error(kind: type[AthenaError] = AthenaError) -> Iterator[type[AthenaError]]:
    """Yield the errors of the package, in whichever of its modules they are."""
    yield kind
    for special in kind.__subclasses__():
        yield from every_error(special)


@pytest.fixture(scope="module", autouse=True)
def whole_package() -> None:
    for module in pkgutil.walk_packages(athena.__path__, "athena."):
        if not module.name.startswith("athena.migrations"):
            importlib.import_module(module.name)


def test_every_error_has_a_group() -> None:
    found = {error.code for error in every_error() if error.__module__.startswith("athena.")}
    assert len(found) > 20
    assert found - error_types.GROUPS.keys() == set()


def test_the_table_has_nothing_that_does_not_occur() -> None:
    ours = {error_types.CANCELLED, error_types.SHUTDOWN, error_types.OTHER, error_types.REGISTERED_MODEL_MISSING}
    assert error_types.GROUPS.keys() - {error.code for error in every_error()} == ours


def test_what_is_not_in_the_table_is_other_and_counts_against_us() -> None:
    assert error_types.named("made up") == "other"
    assert error_types.group_of("other") == "backend"
    assert error_types.named("") == error_types.group_of("") == ""
