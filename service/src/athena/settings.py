"""Settings of the processes, read from the environment; a secret never has a default.

Each process reads the one class that it needs, once, at its start, and hands the values on.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _without_trailing_slash(url: str) -> str:
    return url.rstrip("/")


ConnectSeconds = Annotated[float, Field(ge=0, le=600)]
Url = Annotated[str, Field(pattern=r"^https?://[^/\s]+"), AfterValidator(_without_trailing_slash)]
NO_DEFAULT_OLLAMA = "none"
DefaultOllama = Annotated[Url | None, BeforeValidator(lambda said: None if said == NO_DEFAULT_OLLAMA else said)]
RedisUrl = Annotated[str, Field(pattern=r"^(redis|rediss)://")]


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)


class DatabaseSettings(_Settings):
    """`DATABASE_URL`: `postgresql://USER:PASSWORD@HOST:PORT/NAME`, as every PostgreSQL tool takes it.

    `connect_seconds` is how long a command tries anew where it gets no connection.
    """

    database_url: SecretStr
    connect_seconds: ConnectSeconds = 0.0

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must start with postgresql://; PostgreSQL is the only database")
        return url


class AdminSettings(DatabaseSettings):
    """What the Admin API needs: the database and what its bearer tokens are checked against.

    `admin_api_token` is the one static token of an installation; `jwt_secret` signs the personal tokens that
    `athena token` makes. At least one of the two is needed for anybody to get in. `proxy_url` is a proxy that is asked,
    with `admin_api_token`, how it chooses (none: nobody is asked).
    """

    admin_api_token: Annotated[SecretStr, Field(min_length=16)] | None = None
    jwt_secret: Annotated[SecretStr, Field(min_length=32)] | None = None
    proxy_url: Url | None = None


class ClientSettings(_Settings):
    """How to reach the Admin API, for the CLI and for the router's configuration.

    `connect_seconds` is how long a command tries anew where it gets no connection.
    """

    admin_api_url: Url = "http://localhost:8080"
    connect_seconds: ConnectSeconds = 0.0
    admin_api_token: SecretStr | None = None


class RouterSettings(ClientSettings):
    """What every process that routes prompts needs.

    `ollama_url` is the default backend of a model that has none (`none`: there is no such Ollama, and a model without a
    backend does not exist); `ollama_concurrency` is how many requests an Ollama is
    given at once for a model whose backend does not say (its `OLLAMA_NUM_PARALLEL`); `router_state_file` keeps the last
    known configuration across restarts (none: in memory only); `queue_seconds` is the longest that a request waits for
    a backend that is at work for others; `router_auto_policy` is how `auto` backends choose: MLX first, or whichever
    engine is measured to be done sooner; `router_host_policy` how one of several backends of a priority is chosen: by
    weight, or the one that should be done first, its model and the prompt's beginning being there already or not; or
    the latter only where their weights are equal and no arms are compared, so that promised shares are kept.
    """

    ollama_url: DefaultOllama = "http://localhost:11434"
    ollama_concurrency: Annotated[int, Field(ge=1, le=10000)] = 1
    router_state_file: Path | None = None
    queue_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    router_auto_policy: Literal["mlx_first", "measured"] = "mlx_first"
    router_host_policy: Literal["warm_among_equals", "warm", "weighted"] = "warm_among_equals"
    config_cache_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0


class ProxySettings(RouterSettings):
    """What the model proxy needs besides: whether it asks its callers for API keys, which are those of the registry and
    of a file, if there is one; Redis, where proxies on several hosts count the requests and tokens of keys together
    (none: each host by itself); and how many processes share its port.
    """

    proxy_api_keys_file: Path | None = None
    proxy_ask_for_keys: bool = False
    redis_url: RedisUrl | None = None
    proxy_workers: Annotated[int, Field(ge=1, le=64)] = 1

    @field_validator("proxy_ask_for_keys")
    @classmethod
    def _knows_keys(cls, asks: bool, others: ValidationInfo) -> bool:
        if asks and others.data.get("admin_api_token") is None and others.data.get("proxy_api_keys_file") is None:
            raise ValueError("there is neither ADMIN_API_TOKEN, for the keys of the registry, nor PROXY_API_KEYS_FILE")
        return asks

    @property
    def asks_for_keys(self) -> bool:
        """Whether callers need an API key; a file of keys says so by itself."""
        return self.proxy_ask_for_keys or self.proxy_api_keys_file is not None


class OrchestratorSettings(RouterSettings):
    """What the orchestrator needs besides: Redis for conversations, and a table of intents (none: the packaged one)."""

    redis_url: RedisUrl | None = None
    orchestrator_intents_file: Path | None = None


class AgentSettings(ClientSettings):
    """What the agent of a host needs: the file that declares its engines, and one that keeps what was restarted (none:
    in memory only). Without `admin_api_token` it reports nothing.
    """

    agent_config: Path
    agent_state_file: Path | None = None


class TraceSettings(_Settings):
    """The standard variables of OpenTelemetry that decide whether there are traces: by `wanted`, where an endpoint is
    named. The libraries read these and all others themselves.
    """

    otel_exporter_otlp_endpoint: Url | None = None
    otel_exporter_otlp_traces_endpoint: Url | None = None
    otel_exporter_otlp_protocol: Annotated[str, Field(pattern="^http/protobuf$")] = "http/protobuf"
    otel_exporter_otlp_traces_protocol: Annotated[str, Field(pattern="^http/protobuf$")] = "http/protobuf"
    otel_traces_exporter: Annotated[str, Field(pattern="^(otlp|none)$")] = "otlp"
    otel_sdk_disabled: bool = False
    otel_bsp_max_queue_size: Annotated[int, Field(ge=1, le=1_000_000)] = 2048

    @property
    def wanted(self) -> bool:
        """Whether requests are to be traced."""
        named = self.otel_exporter_otlp_endpoint or self.otel_exporter_otlp_traces_endpoint
        return named is not None and self.otel_traces_exporter != "none" and not self.otel_sdk_disabled


class LogSettings(_Settings):
    """`LOG_LEVEL`: debug, info, warning or error. `ATHENA_LOG_CONTENT`: whether prompts and answers are logged, never
    (`off`) or `redacted`; as they are, in no case.
    """

    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    athena_log_content: Annotated[str, Field(pattern="^(off|redacted)$")] = "off"
