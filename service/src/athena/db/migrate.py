"""Moving the schema between revisions, and asking where it stands."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from athena.db.session import CONNECT_ARGUMENTS, sqlalchemy_url
from athena.db.way_back import Step


class Revisions(NamedTuple):
    """Where a database is (None: nothing there yet) and where this code wants it.

    `ahead` says that a newer release has been there: this code does not know the revision.
    """

    current: str | None
    head: str
    ahead: bool = False


class UnknownRevisionError(Exception):
    """There is no way from where the database is to the revision that was named; the text says why."""


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the schema of the database at `url` up to `revision`, in one transaction: all of it or nothing.

    Alembic's own lines go to standard error. Raises what Alembic, SQLAlchemy or psycopg raise.
    """
    with _alembic_lines():
        command.upgrade(_config(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Take the schema back to `revision` (`base`: nothing; `-1`: one step), in one transaction.

    Alembic's own lines go to standard error. Raises what Alembic, SQLAlchemy or psycopg raise.
    """
    with _alembic_lines():
        command.downgrade(_config(url), revision)


def current_and_head(url: str) -> Revisions:
    """Return the revision of the database at `url` and the newest one of this code."""
    engine = create_engine(sqlalchemy_url(url), poolclass=NullPool, connect_args=CONNECT_ARGUMENTS)
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return Revisions(current, head(), ahead=current is not None and current not in revisions())


def steps_down(current: str | None, revision: str) -> list[Step]:
    """Return the migrations between two revisions (`base`: before the first), the newest first.

    Raises UnknownRevisionError where this code does not know them, or `revision` is not below `current`.
    """
    steps: list[Step] = []
    below: str | None = current
    while below is not None and below != revision:
        script = scripts().get_revision(below) if below in revisions() else None
        if script is None:
            raise UnknownRevisionError(f"this release does not know the revision {below}; ask the one that made it")
        module = script.module
        steps.append(Step(below, script.doc, module.reversible, module.previous_code_runs))
        below = script.down_revision if isinstance(script.down_revision, str) else None
    if below is None and revision != "base":
        raise UnknownRevisionError(f"{revision} is not below the database's revision, {current or 'none'}")
    return steps


def scripts() -> ScriptDirectory:
    """Return the migrations of this code."""
    return ScriptDirectory(str(_folder()))


def revisions() -> frozenset[str]:
    """Return every revision that this code knows."""
    return frozenset(script.revision for script in scripts().walk_revisions())


def head() -> str:
    """Return the newest revision of this code."""
    revision = scripts().get_current_head()
    if revision is None:
        raise RuntimeError(f"{_folder()} has no migrations; the package was built without them")
    return revision


def _folder() -> Path:
    """Return the migrations: inside the package where it is installed, beside `src` in the source tree."""
    package = Path(__file__).parent.parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent.parent / "migrations"


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_folder()).replace("%", "%%"))
    config.attributes["database_url"] = url
    return config


@contextmanager
def _alembic_lines() -> Iterator[None]:
    logger = logging.getLogger("alembic")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)-5.5s [%(name)s] %(message)s"))
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
