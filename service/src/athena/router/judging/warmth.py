"""How warm a host is for a prompt: whether its model is in memory, and how many prompts it keeps."""

from enum import IntEnum

from athena.router.types import BackendType

LOAD_SECONDS = 5.0
"""How long a model is thought to take to load until one was seen: about 4 GB at the 0.8 GB/s of a Mac mini."""
REAL_LOAD_SECONDS = 0.5
"""Ollama tells some tens of milliseconds of loading with every reply; only what takes so long was a load."""
_KEPT_BY_MLX = 10  # `--prompt-cache-size` of mlx_lm.server
_KEPT_BY_OTHERS = 64  # servers with a cache of blocks keep what their memory holds


class Residence(IntEnum):
    """Whether a model is in an engine's memory, as far as is known."""

    UNKNOWN = 0
    LOADED = 1
    AWAY = 2


def load_seconds(state: Residence, seen: float) -> float:
    """Return how long a prompt is to wait for its model; `seen` is how long loads took here, 0 where none was seen."""
    if state is not Residence.AWAY:
        return 0.0
    return seen if seen > 0 else LOAD_SECONDS


def kept_prompts(engine: BackendType, slots: int) -> int:
    """Return how many of the last prompts an engine need not read again; Ollama keeps one for each of its slots."""
    if engine is BackendType.OLLAMA:
        return slots
    return _KEPT_BY_MLX if engine is BackendType.MLX else _KEPT_BY_OTHERS
