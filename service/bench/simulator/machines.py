"""The machines of the simulation: speeds, sizes and habits of engines, each with where it was measured."""

from collections.abc import Sequence

import msgspec

from athena.router.types import BackendType

# Tokens a second that an engine writes with so many replies at once, as a multiple of what it writes with one.
# MLX: 78.4, 96.9, 139.9, 180.2 tokens/s with 1, 2, 4, 8 on a Mac Studio M4 Max (github.com/jundot/omlx/issues/1783),
# whose scheduler batches as mlx_lm.server's does; beyond 8 nothing is assumed to be gained.
MLX_GAIN = ((1, 1.0), (2, 1.24), (4, 1.78), (8, 2.30))
# Ollama and llama.cpp gained nothing by two and four at once on Apple silicon
# (jaesolshin.com/posts/apple-silicon-llm-backends).
OLLAMA_GAIN = ((1, 1.0),)
# Reading of prompts: 914 tokens/s alone, 1085 with eight at once (the same issue): shared, with no gain to speak of.

LOAD_BYTES_A_SECOND = 0.8e9
"""Ollama loads 0.7 to 0.92 GB/s on an M3 Max and an M2 Ultra (github.com/ollama/ollama/issues/5923)."""

OLLAMA_FIRST_SECONDS = 0.27
"""What Ollama adds to the first token: 470 ms where llama.cpp beneath it has 196 (jaesolshin.com, as above)."""
MLX_FIRST_SECONDS = 0.10
"""mlx_lm.server: a new connection for each request and HTTP/1.0 (ENGINES.md); the figure is an assumption."""

OLLAMA_KEEP_ALIVE_SECONDS = 300.0
"""Ollama's own default, after which an idle model is unloaded."""
MLX_PROMPT_CACHE = 10
"""Entries of mlx_lm.server's prompt cache (`--prompt-cache-size`, 0.32.2)."""
OLLAMA_PROMPT_CACHE = 1
"""Ollama keeps the prompt of each of its slots, of which `OLLAMA_NUM_PARALLEL` has one (0.33)."""

MOVED_AFTER_SECONDS = 1.14
"""How long a prompt waits at an engine that hangs until the router moves it: 1136 ms at most in docs/performance.md."""
CUT_AFTER_SECONDS = 10.0
"""How long a stream is silent until the router gives it up (`Periods.cut_after`)."""
BACK_AFTER_SECONDS = 1.0
"""How long a probe takes to find that an engine generates again (`Periods.trial_every`)."""


class Speed(msgspec.Struct, frozen=True):
    """How fast one machine runs one model, alone: tokens of prompt read and tokens of reply written a second."""

    read: float
    write: float
    size: float  # bytes that it takes in memory


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """One engine on a Mac of its own. `memory` are the bytes that its models may take together."""

    name: str
    engine: BackendType
    speeds: dict[str, Speed]
    memory: float = 1e12
    first: float
    gain: Sequence[tuple[int, float]]
    prompt_cache: int
    keep_alive: float | None = None

    @property
    def url(self) -> str:
        """Its address, for the registry's rows."""
        return f"http://{self.name}.example.internal"


def ollama(name: str, speeds: dict[str, Speed], *, memory: float = 1e12) -> Machine:
    """Return an Ollama with its habits."""
    return Machine(
        name=name,
        engine=BackendType.OLLAMA,
        speeds=speeds,
        memory=memory,
        first=OLLAMA_FIRST_SECONDS,
        gain=OLLAMA_GAIN,
        prompt_cache=OLLAMA_PROMPT_CACHE,
        keep_alive=OLLAMA_KEEP_ALIVE_SECONDS,
    )


def mlx(name: str, speeds: dict[str, Speed]) -> Machine:
    """Return an mlx_lm.server with its habits; its one model is loaded as long as it lives."""
    return Machine(
        name=name,
        engine=BackendType.MLX,
        speeds=speeds,
        first=MLX_FIRST_SECONDS,
        gain=MLX_GAIN,
        prompt_cache=MLX_PROMPT_CACHE,
    )


# One model of 4 billion parameters in 4 bits on a Mac mini M4, by both engines, one source, one machine
# (jitesh.dev/blog/qwen35-apple-silicon-benchmark.html): MLX writes twice as fast and reads more slowly.
MINI_MLX_4B = Speed(112.0, 39.0, 2.7e9)
MINI_OLLAMA_4B = Speed(133.0, 19.0, 2.7e9)
# Mac mini M4, llama3.1 8B and llama3.2 3B (github.com/brand-o/normiebench/issues/3, geerlingguy/ai-benchmarks/issues/2;
# the 3B's reading is the 8B's by their numbers of parameters).
MINI_OLLAMA_8B = Speed(225.0, 20.9, 4.9e9)
MINI_OLLAMA_3B = Speed(560.0, 41.0, 2.0e9)
# M2 Ultra, 7B in 4 bits (ggml-org/llama.cpp, pull request 3084 for reading, discussion 4167 for writing; the 3B by the
# same ratio as above).
ULTRA_OLLAMA_8B = Speed(1164.0, 94.0, 4.9e9)
ULTRA_OLLAMA_3B = Speed(2900.0, 184.0, 2.0e9)
