"""add_llm_backend_registry

Revision ID: 93bea4659785
Revises: nothing
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "93bea4659785"
down_revision = None
branch_labels = None
depends_on = None

reversible = True
previous_code_runs = True


def upgrade() -> None:
    """Make the registry of backends, the people who may change it, and the record of their changes."""
    op.create_table(
        "llm_backends",
        sa.Column("id", sa.Integer, sa.Identity(), nullable=False),
        sa.Column("model_name", sa.String(200), nullable=False),
        sa.Column("backend_type", sa.String(20), nullable=False),
        sa.Column("endpoint_url", sa.String(500), nullable=False),
        sa.Column("enabled", sa.Boolean, server_default="true", nullable=False),
        sa.Column("max_tokens", sa.Integer, server_default="2048", nullable=False),
        sa.Column("temperature_default", sa.Float, server_default="0.7", nullable=False),
        sa.Column("timeout_seconds", sa.Integer, server_default="60", nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("priority", sa.Integer, server_default="0", nullable=False),
        sa.Column("weight", sa.Integer, server_default="1", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("avg_tokens_per_sec", sa.Float),
        sa.Column("avg_latency_ms", sa.Float),
        sa.Column("total_requests", sa.BigInteger, server_default="0", nullable=False),
        sa.Column("total_errors", sa.BigInteger, server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_llm_backends")),
        sa.UniqueConstraint(
            "model_name",
            "endpoint_url",
            "backend_type",
            name=op.f("uq_llm_backends_model_name_endpoint_url_backend_type"),
        ),
        sa.CheckConstraint(
            "backend_type IN ('ollama', 'mlx', 'auto', 'openai')", name=op.f("ck_llm_backends_backend_type")
        ),
        sa.CheckConstraint("max_tokens > 0", name=op.f("ck_llm_backends_max_tokens")),
        sa.CheckConstraint("timeout_seconds > 0", name=op.f("ck_llm_backends_timeout_seconds")),
        sa.CheckConstraint("priority >= 0", name=op.f("ck_llm_backends_priority")),
        sa.CheckConstraint("weight BETWEEN 0 AND 1000", name=op.f("ck_llm_backends_weight")),
    )
    op.create_table(
        "admin_users",
        sa.Column("id", sa.Integer, sa.Identity(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("scope", sa.String(20), server_default="admin", nullable=False),
        sa.Column("enabled", sa.Boolean, server_default="true", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_admin_users")),
        sa.UniqueConstraint("name", name=op.f("uq_admin_users_name")),
        sa.CheckConstraint("scope IN ('admin', 'service')", name=op.f("ck_admin_users_scope")),
    )
    op.create_table(
        "config_audit_log",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("entity", sa.String(50), nullable=False),
        sa.Column("entity_id", sa.BigInteger, nullable=False),
        sa.Column("before", JSONB),
        sa.Column("after", JSONB),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_config_audit_log")),
    )


def downgrade() -> None:
    """Drop all three tables with what is in them."""
    op.drop_table("config_audit_log")
    op.drop_table("admin_users")
    op.drop_table("llm_backends")
