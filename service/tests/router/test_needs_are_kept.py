"""What a request needs is not left to a model that ignores it: engines are asked and tried, rows are believed."""

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena.router.asked_needs import needs_of
from athena.router.board import CAN
from athena.router.call import Call
from athena.router.errors import NeedWithoutHomeError, RequestRejectedError
from athena.router.judging.needs import BITS, Need, Needs, of_request
from athena.router.periods import Periods
from athena.router.services import RouterServices
from athena.router.types import Abilities, Dialect, Message, Operation, Request
from tests.router.conftest import Bench
from tests.router.registry import row
from tests.router.standin import Asked, StandIn, hang, serve, until
from tests.router.test_dispatch import answer

ASKING = Periods(tick=0.01, abilities_every=0.05, abilities_again=0.05, abilities_tried_after=0.0)
IMAGE = "iVBORw0KGgo="
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


class Ollama:
    """An Ollama that says what its model does, and keeps what it was asked."""

    def __init__(self, *words: str, context: int = 4096) -> None:
        self.shows: dict[str, Any] = {"capabilities": list(words), "model_info": {"llama.context_length": context}}
        self.asked: list[Asked] = []

    async def __call__(self, asked: Asked) -> None:
        """Answer one request."""
        if asked.path == "/api/show":
            await asked.answer(200, json.dumps(self.shows).encode())
        elif asked.method == "GET":
            await asked.answer(200, b'{"models": []}')
        else:
            self.asked.append(asked)
            await serve(asked)


class Server:
    """A server of OpenAI's API whose model reads, of what it is sent, the prompt and what is named here."""

    def __init__(self, *reads: str) -> None:
        self.reads = reads
        self.tried: list[str] = []
        self.asked: list[Asked] = []

    async def __call__(self, asked: Asked) -> None:
        """Answer one request."""
        if asked.method == "GET":
            await asked.answer(200, b'{"data": [{"id": "m", "max_model_len": 100}]}')
            return
        if asked.path == "/v1/embeddings":
            await asked.answer(404, b"{}")
            return
        if asked.json.get("max_tokens") not in (1, 8):
            self.asked.append(asked)
            await serve(asked)
            return
        self.tried.append(asked.body.decode())
        usage = {"prompt_tokens": 5 + sum(20 for name in self.reads if f'"{name}"' in asked.body.decode())}
        text = "{" if "response_format" in self.reads and "response_format" in asked.json else "Hello"
        reply = {"choices": [{"message": {"content": text}}], "usage": usage}
        await asked.answer(200, json.dumps(reply).encode())


def chat(dialect: Dialect = Dialect.OLLAMA, prompt: str = "hello", **more: Any) -> Call:
    """Return a conversation of one turn, with further fields."""
    body = {"model": "m", "stream": False, "messages": [{"role": "user", "content": prompt}], **more}
    return Call(dialect, Operation.CHAT, json.dumps(body).encode())


def looking(dialect: Dialect = Dialect.OLLAMA) -> Call:
    """Return a conversation about an image."""
    if dialect is Dialect.OLLAMA:
        return chat(messages=[{"role": "user", "content": "what is it?", "images": [IMAGE]}])
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}
    parts = [{"type": "text", "text": "what is it?"}, image]
    return chat(dialect, messages=[{"role": "user", "content": parts}])


NEEDS: dict[Need, Callable[[Dialect], Call]] = {
    Need.IMAGES: looking,
    Need.TOOLS: lambda dialect: chat(dialect, tools=[TOOL]),
    Need.JSON_SCHEMA: lambda dialect: chat(
        dialect, **({"format": "json"} if dialect is Dialect.OLLAMA else {"response_format": {"type": "json_object"}})
    ),
}


async def started(bench: Bench, *rows: Any, ollama_url: str | None = None) -> RouterServices:
    """Return a router that knows of every backend's model what there is to know."""
    services = await bench.router(*rows, periods=ASKING, ollama_url=ollama_url)
    await until(lambda: len(services.gates) == len(rows) and all(gate.cells[CAN] for gate in services.gates), 5.0)
    return services


@pytest.mark.parametrize("dialect", [Dialect.OLLAMA, Dialect.OPENAI])
async def test_an_image_goes_to_the_model_that_sees_it(bench: Bench, dialect: Dialect) -> None:
    blind, seeing = Ollama("completion"), Ollama("completion", "vision")
    first, second = await bench.engine(blind), await bench.engine(seeing)
    services = await started(bench, row(1, first.url), row(2, second.url, priority=1))
    for _ in range(3):
        await answer(services, looking(dialect))
        await answer(services, chat(dialect))
    assert [len(blind.asked), len(seeing.asked)] == [3, 3]
    assert all(IMAGE in asked.body.decode() for asked in seeing.asked)


