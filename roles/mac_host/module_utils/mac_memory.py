"""What models take of a Mac's memory that the GPU may hold: arithmetic alone, no I/O.

Where models are given more than the kernel lets the GPU wire, allocations fail, and where that limit leaves macOS too
little the machine panics. So each figure here is an upper bound. Sizes are bytes, and MiB where a name says so, since
`iogpu.wired_limit_mb` counts those.

Where the figures come from:

- Keys and values: `2 x layers x kv_heads x head_dim` elements a token; `KVCache` of mlx_lm and the KV cache of
  llama.cpp, which Ollama runs, hold just that. A sliding window makes a layer hold less, and latent attention
  (DeepSeek) far less: neither is taken into account. `kv_bytes_per_token` says it where that refuses too much.
- `STEP`: mlx_lm's `KVCache.step`, 256; Ollama pads a context likewise.
- `ELEMENT_BYTES`: 16 bits, also where `OLLAMA_KV_CACHE_TYPE` says less. Ollama takes that with flash attention alone,
  and goes back to 16 bits by itself, with a warning in its log, for each model that flash attention is not for: one
  that only embeds, one whose keys and values are of different length, an architecture that it does not know there. Of
  a model that was seen to take it `kv_bytes_per_token` says it. A server of mlx that the role mlx starts keeps 16 bits.
- Requests at once, of mlx: `BatchGenerator` of mlx_lm generates for as many as `--decode-concurrency` says, and never
  for fewer than `--prompt-concurrency` (32 and 8 where nobody sets them). Below that it takes in prompts until
  `--prompt-concurrency` of them are being read, however few places are left: the most is a full batch but one, and as
  many prompts. With a model that drafts it serves one at a time.
- Requests at once, of Ollama: `OLLAMA_NUM_PARALLEL` (1) for every model, each with the whole context: that is what it
  allocates when it loads a model. The context is `OLLAMA_CONTEXT_LENGTH`, or what a caller asks for. Where that is not
  set it follows from the GPU's memory, from 47 GiB on 262144 tokens: so it has to be set.
- `LOADED`: Ollama has so many models loaded for each GPU, of which a Mac has one, where nobody sets
  `OLLAMA_MAX_LOADED_MODELS`. It unloads one before it loads another: the largest count.
- `PROMPT_CACHES`: `--prompt-cache-size` of `mlx_lm.server` is 10, and `--prompt-cache-bytes` has no default: ten whole
  contexts may stay. Ollama keeps prompts in the KV cache itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MIB = 1 << 20
STEP = 256
ELEMENT_BYTES = 2
CACHE_TYPES = ("f16", "q8_0", "q4_0")
# What Go reads as false. Ollama takes whatever it cannot read for true.
OFF = ("", "0", "f", "F", "false", "False", "FALSE")
DECODED, READ = 32, 8
PROMPT_CACHES = 10
LOADED = 3
SHAPE = ("layers", "kv_heads", "head_dim")
OF_MLX = ("decode_concurrency", "prompt_concurrency", "prompt_cache_size", "prompt_cache_bytes")
NUMBERS = {
    engine: ("weights_bytes", "kv_bytes_per_token", *SHAPE, "value_dim", "context_tokens", *more)
    for engine, more in (("mlx", OF_MLX), ("ollama", ()))
}
SOURCES = ("folder", "ollama_url", "ollama_model")
MAY_BE_ZERO = ("prompt_cache_bytes",)
# What is said elsewhere of a model.
INSTEAD = {
    ("mlx", "parallel"): "; how many it has at once is decode_concurrency and prompt_concurrency",
    ("ollama", "parallel"): "; how many it has at once is OLLAMA_NUM_PARALLEL of mac_host_ollama_settings",
    ("ollama", "kv_bits"): "; that is OLLAMA_KV_CACHE_TYPE of mac_host_ollama_settings",
}
SETTINGS = ("OLLAMA_NUM_PARALLEL", "OLLAMA_CONTEXT_LENGTH", "OLLAMA_MAX_LOADED_MODELS")


class FiguresError(Exception):
    """What was read of a model does not say what it needs."""


@dataclass(frozen=True)
class Ollama:
    """What an Ollama does for every model: requests at once, and tokens of each; and models at once."""

    parallel: int = 1
    context_tokens: int = 0
    loaded: int = LOADED


def ollama_of(settings: Mapping[str, Any]) -> Ollama:
    """Return what Ollama does by settings that have no problems. It takes 0 for a default of its own, too."""
    numbers = {name: int(settings.get(name) or 0) for name in SETTINGS}
    return Ollama(
        parallel=numbers["OLLAMA_NUM_PARALLEL"] or 1,
        context_tokens=numbers["OLLAMA_CONTEXT_LENGTH"],
        loaded=numbers["OLLAMA_MAX_LOADED_MODELS"] or LOADED,
    )


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


def problems(models: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with models and Ollama's settings, one line for each fault, with what belongs there."""
    found = [fault for place, model in enumerate(models) for fault in _faults(model, place)]
    return found + (_faults_of(settings) if any(model.get("engine") == "ollama" for model in models) else [])


def _faults_of(settings: Mapping[str, Any]) -> list[str]:
    where = "mac_host_ollama_settings"
    faults = [
        f"{where}: {name} must be a whole number; it is {settings[name]!r}"
        for name in SETTINGS
        if isinstance(settings.get(name), bool) or not str(settings.get(name, 0)).isdecimal()
    ]
    faults += _faults_of_cache(settings, where)
    if settings.get("OLLAMA_CONTEXT_LENGTH", 0) in (0, "0"):
        faults.append(
            f"{where} has no OLLAMA_CONTEXT_LENGTH, and by itself Ollama may take a context of 262144 tokens for every"
            " request of a model; set it, here and for Ollama, to the longest prompt with its reply"
        )
    return faults


