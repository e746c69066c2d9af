"""What models take of a Mac's memory, and what is refused: by thousands of declarations, and by known models."""

from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loading import load
from serving import Answering, serving

memory = load("roles/mac_host/module_utils/mac_memory.py")
module = load("roles/mac_host/library/memory_admission.py")
GIB = 1 << 30
LLAMA_8B = {"layers": 32, "kv_heads": 8, "head_dim": 128}
MODEL: dict[str, Any] = {
    "name": "llama",
    "engine": "ollama",
    "weights_bytes": 5 * GIB,
    **LLAMA_8B,
    "context_tokens": 8192,
}
MLX = {**MODEL, "engine": "mlx", "decode_concurrency": 1, "prompt_concurrency": 1, "prompt_cache_bytes": 0}
SETTINGS = {"OLLAMA_CONTEXT_LENGTH": 4096}
models = st.fixed_dictionaries(
    {
        "name": st.text("abc-", min_size=1, max_size=12),
        "engine": st.just("ollama"),
        "weights_bytes": st.integers(1, 200 * GIB),
        "layers": st.integers(1, 130),
        "kv_heads": st.integers(1, 64),
        "head_dim": st.integers(1, 512),
        "context_tokens": st.integers(1, 1_000_000),
    },
    optional={
        "value_dim": st.integers(1, 512),
        "kv_bytes_per_token": st.integers(1, 1_000_000),
    },
)
of_mlx = st.builds(
    lambda model, told: {**model, **told, "engine": "mlx"},
    models,
    st.fixed_dictionaries(
        {},
        optional={
            "decode_concurrency": st.integers(1, 64),
            "prompt_concurrency": st.integers(1, 64),
            "prompt_cache_size": st.integers(1, 20),
            "prompt_cache_bytes": st.integers(0, 100 * GIB),
        },
    ),
)
anything = models | of_mlx
settings = st.fixed_dictionaries(
    {"OLLAMA_CONTEXT_LENGTH": st.integers(1, 300_000)},
    optional={
        "OLLAMA_NUM_PARALLEL": st.integers(0, 64) | st.sampled_from(["0", "4"]),
        "OLLAMA_MAX_LOADED_MODELS": st.integers(0, 6),
        "OLLAMA_KV_CACHE_TYPE": st.just("f16"),
    },
)


def needed(*declared: dict[str, Any], headroom: int = 0, told: dict[str, Any] = SETTINGS) -> int:
    ollama = memory.ollama_of(told)
    total: int = memory.needed_mib([memory.demand(model, ollama) for model in declared], headroom, ollama)
    return total


@given(st.lists(anything, max_size=6), anything, st.integers(0, 4096), settings)
def test_one_model_more_never_takes_less(
    others: list[dict[str, Any]], model: dict[str, Any], headroom: int, told: dict[str, Any]
) -> None:
    with_it, without = (needed(*some, headroom=headroom, told=told) for some in ([*others, model], others))
    assert with_it > without if model["engine"] == "mlx" else with_it >= without


@given(anything, st.sampled_from(["weights_bytes", "context_tokens"]), st.integers(1, 100_000), settings)
def test_more_of_anything_never_takes_less(model: dict[str, Any], field: str, more: int, told: dict[str, Any]) -> None:
    assert needed({**model, field: model[field] + more}, told=told) >= needed(model, told=told)


@given(of_mlx, st.sampled_from(memory.OF_MLX), st.integers(1, 100))
def test_more_of_anything_of_mlx_never_takes_less(model: dict[str, Any], field: str, more: int) -> None:
    before = {"decode_concurrency": 32, "prompt_concurrency": 8, "prompt_cache_size": 10, "prompt_cache_bytes": 0}
    before |= model
    assert needed({**before, field: before[field] + more}) >= needed(before)


