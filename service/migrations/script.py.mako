"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision or "nothing"}
"""

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None

# Can it go down again without losing what only the new schema can hold? Does the previous code run on the new schema?
reversible = True
previous_code_runs = True


def upgrade() -> None:
    """Say what this adds."""
    ${upgrades or "pass"}


def downgrade() -> None:
    """Say what this takes away."""
    ${downgrades or "pass"}
