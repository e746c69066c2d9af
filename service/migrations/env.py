"""How Alembic reaches the database: one transaction, under a lock, with time limits."""

import os
from logging.config import fileConfig

from alembic import context
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from athena.db.models import Base
from athena.db.session import CONNECT_ARGUMENTS, sqlalchemy_url

# Any number will do, as long as every migrator uses the same one.
MIGRATION_LOCK = 934659785


def database_url() -> str:
    """Return the address that the caller handed over, or else DATABASE_URL."""
    url = context.config.attributes.get("database_url") or os.environ.get("DATABASE_URL")
    if not url:
        raise SystemExit("DATABASE_URL is not set; expected postgresql://USER:PASSWORD@HOST:PORT/NAME")
    return sqlalchemy_url(str(url))


def run_online() -> None:
    """Migrate a database, after any other migrator that is at work on it."""
    engine = create_engine(database_url(), poolclass=NullPool, connect_args=CONNECT_ARGUMENTS)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata)
        with context.begin_transaction():
            connection.execute(text("SET LOCAL lock_timeout = '120s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            # A table that is in use must not make every request queue behind the migration: it gives up instead.
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))
            connection.execute(text("SET LOCAL statement_timeout = '300s'"))
            context.run_migrations()


def run_offline() -> None:
    """Print the SQL instead of running it (`alembic upgrade head --sql`)."""
    context.configure(url=database_url(), target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


if context.config.config_file_name is not None:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)
if context.is_offline_mode():
    run_offline()
else:
    run_online()
