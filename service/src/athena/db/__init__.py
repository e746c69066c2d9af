"""The database: engine, sessions, models, migrations, and the embedded PostgreSQL."""
