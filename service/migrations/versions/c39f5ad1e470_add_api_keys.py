"""add_api_keys

Revision ID: c39f5ad1e470
Revises: a3d85f20c417
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "c39f5ad1e470"
down_revision = "a3d85f20c417"
branch_labels = None
depends_on = None

reversible = True
previous_code_runs = True  # a table of its own, and nothing that was there changes


def upgrade() -> None:
    """Keep what is known of each API key of the proxy's callers: never the key, only its digest."""
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Integer, sa.Identity(), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("prefix", sa.String(32), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("scopes", ARRAY(sa.String(20)), nullable=False),
        sa.Column("models", ARRAY(sa.String(200)), nullable=True),
        sa.Column("requests_per_minute", sa.Integer, nullable=True),
        sa.Column("tokens_per_minute", sa.Integer, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
        sa.CheckConstraint("requests_per_minute > 0", name=op.f("ck_api_keys_requests_per_minute")),
        sa.CheckConstraint("tokens_per_minute > 0", name=op.f("ck_api_keys_tokens_per_minute")),
    )


def downgrade() -> None:
    """Forget the keys, which the code of before knows nothing of; their callers need new ones afterwards."""
    op.drop_table("api_keys")
