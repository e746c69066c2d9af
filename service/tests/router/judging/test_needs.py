"""A request never goes to a backend that would ignore a part of it, and the refusal says which part has no home."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena.router.errors import NeedWithoutHomeError
from athena.router.judging.needs import (
    BITS,
    UNKNOWN,
    Capabilities,
    Need,
    Needs,
    Source,
    able,
    context_tokens,
    from_configuration,
    from_models,
    from_show,
    lacking,
    masks,
    may_exceed,
    merged,
    of_request,
)
from athena.router.types import Abilities, Message, Operation, Request

capabilities = st.builds(
    Capabilities,
    can=st.dictionaries(st.sampled_from(Need), st.booleans()),
    context_tokens=st.none() | st.integers(1, 200_000),
)
needs = st.builds(
    Needs,
    features=st.frozensets(st.sampled_from(Need)),
    context_tokens=st.integers(0, 200_000),
    wanted_tokens=st.integers(0, 200_000),
)
targets = st.lists(capabilities, min_size=1, max_size=5).map(
    lambda found: [(f"host{number}", one) for number, one in enumerate(found)]
)


def meets(asked: Needs, one: Capabilities, *, tokens: int) -> bool:
    """Whether a target is not known to lack anything, a prompt of so many tokens included."""
    able_to = all(one.can.get(need, True) for need in asked.features)
    return able_to and (one.context_tokens is None or tokens <= one.context_tokens)


@given(needs, targets)
def test_who_is_able_meets_every_need_and_who_is_not_lacks_one(
    asked: Needs, found: list[tuple[str, Capabilities]]
) -> None:
    wanted = max(asked.context_tokens, asked.wanted_tokens)
    at_best = [place for place, (_, one) in enumerate(found) if meets(asked, one, tokens=wanted)]
    surely = [place for place, (_, one) in enumerate(found) if meets(asked, one, tokens=asked.context_tokens)]
    perhaps = [place for place, (_, one) in enumerate(found) if meets(asked, one, tokens=asked.context_tokens // 2)]
    if at_best or surely or perhaps:
        assert able(asked, found, model="m") == (at_best or surely or perhaps)
    else:
        with pytest.raises(NeedWithoutHomeError) as refused:
            able(asked, found, model="m", field="tools")
        assert (refused.value.status, refused.value.field) == (422, "tools")
        named = [need.value for need in asked.features if need.value in refused.value.detail]
        assert named or "a context of about" in refused.value.detail


@given(needs, targets)
def test_a_need_that_is_said_to_have_no_home_has_none(asked: Needs, found: list[tuple[str, Capabilities]]) -> None:
    said = refusal(asked, found)
    if "at once" in said:
        assert all(name in said for name, _ in found)
    else:
        homeless = [need for need in Need if need.value in said]
        assert not any(one.can.get(need, True) for need in homeless for _, one in found)


def refusal(asked: Needs, found: list[tuple[str, Capabilities]]) -> str:
    """Return what is said where no target is able, or nothing."""
    try:
        able(asked, found, model="m")
    except NeedWithoutHomeError as error:
        return error.detail
    return ""


@given(st.dictionaries(st.sampled_from(Source), capabilities, max_size=5))
def test_the_most_trusted_source_that_says_anything_is_believed_and_the_smallest_context_holds(
    said: dict[Source, Capabilities],
) -> None:
    whole = merged(said)
    for need in Need:
        words = [said[source].can[need] for source in sorted(said) if need in said[source].can]
        assert whole.can.get(need) == (words[-1] if words else None)
    contexts = [one for source in said if (one := said[source].context_tokens) is not None]
    assert whole.context_tokens == (min(contexts) if contexts else None)


def test_the_operator_knows_better_than_a_probe_and_a_probe_than_what_the_engine_says() -> None:
    assert Source.CONFIGURATION > Source.PROBE > Source.MODELS > Source.SHOW


def test_what_nobody_knows_of_is_no_lack() -> None:
    assert lacking(Needs(features=frozenset(Need), context_tokens=10**6), UNKNOWN) == ()


def test_what_ollama_shows_of_a_model_is_read() -> None:
    shown = {"capabilities": ["completion", "vision"], "model_info": {"llama.context_length": 8192, "x": 1}}
    assert from_show(shown) == Capabilities(can={Need.TOOLS: False, Need.IMAGES: True}, context_tokens=8192)
    vectors = from_show({"capabilities": ["embedding"]})
    assert vectors == Capabilities(can={Need.TOOLS: False, Need.IMAGES: False, Need.EMBEDDINGS: True})
    assert from_show({}) == Capabilities()
    assert from_show({"capabilities": None, "model_info": {"llama.context_length": "?"}}) == Capabilities()


def test_what_a_row_says_is_what_it_names() -> None:
    assert from_configuration(None) == UNKNOWN
    said = from_configuration(Abilities(tools=True, images=False, context_tokens=4096))
    assert said == Capabilities(can={Need.TOOLS: True, Need.IMAGES: False}, context_tokens=4096)


@given(st.dictionaries(st.sampled_from(Need), st.booleans()))
def test_bits_say_the_same_as_words(can: dict[Need, bool]) -> None:
    does, does_not = masks(can)
    assert can == {need: True for need in Need if does & BITS[need]} | {
        need: False for need in Need if does_not & BITS[need]
    }


@given(st.text(max_size=200), st.integers(1, 60))
def test_a_short_body_is_not_looked_at_for_its_length(text: str, context: int) -> None:
    if context_tokens(len(text)) > context:
        assert may_exceed(len(text.encode()), context)


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
    )
    assert of_request(asking).features == {Need.JSON_SCHEMA, Need.TOOLS, Need.IMAGES}
    roomy = Request(operation=Operation.CHAT, model="m", extra={"options": {"num_ctx": 8192}})
    assert of_request(roomy) == Needs(wanted_tokens=8192)
    assert of_request(Request(operation=Operation.EMBED, model="m")).features == {Need.EMBEDDINGS}


def test_the_refusal_names_what_has_no_home() -> None:
    blind = ("openai at http://one", Capabilities(can={Need.IMAGES: False, Need.JSON_SCHEMA: False}))
    plain = ("ollama at http://two", Capabilities(can={Need.IMAGES: False, Need.TOOLS: False}))
    with pytest.raises(NeedWithoutHomeError, match=r"^No backend of model m can do images\.$"):
        able(Needs(features=frozenset({Need.IMAGES})), [blind, plain], model="m")
    with pytest.raises(NeedWithoutHomeError, match=r"openai at http://one lacks a JSON schema; ollama at .* lacks too"):
        able(Needs(features=frozenset({Need.TOOLS, Need.JSON_SCHEMA})), [blind, plain], model="m")