@given(st.lists(models, min_size=1, max_size=6), st.sampled_from(memory.SETTINGS), st.integers(1, 100), settings)
def test_more_of_any_setting_of_ollama_never_takes_less(
    declared: list[dict[str, Any]], name: str, more: int, told: dict[str, Any]
) -> None:
    before = {**memory.ollama_of(told).__dict__}
    had = {
        "OLLAMA_NUM_PARALLEL": before["parallel"],
        "OLLAMA_CONTEXT_LENGTH": before["context_tokens"],
        "OLLAMA_MAX_LOADED_MODELS": before["loaded"],
    }
    assert needed(*declared, told={**had, name: had[name] + more}) >= needed(*declared, told=had)


@given(st.lists(models, min_size=1, max_size=6), settings, st.sampled_from(["q8_0", "q4_0"]))
def test_a_cache_that_ollama_may_not_take_frees_nothing(
    declared: list[dict[str, Any]], told: dict[str, Any], kind: str
) -> None:
    # Ollama goes back to 16 bits for a model that flash attention is not for.
    smaller = {**told, "OLLAMA_FLASH_ATTENTION": True, "OLLAMA_KV_CACHE_TYPE": kind}
    assert memory.problems(declared, smaller) == []
    assert needed(*declared, told=smaller) == needed(*declared, told=told)


@given(st.lists(anything, min_size=1, max_size=6), st.integers(0, 4096), st.integers(1, 500_000), settings)
def test_the_table_adds_up(declared: list[dict[str, Any]], headroom: int, limit: int, told: dict[str, Any]) -> None:
    ollama = memory.ollama_of(told)
    demands = [memory.demand(model, ollama) for model in declared]
    lines = memory.table(demands, headroom, limit, "words", ollama).splitlines()[1:]
    rows = [line.split() for line in lines]
    of_models, kept, total, bound, left = rows[: len(declared)], rows[len(declared) : -3], rows[-3], rows[-2], rows[-1]
    # name, engine, weights, `B B x context x at once`, KV, prompt cache, all
    for row in of_models:
        assert int(row[2]) + int(row[-3]) + int(row[-2]) == int(row[-1])
    in_all = needed(*declared, headroom=headroom, told=told)
    assert sum(int(row[-1]) for row in [*of_models, *kept]) == int(total[-1]) == in_all
    assert int(bound[-1]) == limit
    is_too_much = left[0] == "too"
    assert int(left[-1]) == (int(total[-1]) - limit) * (1 if is_too_much else -1)


@given(anything, settings)
def test_what_is_declared_in_full_has_no_problems(model: dict[str, Any], told: dict[str, Any]) -> None:
    assert memory.problems([model], told) == []


def test_a_model_whose_figures_are_known_takes_what_they_say() -> None:
    # 2 x 32 x 8 x 128 x 2 bytes = 128 KiB a token, as llama.cpp and mlx_lm say of Llama 3.1 8B.
    assert memory.bytes_per_token(MODEL) == 128 * 1024
    assert needed(MODEL) == 5 * 1024 + 1024
    assert needed({**MODEL, "context_tokens": 8193}) == 5 * 1024 + 1024 + 32


def test_what_ollama_is_told_counts_for_each_of_its_models() -> None:
    four = {**SETTINGS, "OLLAMA_NUM_PARALLEL": 4}
    assert needed(MODEL, told=four) == 5 * 1024 + 4 * 1024
    assert needed(MODEL, {**MODEL, "name": "b"}, told=four) == 2 * needed(MODEL, told=four)
    # A model that wants less gets the context of all.
    assert needed({**MODEL, "context_tokens": 256}, told={"OLLAMA_CONTEXT_LENGTH": 32768}) == 5 * 1024 + 4 * 1024
    assert needed(MODEL, told={**SETTINGS, "OLLAMA_NUM_PARALLEL": "0"}) == needed(MODEL)


