from pathlib import Path

import pytest

from athena.orchestrator import decisions, intents
from athena.orchestrator.intents import IntentTableError, Mode
from athena.router.types import Backend, BackendType, Snapshot

GOOD = """
default_intent = "talk"
default_model = "first-enabled"
[classifier]
model = "small"
system = "Sort into: {intents}"
[modes]
owner = ["talk", "home_control"]
guest = ["talk"]
[intents.talk]
description = "anything"
model = "large"
[intents.home_control]
description = "lights and heating"
model = "small"
"""


def snapshot(*backends: tuple[int, str, bool], complete: bool = True) -> Snapshot:
    routes: dict[str, tuple[Backend, ...]] = {}
    for number, model, enabled in backends:
        backend = Backend(
            id=number,
            model_name=model,
            backend_type=BackendType.OLLAMA,
            endpoint_url="http://engine.example.internal:11434",
            enabled=enabled,
        )
        routes[model] = (*routes.get(model, ()), backend)
    return Snapshot(version=1, routes=routes, complete=complete)


@pytest.fixture
def table_file(tmp_path: Path) -> Path:
    return tmp_path / "intents.toml"


def test_the_packaged_table_holds_and_serves_both_modes() -> None:
    table = intents.load(None)
    assert set(table.modes) == {Mode.OWNER, Mode.GUEST}
    assert "code" in table.instructions(Mode.OWNER)
    assert "code" not in table.instructions(Mode.GUEST)


def test_a_table_of_ones_own_replaces_the_packaged_one(table_file: Path) -> None:
    table_file.write_text(GOOD)
    table = intents.load(table_file)
    assert table.instructions(Mode.OWNER) == "Sort into: talk: anything\nhome_control: lights and heating"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"talk", "home_control"', '"talk", "garden"'), "modes.owner names garden, which [intents] does not have"),
        (('guest = ["talk"]', 'guest = ["home_control"]'), "modes.guest must allow talk, the default_intent"),
        (('guest = ["talk"]', ""), "modes.guest is missing"),
        (("{intents}", "nothing"), "classifier: system must hold {intents}"),
        (('model = "large"', 'model = "large"\ntemprature = 1'), "intents.talk.temprature: Extra inputs are not"),
        (('description = "anything"', ""), "intents.talk.description: Field required"),
        (("[modes]", "[modes"), "Expected ']'"),
    ],
)
def test_a_table_that_does_not_hold_is_refused_with_the_entry_at_fault(
    table_file: Path, change: tuple[str, str], message: str
) -> None:
    assert change[0] in GOOD
    table_file.write_text(GOOD.replace(*change))
    with pytest.raises(IntentTableError) as error:
        intents.load(table_file)
    assert message in error.value.detail
    assert str(table_file) in error.value.detail


def test_a_table_that_is_not_there_is_named(table_file: Path) -> None:
    with pytest.raises(IntentTableError, match=r"intents\.toml.*No such file"):
        intents.load(table_file)


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("code", "code"),
        ("  Code.\n", "code"),
        ("The category is: **current_events**", "current_events"),
        ("current events", "current_events"),
        ("Current-Events!", "current_events"),
        ("code, certainly code", "code"),
        ("code or knowledge", None),
        ("encode", None),
        ("code_review", None),
        ("\u4e16\u754c lorem 42", None),
        ("", None),
    ],
)
def test_a_classifiers_reply_is_read_with_mercy_but_not_guessed_at(reply: str, label: str | None) -> None:
    assert decisions.read_label(reply, ["code", "knowledge", "current_events"]) == label


@pytest.mark.parametrize(
    ("default_model", "registry", "chosen"),
    [
        ("first-enabled", snapshot((1, "other", True), (2, "named", True)), "named"),
        ("first-enabled", snapshot((3, "later", True), (1, "off", False), (2, "first", True)), "first"),
        ("first-enabled", snapshot((1, "named", False), (2, "other", True)), "other"),
        ("first-enabled", snapshot(), "named"),
        ("first-enabled", snapshot((1, "other", True), complete=False), "named"),
        ("none", snapshot((1, "other", True)), "named"),
        ("house-model", snapshot((1, "other", True)), "house-model"),
    ],
)
def test_the_named_model_serves_unless_the_registry_is_known_to_lack_it(
    default_model: str, registry: Snapshot, chosen: str
) -> None:
    assert decisions.choose_model("named", default_model, registry) == chosen
