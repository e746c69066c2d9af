"""A request never goes to a backend that would ignore a part of it, and the refusal says which part has no home."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena.router.judging.needs import (
    ENGINES,
    Capabilities,
    Need,
    Needs,
    NeedWithoutHomeError,
    Source,
    able,
    context_tokens,
    from_models,
    from_show,
    lacking,
    merged,
    of_request,
)
from athena.router.types import BackendType, Message, Operation, Request, Sampling

capabilities = st.builds(
    Capabilities,
    can=st.dictionaries(st.sampled_from(Need), st.booleans()),
    context_tokens=st.none() | st.integers(1, 200_000),
)
needs = st.builds(Needs, features=st.frozensets(st.sampled_from(Need)), context_tokens=st.integers(0, 200_000))
targets = st.lists(capabilities, min_size=1, max_size=5).map(
    lambda found: [(f"host{number}", one) for number, one in enumerate(found)]
)


@given(needs, targets)
def test_who_is_able_meets_every_need_and_who_is_not_lacks_one(
    asked: Needs, found: list[tuple[str, Capabilities]]
) -> None:
    meets = [
        all(one.can.get(need, False) for need in asked.features)
        and (one.context_tokens is None or asked.context_tokens <= one.context_tokens)
        for _, one in found
    ]
    if any(meets):
        assert able(asked, found, model="m") == [place for place, met in enumerate(meets) if met]
    else:
        with pytest.raises(NeedWithoutHomeError) as refused:
            able(asked, found, model="m")
        assert refused.value.status == 422
        named = [need.value for need in asked.features if need.value in refused.value.detail]
        assert named or "a context of about" in refused.value.detail


@given(needs, targets)
def test_a_need_that_is_said_to_have_no_home_has_none(asked: Needs, found: list[tuple[str, Capabilities]]) -> None:
    said = refusal(asked, found)
    if "at once" in said:
        assert all(name in said for name, _ in found)
    else:
        homeless = [need for need in Need if need.value in said]
        assert not any(one.can.get(need, False) for need in homeless for _, one in found)


def refusal(asked: Needs, found: list[tuple[str, Capabilities]]) -> str:
    """Return what is said where no target is able, or nothing."""
    try:
        able(asked, found, model="m")
    except NeedWithoutHomeError as error:
        return error.detail
    return ""


@given(st.dictionaries(st.sampled_from(Source), capabilities, max_size=5))
def test_the_most_trusted_source_that_says_anything_is_believed(said: dict[Source, Capabilities]) -> None:
    whole = merged(said)
    for need in Need:
        words = [said[source].can[need] for source in sorted(said) if need in said[source].can]
        assert whole.can.get(need) == (words[-1] if words else None)
    contexts = [one for source in sorted(said) if (one := said[source].context_tokens) is not None]
    assert whole.context_tokens == (contexts[-1] if contexts else None)


def test_the_operator_knows_better_than_a_probe_and_a_probe_than_what_the_engine_says() -> None:
    assert Source.CONFIGURATION > Source.PROBE > Source.MODELS > Source.SHOW > Source.ENGINE


def test_mlx_gets_no_schema_no_images_and_no_embeddings() -> None:
    mlx = ENGINES[BackendType.MLX]
    assert lacking(Needs(features=frozenset(Need)), mlx) == ("a JSON schema", "images", "embeddings")
    assert lacking(Needs(features=frozenset({Need.TOOLS})), mlx) == ()


def test_what_ollama_shows_of_a_model_is_read() -> None:
    shown = {"capabilities": ["completion", "vision"], "model_info": {"llama.context_length": 8192, "x": 1}}
    found = from_show(shown)
    assert found == Capabilities(
        can={Need.TOOLS: False, Need.IMAGES: True, Need.EMBEDDINGS: False}, context_tokens=8192
    )
    assert from_show({}) == Capabilities()
    assert from_show({"capabilities": None, "model_info": {"llama.context_length": "?"}}) == Capabilities()


@pytest.mark.parametrize(
    ("entry", "tokens"),
    [
        ({"id": "m", "max_model_len": 4096}, 4096),
        ({"context_length": 7}, 7),
        ({"max_model_len": True}, None),
        ({}, None),
    ],
)
def test_what_the_list_of_models_says_of_the_context_is_read(entry: dict[str, object], tokens: int | None) -> None:
    assert from_models(entry).context_tokens == tokens


def test_the_needs_of_a_request_are_seen() -> None:
    plain = Request(operation=Operation.CHAT, model="m", messages=[Message(role="user", content="x" * 400)])
    assert of_request(plain) == Needs(context_tokens=100)
    asking = Request(
        operation=Operation.CHAT,
        model="m",
        messages=[Message(role="user", content="what is this?", images=["AAAA"])],
        tools=[{"type": "function"}],
        response_schema={},
        sampling=Sampling(max_tokens=500),
    )
    assert of_request(asking).features == {Need.JSON_SCHEMA, Need.TOOLS, Need.IMAGES}
    assert of_request(asking).context_tokens == context_tokens(13, 500) == 503


def test_the_refusal_names_what_has_no_home() -> None:
    mlx = ("mlx at http://mac1", ENGINES[BackendType.MLX])
    ollama = ("ollama at http://mac2", merged({Source.ENGINE: ENGINES[BackendType.OLLAMA]}))
    with pytest.raises(NeedWithoutHomeError, match=r"^No backend of model m can do images\.$"):
        able(Needs(features=frozenset({Need.IMAGES})), [mlx, ollama], model="m")
    with pytest.raises(NeedWithoutHomeError, match=r"mlx at http://mac1 lacks a JSON schema; ollama at .* lacks tools"):
        able(Needs(features=frozenset({Need.TOOLS, Need.JSON_SCHEMA})), [mlx, ollama], model="m")
