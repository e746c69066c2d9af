"""add_host_reports

Revision ID: e8a41f6b03d7
Revises: b7d24c91e6a8
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "e8a41f6b03d7"
down_revision = "b7d24c91e6a8"
branch_labels = None
depends_on = None

reversible = True
previous_code_runs = True  # a table of its own, and nothing that was there changes


def upgrade() -> None:
    """Keep the last report of each host's agent."""
    op.create_table(
        "host_reports",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("report", JSONB, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_host_reports")),
    )


def downgrade() -> None:
    """Forget the reports; the agents send them again."""
    op.drop_table("host_reports")
