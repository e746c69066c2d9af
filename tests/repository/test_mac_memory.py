"""What models take of a Mac's memory, and what is refused: by thousands of declarations, and by known models."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loading import load

memory = load("roles/mac_host/module_utils/mac_memory.py")
GIB = 1 << 30
LLAMA_8B = {"layers": 32, "kv_heads": 8, "head_dim": 128}
MODEL: dict[str, Any] = {
    "name": "llama",
    "engine": "ollama",
    "weights_bytes": 5 * GIB,
    **LLAMA_8B,
    "context_tokens": 8192,
}
models = st.fixed_dictionaries(
    {
        "name": st.text("abc-", min_size=1, max_size=12),
        "engine": st.sampled_from(["mlx", "ollama"]),
        "weights_bytes": st.integers(1, 200 * GIB),
        "layers": st.integers(1, 130),
        "kv_heads": st.integers(1, 64),
        "head_dim": st.integers(1, 512),
        "context_tokens": st.integers(1, 1_000_000),
    },
    optional={
        "value_dim": st.integers(1, 512),
        "kv_bits": st.sampled_from([4, 8, 16]),
        "parallel": st.integers(1, 64),
        "prompt_cache_bytes": st.integers(0, 100 * GIB),
        "kv_bytes_per_token": st.integers(1, 1_000_000),
    },
)


def needed(*declared: dict[str, Any], headroom: int = 0) -> int:
    total: int = memory.needed_mib([memory.demand(model) for model in declared], headroom)
    return total


@given(st.lists(models, max_size=6), models, st.integers(0, 4096))
def test_one_model_more_never_takes_less(others: list[dict[str, Any]], model: dict[str, Any], headroom: int) -> None:
    assert needed(*others, model, headroom=headroom) > needed(*others, headroom=headroom)


@given(models, st.sampled_from(["weights_bytes", "context_tokens", "parallel"]), st.integers(1, 100_000))
def test_more_of_anything_never_takes_less(model: dict[str, Any], field: str, more: int) -> None:
    before = {"parallel": 1, **model}
    assert needed({**before, field: before[field] + more}) >= needed(before)


@given(models)
def test_fewer_bits_never_take_more(model: dict[str, Any]) -> None:
    shaped = {name: value for name, value in model.items() if name != "kv_bytes_per_token"}
    four, eight, full = (memory.bytes_per_token({**shaped, "kv_bits": bits}) for bits in (4, 8, 16))
    assert four <= eight <= full


@given(st.lists(models, min_size=1, max_size=6), st.integers(0, 4096), st.integers(1, 500_000))
def test_the_table_adds_up(declared: list[dict[str, Any]], headroom: int, limit: int) -> None:
    demands = [memory.demand(model) for model in declared]
    rows = [line.split() for line in memory.table(demands, headroom, limit, "words").splitlines()[1:]]
    of_models, kept, total, bound, left = rows[:-4], rows[-4], rows[-3], rows[-2], rows[-1]
    # name, engine, weights, `B B x context x at once`, KV, prompt cache, all
    for row in of_models:
        assert int(row[2]) + int(row[-3]) + int(row[-2]) == int(row[-1])
    assert sum(int(row[-1]) for row in [*of_models, kept]) == int(total[-1]) == needed(*declared, headroom=headroom)
    assert int(bound[-1]) == limit
    is_too_much = left[0] == "too"
    assert int(left[-1]) == (int(total[-1]) - limit) * (1 if is_too_much else -1)


@given(models)
def test_what_is_declared_in_full_has_no_problems(model: dict[str, Any]) -> None:
    assert memory.problems([model]) == []


def test_a_model_whose_figures_are_known_takes_what_they_say() -> None:
    # 2 x 32 x 8 x 128 x 2 bytes = 128 KiB a token, as llama.cpp and mlx_lm say of Llama 3.1 8B.
    assert memory.bytes_per_token(MODEL) == 128 * 1024
    assert needed(MODEL) == 5 * 1024 + 1024
    assert needed({**MODEL, "context_tokens": 8193}) == 5 * 1024 + 1024 + 32
    assert needed({**MODEL, "parallel": 4}) == 5 * 1024 + 4 * 1024


def test_what_mlx_does_where_nobody_says_otherwise_is_counted() -> None:
    mlx = {**MODEL, "engine": "mlx"}
    assert needed(mlx) == 5 * 1024 + 32 * 1024 + 10 * 1024
    assert needed({**mlx, "parallel": 4, "prompt_cache_bytes": 2 * GIB}) == 5 * 1024 + 4 * 1024 + 2 * 1024
    assert needed({**mlx, "parallel": 4, "prompt_cache_bytes": 0}) == 5 * 1024 + 4 * 1024
    twenty = needed({**mlx, "parallel": 4, "prompt_cache_size": 20})
    assert twenty - needed({**mlx, "parallel": 4}) == needed({**mlx, "parallel": 14}) - needed({**mlx, "parallel": 4})


def test_quantized_keys_and_values_carry_their_scales() -> None:
    assert memory.bytes_per_token({**MODEL, "kv_bits": 8}) == 2 * 32 * 8 * 128 * 8.5 / 8
    assert memory.bytes_per_token({**MODEL, "kv_bits": 4}) == 2 * 32 * 8 * 128 * 4.5 / 8


def test_nothing_is_kept_free_where_there_is_no_model() -> None:
    assert memory.needed_mib([], 2048) == 0


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}, (32, 8, 128)),
        (
            {"num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "hidden_size": 896},
            (24, 2, 64),
        ),
        ({"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "head_dim": None}, (2, 4, 16)),
        (
            {
                "model_type": "gemma3",
                "text_config": {
                    "num_hidden_layers": 34,
                    "num_attention_heads": 8,
                    "num_key_value_heads": 4,
                    "head_dim": 256,
                },
            },
            (34, 4, 256),
        ),
    ],
    ids=["llama", "qwen2", "without groups", "of several parts"],
)
def test_a_models_configuration_has_its_shape(config: dict[str, Any], shape: tuple[int, int, int]) -> None:
    assert tuple(memory.from_config(config).values()) == shape


def test_what_ollama_shows_has_its_shape() -> None:
    info = {
        "general.architecture": "llama",
        "llama.block_count": 32,
        "llama.attention.head_count": 32,
        "llama.attention.head_count_kv": 8,
        "llama.embedding_length": 4096,
    }
    assert memory.from_model_info(info) == {"layers": 32, "kv_heads": 8, "head_dim": 128, "value_dim": 128}
    lengths = {"llama.attention.key_length": 192, "llama.attention.value_length": 128}
    assert memory.from_model_info({**info, **lengths})["value_dim"] == 128
    assert memory.from_model_info({**info, "llama.attention.head_count_kv": [0, 4, 8]})["kv_heads"] == 8


@pytest.mark.parametrize("read", [memory.from_config, memory.from_model_info])
def test_a_model_that_does_not_tell_its_shape_is_refused(read: Any) -> None:
    with pytest.raises(memory.FiguresError, match="it has no "):
        read({})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "the entry at 0 has no name"),
        ({"engine": "vllm"}, "engine must be mlx or ollama; it is vllm"),
        ({"weights_bytes": None}, "weights_bytes is not set; or name its folder"),
        ({"weights_bytes": "5 GB"}, "weights_bytes must be a whole number of at least 1; it is '5 GB'"),
        ({"parallel": 0}, "parallel must be a whole number of at least 1; it is 0"),
        ({"prompt_cache_bytes": -1}, "prompt_cache_bytes must be a whole number of at least 0"),
        ({"kv_heads": None}, "set kv_bytes_per_token, or all of layers, kv_heads, head_dim; kv_heads not set"),
        ({"context_tokens": None}, "context_tokens is not set"),
        ({"contxt": 5}, "there is no field contxt"),
        ({"folder": "/models/a", "ollama_url": "http://127.0.0.1:11434"}, "leave one out"),
    ],
    ids=str,
)
def test_a_wrong_declaration_is_refused_with_the_field_and_the_remedy(change: dict[str, Any], words: str) -> None:
    [problem] = memory.problems([{**MODEL, **change}])
    assert words in problem
    assert problem.startswith("mac_host_models: ")


def test_figures_that_are_read_need_not_be_declared() -> None:
    declared = {"name": "llama", "engine": "mlx", "folder": "/models/llama", "context_tokens": 8192}
    assert memory.problems([declared]) == []
