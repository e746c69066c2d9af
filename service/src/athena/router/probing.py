"""What to ask an engine to learn whether it lives, and what its answers mean. Pure but for `Asker`, which asks."""

from datetime import UTC, datetime
from enum import Enum
from http import HTTPStatus

import msgspec

from athena.router.engines.mlx import MODEL as MLX_MODEL
from athena.router.errors import BackendError
from athena.router.types import BackendType
from athena.router.upstream import Reply, UpstreamClient

PROBE_PROMPT = "Hi"  # an empty one ends mlx_lm.server's generation thread, and loads or unloads a model of Ollama's
IN_MEMORY, ON_DISK = "/api/ps", "/api/tags"  # where Ollama lists its models
_PATHS = {BackendType.OLLAMA: "/api/version", BackendType.MLX: "/health", BackendType.OPENAI: "/v1/models"}
_FORGOTTEN_SOON = 2.0  # seconds; a model that is unloaded so soon is not asked any more
_FOR_EVER = 365 * 86400.0  # seconds; what Ollama keeps for longer it was told to keep for ever


class Proof(Enum):
    """What an answer to a generation shows."""

    GENERATES = "generates"
    NOTHING = "nothing"  # that it answers: it has too much to do, lacks the model, or takes no such request
    FAILS = "fails"


class Loaded(msgspec.Struct, frozen=True):
    """A model that an Ollama holds in memory, as far as a probe has to leave it as it is."""

    name: str
    expires_at: datetime | None = None
    context_length: int | None = None


class _Processes(msgspec.Struct):
    models: list[Loaded] = []


def is_alive(engine: BackendType, status: int) -> bool:
    """Whether this status of the cheap question is one of a sound engine: any, but mlx_lm.server's of a dead thread."""
    return not (engine is BackendType.MLX and status >= HTTPStatus.INTERNAL_SERVER_ERROR)


def find(model: str, loaded: list[Loaded]) -> Loaded | None:
    """Return the entry of a model, by the name that Ollama completes."""
    full = model if ":" in model.rpartition("/")[2] else f"{model}:latest"
    return next((one for one in loaded if one.name == full), None)


def keep_alive(loaded: Loaded, now: datetime) -> float | None:
    """Return the `keep_alive` that leaves a model's end as it is, in seconds; None where it is too near to ask."""
    if loaded.expires_at is None:
        return None
    left = (loaded.expires_at - now).total_seconds()
    if left > _FOR_EVER:
        return -1.0
    return left if left > _FORGOTTEN_SOON else None


def generation(engine: BackendType, model: str, loaded: Loaded | None, now: datetime) -> tuple[str, bytes]:
    """Return the path and the body that ask for one token; those for a loaded model leave it as it is."""
    if engine is BackendType.OLLAMA:
        options: dict[str, float] = {"num_predict": 1, "temperature": 0}
        body: dict[str, object] = {"model": model, "prompt": PROBE_PROMPT, "stream": False, "options": options}
        if loaded is not None:
            if loaded.context_length:
                options["num_ctx"] = loaded.context_length  # another one would load the model anew
            kept = keep_alive(loaded, now)
            if kept is not None:
                body["keep_alive"] = round(kept)
        return "/api/generate", msgspec.json.encode(body)
    body = {
        "model": MLX_MODEL if engine is BackendType.MLX else model,
        "messages": [{"role": "user", "content": PROBE_PROMPT}],
        "max_tokens": 1,
        "temperature": 0,
        # Only for a stream does mlx_lm.server notice that nobody waits any more.
        "stream": engine is BackendType.MLX,
    }
    return "/v1/chat/completions", msgspec.json.encode(body)


def proof(engine: BackendType, status: int, body: bytes) -> Proof:
    """Return what an answer to `generation` shows."""
    if status == HTTPStatus.OK:
        whole = b"[DONE]" in body if engine is BackendType.MLX else bool(body) and not body.startswith(b'{"error"')
        return Proof.GENERATES if whole else Proof.FAILS
    if engine is BackendType.MLX:
        return Proof.FAILS if status in _MLX_FAILS or status >= HTTPStatus.INTERNAL_SERVER_ERROR else Proof.NOTHING
    busy = status == HTTPStatus.SERVICE_UNAVAILABLE
    return Proof.FAILS if status >= HTTPStatus.INTERNAL_SERVER_ERROR and not busy else Proof.NOTHING


_MLX_FAILS = (HTTPStatus.NOT_FOUND,)


class Asker:
    """Asks engines over connections of its own, so that no live request holds a probe up."""

    def __init__(self, upstream: UpstreamClient, *, check_seconds: float, generate_seconds: float) -> None:
        self._upstream = upstream
        self._check_seconds = check_seconds
        self._generate_seconds = generate_seconds

    async def answers(self, engine: BackendType, endpoint_url: str) -> bool:
        """Whether the engine answers the cheap question in time."""
        try:
            reply = await self._upstream.get(endpoint_url + _PATHS[engine], within=self._check_seconds)
        except BackendError:
            return False
        return is_alive(engine, reply.status)

    async def loaded(self, endpoint_url: str) -> list[Loaded] | None:
        """Return the models that an Ollama holds in memory; None where it does not say."""
        try:
            return await self.models(endpoint_url + IN_MEMORY)
        except BackendError:
            return None

    async def models(self, url: str) -> list[Loaded] | None:
        """Return what an Ollama lists at IN_MEMORY or ON_DISK; None where the answer is no list.

        Raises BackendError where there is no answer in time.
        """
        return _models(await self._upstream.get(url, within=self._check_seconds))

    async def generates(self, engine: BackendType, endpoint_url: str, model: str, loaded: Loaded | None) -> Proof:
        """Ask for one token."""
        try:
            reply = await self.generate(engine, endpoint_url, model, loaded)
        except BackendError:
            return Proof.FAILS
        return proof(engine, reply.status, reply.body)

    async def generate(self, engine: BackendType, endpoint_url: str, model: str, loaded: Loaded | None) -> Reply:
        """Ask for one token, and return the answer, whatever it is; raises BackendError where none comes in time."""
        path, body = generation(engine, model, loaded, datetime.now(UTC))
        return await self._upstream.post(endpoint_url + path, body, within=self._generate_seconds)


def _models(reply: Reply) -> list[Loaded] | None:
    if reply.status != HTTPStatus.OK:
        return None
    try:
        return msgspec.json.decode(reply.body, type=_Processes).models
    except msgspec.MsgspecError:
        return None
