"""What models take of a Mac's memory that the GPU may hold: arithmetic alone, no I/O.

Where models are given more than the kernel lets the GPU wire, allocations fail, and where that limit leaves macOS too
little the machine panics. So each figure here is an upper bound. Sizes are bytes, and MiB where a name says so, since
`iogpu.wired_limit_mb` counts those.

Where the figures come from:

- Keys and values: `2 x layers x kv_heads x head_dim` elements a token; `KVCache` of mlx_lm and the KV cache of
  llama.cpp, which Ollama runs, hold just that. A sliding window makes a layer hold less, and latent attention
  (DeepSeek) far less: neither is taken into account. `kv_bytes_per_token` says it where that refuses too much.
- `STEP`: mlx_lm's `KVCache.step`, 256; Ollama pads a context likewise.
- `QUANTIZED_EXTRA_BITS`: mlx_lm quantizes in groups of 64, with a scale and a bias of 16 bits for each; llama.cpp's
  q8_0 and q4_0 have a scale of 16 bits for 32. Both are half a bit an element.
- `PARALLEL`: `--decode-concurrency` of `mlx_lm.server` is 32, `OLLAMA_NUM_PARALLEL` is 1 where nobody sets them.
- `PROMPT_CACHES`: `--prompt-cache-size` of `mlx_lm.server` is 10, and `--prompt-cache-bytes` has no default: ten whole
  contexts may stay. Ollama keeps prompts in the KV cache itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MIB = 1 << 20
STEP = 256
QUANTIZED_EXTRA_BITS = 0.5
FULL_BITS = 16
PARALLEL = {"mlx": 32, "ollama": 1}
PROMPT_CACHES = {"mlx": 10, "ollama": 0}
SHAPE = ("layers", "kv_heads", "head_dim")
NUMBERS = (
    *("weights_bytes", "kv_bytes_per_token", *SHAPE, "value_dim", "kv_bits"),
    *("context_tokens", "parallel", "prompt_cache_size", "prompt_cache_bytes"),
)
SOURCES = ("folder", "ollama_url", "ollama_model")
MAY_BE_ZERO = ("prompt_cache_bytes",)


class FiguresError(Exception):
    """What was read of a model does not say what it needs."""


@dataclass(frozen=True)
class Demand:
    """What one model takes, in MiB, each part rounded up, so that the parts of a table add up to its total."""

    name: str
    engine: str
    weights_mib: int
    kv_mib: int
    kv_words: str
    prompt_cache_mib: int

    @property
    def total_mib(self) -> int:
        """All of it."""
        return self.weights_mib + self.kv_mib + self.prompt_cache_mib


def problems(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with a declaration, one line for each fault, with what belongs there."""
    return [fault for place, model in enumerate(models) for fault in _faults(model, place)]


def _faults(model: Mapping[str, Any], place: int) -> list[str]:
    where = f"mac_host_models: {model.get('name') or f'the entry at {place}'}"
    faults = [] if model.get("name") else [f"{where} has no name"]
    if model.get("engine") not in PARALLEL:
        faults.append(f"{where}: engine must be mlx or ollama; it is {model.get('engine', 'not set')}")
    known = {"name", "engine", *NUMBERS, *SOURCES}
    faults += [f"{where}: there is no field {field}" for field in sorted(set(model) - known)]
    for field in NUMBERS:
        value, least = model.get(field), 0 if field in MAY_BE_ZERO else 1
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            faults.append(f"{where}: {field} must be a whole number of at least {least}; it is {value!r}")
    if model.get("folder") and model.get("ollama_url"):
        faults.append(f"{where}: folder and ollama_url both say where its figures are; leave one out")
    is_read = model.get("folder") or model.get("ollama_url")
    if model.get("context_tokens") is None:
        faults.append(f"{where}: context_tokens is not set; it is the longest prompt with its reply")
    if not is_read and model.get("weights_bytes") is None:
        faults.append(f"{where}: weights_bytes is not set; or name its folder, or the ollama_url that has it")
    missing = [field for field in SHAPE if model.get(field) is None]
    if not is_read and model.get("kv_bytes_per_token") is None and missing:
        faults.append(f"{where}: set kv_bytes_per_token, or all of {', '.join(SHAPE)}; {', '.join(missing)} not set")
    return faults


