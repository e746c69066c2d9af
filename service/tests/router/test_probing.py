"""What is asked of an engine to learn whether it lives, and what its answers mean."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from athena.router.probing import Loaded, Proof, find, generation, keep_alive, proof
from athena.router.types import BackendType

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("ends_in", "kept"), [(300.0, 300.0), (1.0, None), (-5.0, None), (10 * 365 * 86400.0, -1.0)])
def test_a_probe_leaves_the_end_of_a_loaded_model_as_it_is(ends_in: float, kept: float | None) -> None:
    assert keep_alive(Loaded("m:latest", NOW + timedelta(seconds=ends_in)), NOW) == kept


def test_a_loaded_model_is_found_by_the_name_that_ollama_completes() -> None:
    loaded = [Loaded("other:latest"), Loaded("m:latest"), Loaded("hub/m:7b")]
    assert find("m", loaded) is loaded[1]
    assert find("hub/m:7b", loaded) is loaded[2]
    assert find("m:7b", loaded) is None


def test_mlx_is_only_ever_asked_for_its_default_model_and_never_with_an_empty_prompt() -> None:
    path, body = generation(BackendType.MLX, "some/model", None, NOW)
    asked = json.loads(body)
    assert (path, asked["model"], asked["max_tokens"]) == ("/v1/chat/completions", "default_model", 1)
    assert asked["messages"][0]["content"]


@pytest.mark.parametrize(
    ("engine", "status", "body", "expected"),
    [
        ("openai", 200, b'{"choices": []}', Proof.GENERATES),
        ("openai", 200, b"", Proof.FAILS),
        ("openai", 500, b"", Proof.FAILS),
        ("openai", 429, b"", Proof.NOTHING),
        ("openai", 503, b"", Proof.NOTHING),
        ("openai", 401, b"", Proof.NOTHING),
        ("ollama", 200, b'{"error": "no runner"}', Proof.FAILS),
        ("ollama", 404, b"", Proof.NOTHING),
        ("mlx", 200, b"data: {}\n\ndata: [DONE]\n\n", Proof.GENERATES),
        ("mlx", 200, b"data: {}\n\n", Proof.FAILS),
        ("mlx", 404, b"", Proof.FAILS),
    ],
)
def test_answers_to_a_probe_are_told_apart(engine: str, status: int, body: bytes, expected: Proof) -> None:
    assert proof(BackendType(engine), status, body) is expected
