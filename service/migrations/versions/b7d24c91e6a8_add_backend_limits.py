"""add_backend_limits

Revision ID: b7d24c91e6a8
Revises: 5c1f0e7a2b64
"""

import sqlalchemy as sa
from alembic import op

revision = "b7d24c91e6a8"
down_revision = "5c1f0e7a2b64"
branch_labels = None
depends_on = None

reversible = True
previous_code_runs = True  # the new columns may be null, and nothing that was there changes

CHECKS = {
    "max_concurrency": "max_concurrency BETWEEN 1 AND 10000",
    "max_queue": "max_queue BETWEEN 0 AND 100000",
    "first_token_seconds": "first_token_seconds BETWEEN 1 AND 86400",
    "stall_seconds": "stall_seconds BETWEEN 1 AND 86400",
}


def upgrade() -> None:
    """Let a backend say how much it takes at once and how long its tokens may take; null: the router's default."""
    for name, condition in CHECKS.items():
        op.add_column("llm_backends", sa.Column(name, sa.Integer))
        op.create_check_constraint(op.f(f"ck_llm_backends_{name}"), "llm_backends", condition)


def downgrade() -> None:
    """Forget the limits; every backend has the router's default again."""
    for name in reversed(CHECKS):
        op.drop_constraint(op.f(f"ck_llm_backends_{name}"), "llm_backends", type_="check")
        op.drop_column("llm_backends", name)
