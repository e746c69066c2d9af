"""add_backend_capabilities

Revision ID: c3e70b9a5d18
Revises: e8a41f6b03d7
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "c3e70b9a5d18"
down_revision = "e8a41f6b03d7"
branch_labels = None
depends_on = None

reversible = True
previous_code_runs = True  # the new column may be null, and nothing that was there changes


def upgrade() -> None:
    """Let a backend say what its model can do; null: as the router finds out."""
    op.add_column("llm_backends", sa.Column("capabilities", JSONB))
    op.create_check_constraint(
        op.f("ck_llm_backends_capabilities"), "llm_backends", "jsonb_typeof(capabilities) = 'object'"
    )


def downgrade() -> None:
    """Forget what backends said; the router finds out what it can."""
    op.drop_constraint(op.f("ck_llm_backends_capabilities"), "llm_backends", type_="check")
    op.drop_column("llm_backends", "capabilities")