def test_ollama_has_no_more_models_loaded_than_it_is_told() -> None:
    large, small = {**MODEL, "weights_bytes": 40 * GIB}, {**MODEL, "weights_bytes": GIB}
    one, two = ({**SETTINGS, "OLLAMA_MAX_LOADED_MODELS": count} for count in (1, 2))
    assert needed(small, large, told=one) == needed(large)
    assert needed(small, large, MODEL, told=two) == needed(large, MODEL)
    # Three where nobody says it; a server of mlx never goes.
    assert needed(large, MODEL, MODEL, small, {**MLX, "name": "b"}) == needed(large, MODEL, MODEL, MLX)
    ollama = memory.ollama_of(one)
    demands = [memory.demand(model, ollama) for model in (small, large)]
    shown = memory.table(demands, 0, 100_000, "words", ollama)
    [away] = [line for line in shown.splitlines() if line.startswith("not loaded ")]
    assert "the 1 largest: OLLAMA_MAX_LOADED_MODELS" in away
    assert away.endswith(" -2048")


def test_what_mlx_does_where_nobody_says_otherwise_is_counted() -> None:
    mlx = {**MODEL, "engine": "mlx"}
    assert needed(mlx) == 5 * 1024 + (32 + 7) * 1024 + 10 * 1024
    assert needed({**MLX, "decode_concurrency": 4, "prompt_cache_bytes": 2 * GIB}) == 5 * 1024 + 4 * 1024 + 2 * 1024
    assert needed({**MLX, "decode_concurrency": 4}) == 5 * 1024 + 4 * 1024
    unbounded = {key: value for key, value in MLX.items() if key != "prompt_cache_bytes"}
    assert needed({**unbounded, "prompt_cache_size": 20}) - needed(unbounded) == 10 * 1024


def test_a_server_of_mlx_generates_for_no_fewer_than_it_reads_prompts_of_and_reads_on_meanwhile() -> None:
    of_eight = {key: value for key, value in MLX.items() if key != "prompt_concurrency"} | {"decode_concurrency": 2}
    assert memory.at_once(of_eight) == (8, 7)
    assert needed(of_eight) == 5 * 1024 + 15 * 1024
    assert memory.at_once({**MLX, "decode_concurrency": 8, "prompt_concurrency": 4}) == (8, 3)
    assert memory.demand(of_eight, memory.Ollama()).kv_words.endswith(" B x 8192 x (8 + 7)")