async def test_a_need_that_no_model_meets_is_named_and_nothing_is_sent(bench: Bench) -> None:
    engines = [Ollama("completion"), Ollama("completion", "tools")]
    urls = [(await bench.engine(engine)).url for engine in engines]
    services = await started(bench, row(1, urls[0]), row(2, urls[1], priority=1))
    with pytest.raises(NeedWithoutHomeError, match=r"^No backend of model m can do images\.$") as refused:
        await answer(services, looking(Dialect.OPENAI))
    assert (refused.value.status, refused.value.field) == (422, "messages")
    await answer(services, chat(tools=[TOOL]))
    assert [len(engine.asked) for engine in engines] == [0, 1]


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.RESPONSES])
async def test_tools_that_are_not_to_be_called_need_no_model_that_does(bench: Bench, dialect: Dialect) -> None:
    engine = Ollama("completion")
    services = await started(bench, row(1, (await bench.engine(engine)).url))
    tool = TOOL if dialect is Dialect.OPENAI else {"type": "function", "name": "weather"}
    said = "messages" if dialect is Dialect.OPENAI else "input"
    body = {"model": "m", "tools": [tool], "tool_choice": "none", said: [{"role": "user", "content": "hello"}]}
    await answer(services, Call(dialect, Operation.CHAT, json.dumps(body).encode()))
    assert ["tools" in json.loads(asked.body) for asked in engine.asked] == [False]


async def test_a_model_that_is_changed_is_asked_again(bench: Bench) -> None:
    engine = Ollama("completion")
    services = await started(bench, row(1, (await bench.engine(engine)).url))
    with pytest.raises(NeedWithoutHomeError):
        await answer(services, looking())
    engine.shows["capabilities"].append("vision")
    before = [gate.cells[CAN] for gate in services.gates]
    await until(lambda: [gate.cells[CAN] for gate in services.gates] != before, 5.0)
    await answer(services, looking())


async def test_a_long_prompt_goes_where_there_is_room_and_one_that_is_surely_too_long_nowhere(bench: Bench) -> None:
    small, large = Ollama("completion", context=100), Ollama("completion", context=1000)
    first, second = await bench.engine(small), await bench.engine(large)
    services = await started(bench, row(1, first.url), row(2, second.url, priority=1))
    await answer(services, chat(prompt="x" * 300))
    await answer(services, chat(prompt="x" * 3000))
    assert [len(small.asked), len(large.asked)] == [1, 1]
    await answer(services, chat(prompt="x" * 7000))  # perhaps; it is the larger one that has to say
    with pytest.raises(NeedWithoutHomeError, match="a context of about 2250 tokens"):
        await answer(services, chat(prompt="x" * 9000))


async def test_what_asks_for_more_context_goes_where_there_is_as_much(bench: Bench) -> None:
    small, large = Ollama("completion", context=2048), Ollama("completion", context=8192)
    first, second = await bench.engine(small), await bench.engine(large)
    services = await started(bench, row(1, first.url), row(2, second.url, priority=1))
    for options in ({}, {"num_ctx": 2048}, {"num_ctx": None}, {"num_ctx": -1}, {"temperature": 0}):
        await answer(services, chat(options=options))
    await answer(services, chat(options=None))
    assert [len(small.asked), len(large.asked)] == [6, 0]
    for wanted in (2049, 8192):
        await answer(services, chat(options={"num_ctx": wanted}))
    assert [len(small.asked), len(large.asked)] == [6, 2]
    # Nobody has that much: what is in the prompt decides, as if nothing had been asked for.
    await answer(services, chat(options={"num_ctx": 100_000}))
    await answer(services, chat(prompt="x" * 20_000, options={"num_ctx": 100_000}))
    assert [len(small.asked), len(large.asked)] == [7, 3]
    with pytest.raises(NeedWithoutHomeError, match="a context of about 25000 tokens"):
        await answer(services, chat(prompt="x" * 100_000, options={"num_ctx": 500_000}))


async def test_a_call_of_the_library_asks_for_context_as_well(bench: Bench) -> None:
    small, large = Ollama("completion", context=2048), Ollama("completion", context=8192)
    first, second = await bench.engine(small), await bench.engine(large)
    services = await started(bench, row(1, first.url), row(2, second.url, priority=1))
    asked = Request(operation=Operation.CHAT, model="m", messages=[Message(role="user", content="hello")])
    for extra in ({}, {"options": {"num_ctx": 4096}}):
        asked.extra = extra
        reply = await services.dispatcher.open(Call.of(asked))
        reply.close()
    assert [len(small.asked), len(large.asked)] == [1, 1]


