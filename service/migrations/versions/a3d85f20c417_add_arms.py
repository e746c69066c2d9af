"""add_arms

Revision ID: a3d85f20c417
Revises: c3e70b9a5d18
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "a3d85f20c417"
down_revision = "c3e70b9a5d18"
branch_labels = None
depends_on = None

reversible = True
previous_code_runs = True  # the new columns may be null, and nothing that was there changes


def upgrade() -> None:
    """Let a backend be an arm that is compared with the others of its priority; null: it is none."""
    op.add_column("llm_backends", sa.Column("arm", sa.String(40)))
    op.add_column("llm_backends", sa.Column("canary", JSONB))
    op.add_column("llm_backends", sa.Column("tally", JSONB))


def downgrade() -> None:
    """Forget the arms: the backends of one priority share its requests by weight, canaries included."""
    for name in ("tally", "canary", "arm"):
        op.drop_column("llm_backends", name)
