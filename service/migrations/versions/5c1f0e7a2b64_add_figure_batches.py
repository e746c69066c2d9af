"""add_figure_batches

Revision ID: 5c1f0e7a2b64
Revises: 93bea4659785
"""

import sqlalchemy as sa
from alembic import op

revision = "5c1f0e7a2b64"
down_revision = "93bea4659785"
branch_labels = None
depends_on = None

reversible = True
previous_code_runs = True  # the new columns have defaults, and nothing that was there changes


def upgrade() -> None:
    """Remember which batches of figures were counted, and the sums that tokens per second come from."""
    op.create_table(
        "llm_figure_batches",
        sa.Column("batch_id", sa.Uuid, nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_llm_figure_batches")),
    )
    op.create_index(op.f("ix_llm_figure_batches_received_at"), "llm_figure_batches", ["received_at"])
    op.add_column("llm_backends", sa.Column("completion_tokens", sa.BigInteger, server_default="0", nullable=False))
    op.add_column("llm_backends", sa.Column("completion_seconds", sa.Float, server_default="0", nullable=False))


def downgrade() -> None:
    """Forget both; the averages themselves stay."""
    op.drop_column("llm_backends", "completion_seconds")
    op.drop_column("llm_backends", "completion_tokens")
    op.drop_index(op.f("ix_llm_figure_batches_received_at"), table_name="llm_figure_batches")
    op.drop_table("llm_figure_batches")
