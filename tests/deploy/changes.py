"""What the tests of deploy.sh change in their copy of the repository."""

from pathlib import Path

MIGRATION = '''"""Add a table that only this test knows."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{down_revision}"
branch_labels = None
depends_on = None

reversible = {reversible}
previous_code_runs = {previous_code_runs}


def upgrade() -> None:
    """Add it."""
    op.create_table("of_a_test_{revision}", sa.Column("id", sa.Integer, primary_key=True))


def downgrade() -> None:
    """Remove it."""
    op.drop_table("of_a_test_{revision}")
'''


def add_migration(
    clone: Path, revision: str, after: str, *, reversible: bool = True, previous_code_runs: bool = True
) -> None:
    """Put a migration into the copy of the repository."""
    file = clone / "service" / "migrations" / "versions" / f"{revision}_of_a_test.py"
    file.write_text(
        MIGRATION.format(
            revision=revision,
            down_revision=after,
            reversible=reversible,
            previous_code_runs=previous_code_runs,
        )
    )