def test_nothing_is_kept_free_where_there_is_no_model() -> None:
    assert memory.needed_mib([], 2048, memory.Ollama()) == 0


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
        (
            {"parallel": 2},
            "no field parallel for ollama; how many it has at once is OLLAMA_NUM_PARALLEL of mac_host_ollama_settings",
        ),
        ({"kv_bits": 8}, "no field kv_bits for ollama; that is OLLAMA_KV_CACHE_TYPE of mac_host_ollama_settings"),
        ({"kv_heads": None}, "set kv_bytes_per_token, or all of layers, kv_heads, head_dim; kv_heads not set"),
        ({"context_tokens": None}, "context_tokens is not set"),
        ({"contxt": 5}, "there is no field contxt"),
        ({"folder": "/models/a", "ollama_url": "http://127.0.0.1:11434"}, "leave one out"),
    ],
    ids=str,
)
def test_a_wrong_declaration_is_refused_with_the_field_and_the_remedy(change: dict[str, Any], words: str) -> None:
    [problem] = memory.problems([{**MODEL, **change}], SETTINGS)
    assert words in problem
    assert problem.startswith("mac_host_models: ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decode_concurrency": 0}, "decode_concurrency must be a whole number of at least 1; it is 0"),
        ({"prompt_cache_bytes": -1}, "prompt_cache_bytes must be a whole number of at least 0"),
        ({"parallel": 2}, "no field parallel for mlx; how many it has at once is decode_concurrency and prompt_conc"),
    ],
    ids=str,
)
def test_a_wrong_declaration_for_mlx_is_refused(change: dict[str, Any], words: str) -> None:
    [problem] = memory.problems([{**MLX, **change}], {})
    assert words in problem


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "has no OLLAMA_CONTEXT_LENGTH, and by itself Ollama may take a context of 262144 tokens"),
        ({"OLLAMA_CONTEXT_LENGTH": "0"}, "has no OLLAMA_CONTEXT_LENGTH"),
        ({**SETTINGS, "OLLAMA_NUM_PARALLEL": "many"}, ": OLLAMA_NUM_PARALLEL must be a whole number; it is 'many'"),
        ({**SETTINGS, "OLLAMA_NUM_PARALLEL": True}, ": OLLAMA_NUM_PARALLEL must be a whole number; it is True"),
        ({**SETTINGS, "OLLAMA_MAX_LOADED_MODELS": -1}, ": OLLAMA_MAX_LOADED_MODELS must be a whole number; it is -1"),
        ({**SETTINGS, "OLLAMA_KV_CACHE_TYPE": "q5"}, ": OLLAMA_KV_CACHE_TYPE must be one of f16, q8_0, q4_0; it is"),
    ],
    ids=str,
)
def test_settings_that_ollama_would_misread_are_refused(told: dict[str, Any], words: str) -> None:
    [problem] = memory.problems([MODEL], told)
    assert problem.startswith(f"mac_host_ollama_settings{words if words[0] == ':' else ' ' + words}")
    assert memory.problems([MLX], told) == []  # of no Ollama


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
@pytest.mark.parametrize("flash", [None, False, 0, "0", "false", "False", "f", "", " 'false' "], ids=repr)
def test_a_smaller_cache_without_flash_attention_is_refused(kind: str, flash: Any) -> None:
    told = {**SETTINGS, "OLLAMA_KV_CACHE_TYPE": kind, **({} if flash is None else {"OLLAMA_FLASH_ATTENTION": flash})}
    [problem] = memory.problems([MODEL], told)
    assert problem == (
        f"mac_host_ollama_settings: OLLAMA_KV_CACHE_TYPE is {kind}, which Ollama ignores without flash attention; set"
        " OLLAMA_FLASH_ATTENTION to true, or leave OLLAMA_KV_CACHE_TYPE out"
    )
    assert memory.problems([MLX], told) == []  # of no Ollama


@pytest.mark.parametrize("flash", [True, 1, "1", "true", "True", "T", "on"], ids=repr)
def test_a_smaller_cache_with_flash_attention_counts_where_the_model_says_what_it_takes(flash: Any) -> None:
    told = {**SETTINGS, "OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_FLASH_ATTENTION": flash}
    assert memory.problems([MODEL], told) == []
    assert needed({**MODEL, "kv_bytes_per_token": 68 * 1024}, told=told) == 5 * 1024 + 8 * 68


def test_figures_that_are_read_need_not_be_declared() -> None:
    declared = {"name": "llama", "engine": "mlx", "folder": "/models/llama", "context_tokens": 8192}
    assert memory.problems([declared], {}) == []


class Ollama(Answering, BaseHTTPRequestHandler):
    """An Ollama that has the model."""

    def do_GET(self) -> None:
        """Say how large it is."""
        self.answer(200, b'{"models": [{"name": "llama:latest", "size": 123}]}')


def test_an_ollama_is_asked_without_the_proxy_that_downloads_need(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving(Ollama) as address:
        assert module.ask(f"http://{address}/api/tags")["models"][0]["size"] == 123


def test_what_does_not_fit_is_added_up_all_the_same() -> None:
    found, objection = module.admission([MODEL], SETTINGS, 16384, 8192, 2048)
    assert objection == ""
    assert found["needed_mib"] + found["left_mib"] == 8192
    found, objection = module.admission([MODEL, {**MODEL, "name": "other"}], SETTINGS, 16384, 8192, 2048)
    assert f"need {found['needed_mib']} MiB, and the GPU may hold 8192 MiB" in objection
    assert found["left_mib"] == 8192 - found["needed_mib"] < 0
    with pytest.raises(module.FiguresError, match="has no OLLAMA_CONTEXT_LENGTH"):
        module.admission([MODEL], {}, 16384, 8192, 2048)
