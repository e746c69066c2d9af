"""How warm a host is for a prompt."""

import pytest

from athena.router.judging.warmth import LOAD_SECONDS, Residence, kept_prompts, load_seconds
from athena.router.types import BackendType


@pytest.mark.parametrize(
    ("state", "seen", "seconds"),
    [
        (Residence.LOADED, 9.0, 0.0),
        (Residence.UNKNOWN, 9.0, 0.0),
        (Residence.AWAY, 9.0, 9.0),
        (Residence.AWAY, 0.0, LOAD_SECONDS),
    ],
)
def test_only_a_model_that_is_known_to_be_away_has_to_be_loaded(state: Residence, seen: float, seconds: float) -> None:
    assert load_seconds(state, seen) == seconds


def test_ollama_keeps_a_prompt_for_each_slot_and_the_others_more() -> None:
    assert [kept_prompts(engine, 2) for engine in (BackendType.OLLAMA, BackendType.MLX, BackendType.OPENAI)] == [
        2,
        10,
        64,
    ]