@pytest.mark.parametrize("need", list(NEEDS))
async def test_what_a_server_reads_is_found_out_by_trying(bench: Bench, need: Need) -> None:
    word = {Need.IMAGES: "image_url", Need.TOOLS: "tools", Need.JSON_SCHEMA: "response_format"}[need]
    ignoring, reading = Server(), Server(word)
    first, second = await bench.engine(ignoring), await bench.engine(reading)
    services = await started(bench, row(1, first.url, engine="openai"), row(2, second.url, engine="openai", priority=1))
    for _ in range(2):
        await answer(services, NEEDS[need](Dialect.OPENAI))
    assert [len(ignoring.asked), len(reading.asked)] == [0, 2]
    others = [other for other in NEEDS if other is not need]
    for other in others:
        with pytest.raises(NeedWithoutHomeError, match=other.value):
            await answer(services, NEEDS[other](Dialect.OPENAI))
    with pytest.raises(NeedWithoutHomeError, match="embeddings"):
        await services.dispatcher.open(Call(Dialect.OPENAI, Operation.EMBED, b'{"model": "m", "input": "x"}'))


async def test_a_row_is_believed_before_what_is_found_out(bench: Bench) -> None:
    first, second = Ollama("completion", "tools"), Ollama("completion")
    urls = [(await bench.engine(engine)).url for engine in (first, second)]
    services = await started(
        bench,
        row(1, urls[0], capabilities=Abilities(tools=False, json_schema=False)),
        row(2, urls[1], priority=1, capabilities=Abilities(tools=True)),
    )
    await answer(services, chat(tools=[TOOL]))
    await answer(services, chat(format={"type": "object"}))
    assert [len(first.asked), len(second.asked)] == [0, 2]


async def test_of_the_context_that_a_row_says_and_the_one_of_the_model_the_smaller_holds(bench: Bench) -> None:
    # What both engines of a fleet are started with is above what the first one's model has by itself.
    first, second = Ollama("completion", context=4096), Ollama("completion", context=131_072)
    urls = [(await bench.engine(engine)).url for engine in (first, second)]
    said = Abilities(context_tokens=32_768)
    services = await started(bench, row(1, urls[0], capabilities=said), row(2, urls[1], priority=1, capabilities=said))
    known = " | ".join(word for choice in (await services.dispatcher.why("m")).choices for word in choice.figures)
    assert ["context 4096 tokens" in known, "context 32768 tokens" in known] == [True, True], known
    await answer(services, chat(prompt="x" * 4 * 4000))
    await answer(services, chat(prompt="x" * 4 * 20_000))
    await answer(services, chat(options={"num_ctx": 8192}))
    assert [len(first.asked), len(second.asked)] == [1, 2]
    with pytest.raises(NeedWithoutHomeError, match="a context of about 100000 tokens"):
        await answer(services, chat(prompt="x" * 4 * 100_000))


async def test_what_the_row_of_an_auto_backend_says_is_meant_for_its_mlx(bench: Bench) -> None:
    mlx, default = await bench.engine(), Ollama("completion", "tools")
    services = await started_auto(bench, mlx, default)
    await answer(services, chat(tools=[TOOL]))
    await answer(services, chat(prompt="x" * 4 * 1000))
    assert len(default.asked) == 2
    said = (await services.dispatcher.why("m")).choices[0].figures
    assert "cannot: tools; context 100 tokens" in said[0]
    assert "can: tools; cannot: images; context 4096 tokens" in said[1]


async def started_auto(bench: Bench, mlx: StandIn, default: Ollama) -> RouterServices:
    ollama = await bench.engine(default)
    auto = row(1, mlx.url, engine="auto", capabilities=Abilities(tools=False, context_tokens=100))
    services = await bench.router(auto, periods=ASKING, ollama_url=ollama.url)
    await until(lambda: any(gate.cells[CAN] for gate in services.gates), 5.0)
    return services


