"""Whether a schema goes back with the code, stays, or stops a rollback."""

import psycopg
import pytest

from athena.db import migrate
from athena.db.way_back import Step, Way, way_back


def step(*, reversible: bool, previous_code_runs: bool) -> Step:
    """Return a migration."""
    return Step("1", "a", reversible, previous_code_runs)


EASY = step(reversible=True, previous_code_runs=True)
BREAKING = step(reversible=True, previous_code_runs=False)
FINAL = step(reversible=False, previous_code_runs=True)
FINAL_AND_BREAKING = step(reversible=False, previous_code_runs=False)


@pytest.mark.parametrize(
    ("steps", "way"),
    [
        ([], Way.DOWN),
        ([EASY, BREAKING], Way.DOWN),
        ([FINAL], Way.KEEP),
        ([EASY, FINAL, EASY], Way.KEEP),
        ([BREAKING, FINAL], Way.STOP),
        ([FINAL_AND_BREAKING], Way.STOP),
        ([EASY, FINAL_AND_BREAKING], Way.STOP),
    ],
)
def test_the_schema_goes_back_or_stays_or_stops_the_rollback(steps: list[Step], way: Way) -> None:
    assert way_back(steps) is way


def test_the_migrations_above_a_revision_are_told_from_the_newest_down() -> None:
    known = [script.revision for script in migrate.scripts().walk_revisions()]
    assert [one.revision for one in migrate.steps_down(known[0], known[-1])] == known[:-1]
    assert [one.revision for one in migrate.steps_down(known[0], "base")] == known
    assert migrate.steps_down(known[0], known[0]) == migrate.steps_down(None, "base") == []


def test_a_revision_that_is_not_below_is_refused() -> None:
    known = [script.revision for script in migrate.scripts().walk_revisions()]
    with pytest.raises(migrate.UnknownRevisionError, match="is not below"):
        migrate.steps_down(known[-1], known[0])
    with pytest.raises(migrate.UnknownRevisionError, match="does not know the revision feedbeef"):
        migrate.steps_down("feedbeef", "base")


def test_a_database_that_a_newer_release_has_changed_is_ahead(database_url: str) -> None:
    assert not migrate.current_and_head(database_url).ahead
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'feedbeef'")
    assert migrate.current_and_head(database_url).ahead
