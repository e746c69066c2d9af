"""The page of the manual that lists the metrics."""

from athena.observability.families import Kind
from tests.observability.metrics_page import PAGE, families, page


def test_the_manual_lists_what_there_is() -> None:
    told = "run `python -m tests.observability.metrics_page` in service/"
    assert PAGE.read_text(encoding="utf-8") == page(), told


def test_one_name_means_one_thing_whichever_service_tells_it() -> None:
    seen: dict[str, tuple[Kind, str, tuple[str, ...], tuple[float, ...]]] = {}
    for service in families().values():
        for family in service:
            meaning = (family.kind, family.documentation, family.labels, family.bounds)
            assert seen.setdefault(family.name, meaning) == meaning