class Busy(Server):
    """One that has no time for trials until it is told to."""

    def __init__(self, *reads: str, status: int | None) -> None:
        super().__init__(*reads)
        self.status = status  # of what it answers to a trial; None: nothing
        self.trials = 0
        self.looks = 0

    async def __call__(self, asked: Asked) -> None:
        """Answer one request."""
        self.looks += asked.method == "GET"
        if asked.method == "GET" or asked.json.get("max_tokens") is None or self.status == HTTPStatus.OK:
            await super().__call__(asked)
            return
        self.trials += 1
        if self.status is None:
            await hang(asked)
        else:
            await asked.answer(self.status, b"{}")


async def test_an_engine_that_has_no_time_for_a_trial_is_not_asked_again_and_again(bench: Bench) -> None:
    engine = Busy(status=None)
    await bench.router(
        row(1, (await bench.engine(engine)).url, engine="openai"),
        periods=msgspec.structs.replace(ASKING, abilities_within=0.05),
    )
    await until(lambda: engine.looks >= 20, 20.0)
    assert engine.trials == 1


async def test_an_engine_that_was_only_coming_up_is_tried_again_soon(bench: Bench) -> None:
    engine = Busy("tools", status=503)
    periods = msgspec.structs.replace(ASKING, abilities_tried_again=0.05)
    services = await bench.router(row(1, (await bench.engine(engine)).url, engine="openai"), periods=periods)
    await until(lambda: engine.trials > 0, 20.0)
    engine.status = HTTPStatus.OK
    await until(lambda: any(int(gate.cells[CAN]) & BITS[Need.TOOLS] for gate in services.gates), 20.0)
    assert "can: tools" in (await services.dispatcher.why("m")).choices[0].figures[0]


async def test_a_call_of_the_library_is_kept_as_well(bench: Bench) -> None:
    services = await started(bench, row(1, (await bench.engine(Ollama("completion"))).url))
    message = Message(role="user", content="what is it?", images=[IMAGE])
    with pytest.raises(NeedWithoutHomeError, match="images"):
        await services.dispatcher.open(Call.of(Request(operation=Operation.CHAT, model="m", messages=[message])))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
bodies = st.fixed_dictionaries(
    {"model": st.just("m")},
    optional={
        "messages": st.lists(
            st.fixed_dictionaries(
                {"role": st.just("user")},
                optional={
                    "content": st.text(max_size=20)
                    | st.lists(st.just({"type": "image_url"}) | st.just({"type": "text", "text": "x"}), max_size=2),
                    "images": st.lists(st.just(IMAGE), max_size=1),
                },
            ),
            max_size=2,
        )
        | values,
        "tools": st.lists(st.just(TOOL), max_size=1) | values,
        "images": st.lists(st.just(IMAGE), max_size=1),
        "format": st.sampled_from(["", "json", None, {}]) | values,
        "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]) | values,
        "prompt": values,
        "options": st.fixed_dictionaries({}, optional={"num_ctx": st.integers(-5, 10**6)}) | values,
    },
)


@given(bodies, st.sampled_from([Dialect.OPENAI, Dialect.OLLAMA]), st.booleans())
def test_what_is_seen_without_a_translation_is_what_the_translation_says(
    body: dict[str, Any], dialect: Dialect, ascii_only: bool
) -> None:
    if dialect is Dialect.OPENAI:
        body = {name: value for name, value in body.items() if name not in {"images", "options"}}  # Ollama's alone
    call = Call(dialect, Operation.CHAT, json.dumps(body, ensure_ascii=ascii_only).encode())
    seen = needs_of(call, counted=True, pictured=True)
    try:
        said = of_request(call.request)
    except RequestRejectedError:
        return  # it goes to no engine for which it would be translated
    assert seen.features == said.features
    assert seen.wanted_tokens == said.wanted_tokens
    # A translation puts line breaks between the parts of a text, of which there are four here at most.
    assert seen.context_tokens + 2 >= said.context_tokens
    uncounted = needs_of(call, counted=False, pictured=True)
    assert (uncounted.features, uncounted.wanted_tokens) == (seen.features, seen.wanted_tokens)


@pytest.mark.parametrize("dialect", [Dialect.OLLAMA, Dialect.OPENAI])
def test_a_text_that_speaks_of_a_need_has_none(dialect: Dialect) -> None:
    call = chat(dialect, prompt='{"tools": [{}], "format": "json", "response_format": {"type": "json_object"}}')
    assert needs_of(call, counted=False, pictured=True) == Needs()


def test_a_name_that_is_spelt_with_escapes_is_read_all_the_same() -> None:
    body = b'{"model": "m", "messages": [], "to\\u006fls": [{}]}'
    assert needs_of(Call(Dialect.OLLAMA, Operation.CHAT, body), counted=False, pictured=True).features == {Need.TOOLS}