def from_config(config: Mapping[str, Any]) -> dict[str, int]:
    """Return layers, kv_heads and head_dim of a model's `config.json`, as mlx_lm's models read them.

    A model of several parts has its language model's under `text_config`. Raises FiguresError where one is missing.
    """
    text = {**config, **config.get("text_config", {})}
    heads = _first(text, "num_attention_heads")
    head_dim = text.get("head_dim")
    if head_dim is None:
        head_dim = -(-_first(text, "hidden_size") // heads)
    return {
        "layers": _first(text, "num_hidden_layers"),
        "kv_heads": text.get("num_key_value_heads") or heads,
        "head_dim": int(head_dim),
    }


def from_model_info(info: Mapping[str, Any]) -> dict[str, int]:
    """Return the same of the `model_info` of Ollama's `/api/show`, which are the keys of a GGUF file.

    Keys and values may be of different length there. Of a figure for each layer the largest counts for all.
    Raises FiguresError where one is missing.
    """
    family = str(info.get("general.architecture", ""))
    short = {key.removeprefix(f"{family}."): value for key, value in info.items()}
    heads = _largest(_first(short, "attention.head_count"))
    head_dim = short.get("attention.key_length")
    if head_dim is None:
        head_dim = -(-_first(short, "embedding_length") // heads)
    return {
        "layers": _first(short, "block_count"),
        "kv_heads": _largest(short.get("attention.head_count_kv")) or heads,
        "head_dim": int(head_dim),
        "value_dim": int(short.get("attention.value_length") or head_dim),
    }


def _first(figures: Mapping[str, Any], name: str) -> Any:
    if not figures.get(name):
        raise FiguresError(f"it has no {name}")
    return figures[name]


def _largest(value: Any) -> int:
    return max(value, default=0) if isinstance(value, list) else int(value or 0)


def bytes_per_token(model: Mapping[str, Any]) -> int:
    """Return what one token of a context takes, rounded up: as declared, or by the model's shape."""
    declared = model.get("kv_bytes_per_token")
    if declared is not None:
        return int(declared)
    bits = model.get("kv_bits") or FULL_BITS
    width = model["head_dim"] + (model.get("value_dim") or model["head_dim"])
    elements = model["layers"] * model["kv_heads"] * width
    halves = int(2 * (bits + (QUANTIZED_EXTRA_BITS if bits < FULL_BITS else 0)))
    return int(-(-elements * halves // 16))


def demand(model: Mapping[str, Any]) -> Demand:
    """Return what a model takes whose declaration has no problems and whose figures are known."""
    engine, each = model["engine"], bytes_per_token(model)
    context = -(-model["context_tokens"] // STEP) * STEP
    parallel = model.get("parallel") or PARALLEL[engine]
    prompt_cache = model.get("prompt_cache_bytes")
    if prompt_cache is None:
        prompt_cache = (model.get("prompt_cache_size") or PROMPT_CACHES[engine]) * context * each
    return Demand(
        name=model["name"],
        engine=engine,
        weights_mib=_mib(model["weights_bytes"]),
        kv_mib=_mib(each * context * parallel),
        kv_words=f"{each} B x {context} x {parallel}",
        prompt_cache_mib=_mib(prompt_cache),
    )


def _mib(size: int) -> int:
    return -(-size // MIB)


def needed_mib(demands: Sequence[Demand], headroom_mib: int) -> int:
    """Return what all of them take together; nothing where there is no model."""
    return sum(one.total_mib for one in demands) + headroom_mib if demands else 0


def table(demands: Sequence[Demand], headroom_mib: int, limit_mib: int, limit_words: str) -> str:
    """Return the arithmetic for a person: a line for each model, and what it comes to beside the limit."""
    head = ("model", "engine", "weights", "KV cache: a token x context x at once", "MiB", "prompt cache", "all, MiB")
    rows = [
        (
            *(one.name, one.engine, str(one.weights_mib), one.kv_words, str(one.kv_mib)),
            *(str(one.prompt_cache_mib), str(one.total_mib)),
        )
        for one in demands
    ]
    needed = needed_mib(demands, headroom_mib)
    left = limit_mib - needed
    sums = [
        ("headroom", "", "", "", "", "", str(headroom_mib if demands else 0)),
        ("needed", "", "", "", "", "", str(needed)),
        ("wired limit", "", "", limit_words, "", "", str(limit_mib)),
        ("left" if left >= 0 else "too much", "", "", "", "", "", str(abs(left))),
    ]
    widths = [max(len(row[column]) for row in [head, *rows, *sums]) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, 1, 3) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows, *sums]
    )
