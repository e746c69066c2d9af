"""The tables, as SQLAlchemy sees them. The migrations make them; a test compares the two."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, DateTime, Identity, MetaData, String, Text, UniqueConstraint, func
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The common base; constraints get predictable names, so that migrations can drop them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: DateTime(timezone=True), dict[str, Any]: JSONB(none_as_null=True)}  # noqa: RUF012  # SQLAlchemy's own declaration


class LlmBackend(Base):
    """One engine that serves one model name; the rows of one name, by priority and id, are its route.

    A limit that is None is the router's own. `completion_tokens` and `completion_seconds` are the sums behind
    `avg_tokens_per_sec`; the averages are None until there is a first successful request. `canary` and `tally` are
    those of `athena.admin.rollout`, None where a backend is no canary, and while nothing was seen of an arm.
    """

    __tablename__ = "llm_backends"
    __table_args__ = (
        UniqueConstraint("model_name", "endpoint_url", "backend_type"),
        CheckConstraint("backend_type IN ('ollama', 'mlx', 'auto', 'openai')", name="backend_type"),
        CheckConstraint("max_tokens > 0", name="max_tokens"),
        CheckConstraint("timeout_seconds > 0", name="timeout_seconds"),
        CheckConstraint("priority >= 0", name="priority"),
        CheckConstraint("weight BETWEEN 0 AND 1000", name="weight"),
        CheckConstraint("max_concurrency BETWEEN 1 AND 10000", name="max_concurrency"),
        CheckConstraint("max_queue BETWEEN 0 AND 100000", name="max_queue"),
        CheckConstraint("first_token_seconds BETWEEN 1 AND 86400", name="first_token_seconds"),
        CheckConstraint("stall_seconds BETWEEN 1 AND 86400", name="stall_seconds"),
        CheckConstraint("jsonb_typeof(capabilities) = 'object'", name="capabilities"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    model_name: Mapped[str] = mapped_column(String(200))
    backend_type: Mapped[str] = mapped_column(String(20))
    endpoint_url: Mapped[str] = mapped_column(String(500))
    enabled: Mapped[bool] = mapped_column(server_default="true")
    max_tokens: Mapped[int] = mapped_column(server_default="2048")
    temperature_default: Mapped[float] = mapped_column(server_default="0.7")
    timeout_seconds: Mapped[int] = mapped_column(server_default="60")
    description: Mapped[str | None] = mapped_column(Text)
    priority: Mapped[int] = mapped_column(server_default="0")
    weight: Mapped[int] = mapped_column(server_default="1")
    max_concurrency: Mapped[int | None]
    max_queue: Mapped[int | None]
    first_token_seconds: Mapped[int | None]
    stall_seconds: Mapped[int | None]
    capabilities: Mapped[dict[str, Any] | None]
    arm: Mapped[str | None] = mapped_column(String(40))
    canary: Mapped[dict[str, Any] | None]
    tally: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    avg_tokens_per_sec: Mapped[float | None]
    avg_latency_ms: Mapped[float | None]
    total_requests: Mapped[int] = mapped_column(BigInteger, server_default="0")
    total_errors: Mapped[int] = mapped_column(BigInteger, server_default="0")
    completion_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    completion_seconds: Mapped[float] = mapped_column(server_default="0")

    @property
    def share(self) -> float | None:
        """The share of the callers that a canary has, between 0 and 1; None where it is none."""
        return float(self.canary["share"]) if self.canary is not None else None


class AdminUser(Base):
    """Somebody who may hold a personal token; `scope` is the most that any token of theirs can do."""

    __tablename__ = "admin_users"
    __table_args__ = (
        UniqueConstraint("name"),
        CheckConstraint("scope IN ('admin', 'service')", name="scope"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    scope: Mapped[str] = mapped_column(String(20), server_default="admin")
    enabled: Mapped[bool] = mapped_column(server_default="true")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ConfigAuditEntry(Base):
    """One change of the configuration. The highest id is the registry's version."""

    __tablename__ = "config_audit_log"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(20))
    entity: Mapped[str] = mapped_column(String(50))
    entity_id: Mapped[int] = mapped_column(BigInteger)
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]


class FigureBatch(Base):
    """A batch of figures that has been counted; kept for a week, so that a repeated report counts once."""

    __tablename__ = "llm_figure_batches"

    batch_id: Mapped[UUID] = mapped_column(primary_key=True)
    received_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


class HostReportRow(Base):
    """The last report of the agent on one host."""

    __tablename__ = "host_reports"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    report: Mapped[dict[str, Any]]


class ApiKeyRow(Base):
    """A key of one of the proxy's callers, of which only the digest is kept.

    `models` are those that it may use, None: all. A limit that is None is none. Neither a revoked key nor one that has
    expired holds.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        UniqueConstraint("digest"),
        CheckConstraint("requests_per_minute > 0", name="requests_per_minute"),
        CheckConstraint("tokens_per_minute > 0", name="tokens_per_minute"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    prefix: Mapped[str] = mapped_column(String(32))
    digest: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]] = mapped_column(ARRAY(String(20)))
    models: Mapped[list[str] | None] = mapped_column(ARRAY(String(200)))
    requests_per_minute: Mapped[int | None]
    tokens_per_minute: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