def _faults_of_cache(settings: Mapping[str, Any], where: str) -> list[str]:
    kind = settings.get("OLLAMA_KV_CACHE_TYPE", "f16")
    if kind not in CACHE_TYPES:
        return [f"{where}: OLLAMA_KV_CACHE_TYPE must be one of {', '.join(CACHE_TYPES)}; it is {kind!r}"]
    has_flash_attention = str(settings.get("OLLAMA_FLASH_ATTENTION", "")).strip(" \"'") not in OFF
    if kind == "f16" or has_flash_attention:
        return []
    ignored = f"{where}: OLLAMA_KV_CACHE_TYPE is {kind}, which Ollama ignores without flash attention"
    return [f"{ignored}; set OLLAMA_FLASH_ATTENTION to true, or leave OLLAMA_KV_CACHE_TYPE out"]


def _faults(model: Mapping[str, Any], place: int) -> list[str]:
    where = f"mac_host_models: {model.get('name') or f'the entry at {place}'}"
    faults = [] if model.get("name") else [f"{where} has no name"]
    engine = model.get("engine")
    if engine not in NUMBERS:
        return [*faults, f"{where}: engine must be mlx or ollama; it is {engine or 'not set'}"]
    known = {"name", "engine", *NUMBERS[engine], *SOURCES}
    faults += [
        f"{where}: there is no field {field} for {engine}{INSTEAD.get((engine, field), '')}"
        for field in sorted(set(model) - known)
        if model[field] is not None
    ]
    for field in NUMBERS[engine]:
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
    """Return what one token of a context takes: as declared, or by the model's shape."""
    declared = model.get("kv_bytes_per_token")
    if declared is not None:
        return int(declared)
    width = model["head_dim"] + (model.get("value_dim") or model["head_dim"])
    return int(model["layers"] * model["kv_heads"] * width * ELEMENT_BYTES)


def at_once(model: Mapping[str, Any]) -> tuple[int, int]:
    """Return for how many a server of mlx generates at the most, and how many prompts it reads besides."""
    read = model.get("prompt_concurrency") or READ
    return max(model.get("decode_concurrency") or DECODED, read), read - 1


def demand(model: Mapping[str, Any], ollama: Ollama) -> Demand:
    """Return what a model takes whose declaration has no problems and whose figures are known."""
    return _of_ollama(model, ollama) if model["engine"] == "ollama" else _of_mlx(model)


def _of_ollama(model: Mapping[str, Any], ollama: Ollama) -> Demand:
    each = bytes_per_token(model)
    context = _padded(max(model["context_tokens"], ollama.context_tokens))
    return Demand(
        name=model["name"],
        engine="ollama",
        weights_mib=_mib(model["weights_bytes"]),
        kv_mib=_mib(each * context * ollama.parallel),
        kv_words=f"{each} B x {context} x {ollama.parallel}",
        prompt_cache_mib=0,
    )


def _of_mlx(model: Mapping[str, Any]) -> Demand:
    each, context = bytes_per_token(model), _padded(model["context_tokens"])
    generating, reading = at_once(model)
    prompt_cache = model.get("prompt_cache_bytes")
    if prompt_cache is None:
        prompt_cache = (model.get("prompt_cache_size") or PROMPT_CACHES) * context * each
    return Demand(
        name=model["name"],
        engine="mlx",
        weights_mib=_mib(model["weights_bytes"]),
        kv_mib=_mib(each * context * (generating + reading)),
        kv_words=f"{each} B x {context} x {f'({generating} + {reading})' if reading else generating}",
        prompt_cache_mib=_mib(prompt_cache),
    )


def _padded(tokens: int) -> int:
    return -(-tokens // STEP) * STEP


def _mib(size: int) -> int:
    return -(-size // MIB)


def unloaded(demands: Sequence[Demand], ollama: Ollama) -> list[Demand]:
    """Return the models of Ollama that are not loaded beside the others: the smallest of more than it holds."""
    of_ollama = sorted((one for one in demands if one.engine == "ollama"), key=lambda one: -one.total_mib)
    return of_ollama[ollama.loaded :]


def needed_mib(demands: Sequence[Demand], headroom_mib: int, ollama: Ollama) -> int:
    """Return what they take at once; nothing where there is no model."""
    away = sum(one.total_mib for one in unloaded(demands, ollama))
    return sum(one.total_mib for one in demands) - away + headroom_mib if demands else 0


def table(demands: Sequence[Demand], headroom_mib: int, limit_mib: int, limit_words: str, ollama: Ollama) -> str:
    """Return the arithmetic for a person: a line for each model, and what it comes to beside the limit."""
    head = ("model", "engine", "weights", "KV cache: a token x context x at once", "MiB", "prompt cache", "all, MiB")
    rows = [
        (
            *(one.name, one.engine, str(one.weights_mib), one.kv_words, str(one.kv_mib)),
            *(str(one.prompt_cache_mib), str(one.total_mib)),
        )
        for one in demands
    ]
    needed = needed_mib(demands, headroom_mib, ollama)
    left = limit_mib - needed
    away = unloaded(demands, ollama)
    loaded_words = f"the {ollama.loaded} largest: OLLAMA_MAX_LOADED_MODELS"
    sums = [
        *(
            [("not loaded", "ollama", "", loaded_words, "", "", f"-{sum(one.total_mib for one in away)}")]
            if away
            else []
        ),
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
