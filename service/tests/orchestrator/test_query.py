import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from athena.orchestrator.app import create_app
from athena.orchestrator.metrics import HOLD_SECONDS
from athena.settings import OrchestratorSettings
from tests.orchestrator.test_intents import GOOD
from tests.proxy.engines import OLLAMA_END, ollama_line
from tests.proxy.standin import Heard, StandIn
from tests.support.admin import AdminApi
from tests.support.http_server import serving
from tests.support.redis_server import RedisServer

NOBODY = "http://127.0.0.1:9"
STALL = "(says nothing)"


class Engine(StandIn):
    """An Ollama whose every model has one fixed reply: a test says which. None breaks the connection; STALL waits."""

    def __init__(self) -> None:
        super().__init__(self._reply)
        self.replies: dict[str, str | None] = {}

    async def _reply(self, heard: Heard) -> None:
        reply = self.replies.get(heard.json["model"], "an answer")
        if reply is None:
            heard.reset()
            return
        if reply == STALL:
            await heard.wait_until_left()
            return
        await heard.start("application/x-ndjson")
        for word in reply.split(" "):
            await heard.chunk(ollama_line(heard, word + " "))
        await heard.chunk(ollama_line(heard, "", **OLLAMA_END))
        await heard.end()

    def asked(self, model: str) -> list[dict[str, Any]]:
        """Return the requests for a model."""
        return [heard.json for heard in self.heard if heard.json["model"] == model]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    with engine:
        yield engine


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "intents.toml"
    file.write_text(GOOD)
    return file


Start = Callable[..., httpx.Client]


@pytest.fixture
def orchestrator(admin_api: AdminApi, engine: Engine, table: Path) -> Iterator[Start]:
    """Starts an orchestrator on the test's Admin API; the engine is its default Ollama."""
    with ExitStack() as stack:

        def start(**more: Any) -> httpx.Client:
            settings = {
                "admin_api_url": admin_api.base_url,
                "admin_api_token": admin_api.token,
                "ollama_url": engine.url,
                "orchestrator_intents_file": table,
            }
            app = create_app(OrchestratorSettings.model_validate(settings | more))
            return stack.enter_context(httpx.Client(base_url=stack.enter_context(serving(app)), timeout=30))

        yield start


@pytest.fixture
def registered(admin_api: AdminApi, engine: Engine) -> None:
    """The two models of the table, on the engine."""
    admin_api.add("small", endpoint_url=engine.url)
    admin_api.add("large", endpoint_url=engine.url)


def ask(client: httpx.Client, query: str = "Is it warm?", **more: Any) -> dict[str, Any]:
    answer = client.post("/query", json={"query": query, "mode": "owner", **more})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


@pytest.mark.usefixtures("registered")
def test_a_query_is_classified_by_the_small_model_and_answered_by_the_intents_model(
    orchestrator: Start, engine: Engine
) -> None:
    engine.replies = {"small": "talk", "large": "Warm enough."}
    body = ask(orchestrator())
    assert body["answer"].strip() == "Warm enough."
    assert (body["intent"], body["classified"]) == ("talk", True)
    classify, answer = body["steps"]
    assert (classify["name"], classify["model"], classify["backend"]) == ("classify", "small", "ollama")
    assert (answer["name"], answer["model"], answer["backend"]) == ("answer", "large", "ollama")
    assert (answer["prompt_tokens"], answer["completion_tokens"]) == (7, 5)
    assert answer["tokens_per_sec"] == pytest.approx(833.33)
    assert 0 < answer["duration_ms"] <= body["total_ms"]
    asked = engine.asked("small")[0]
    assert "home_control: lights and heating" in asked["messages"][0]["content"]
    assert asked["messages"][-1]["content"] == "Is it warm?"


@pytest.mark.usefixtures("registered")
def test_the_intent_decides_which_model_answers(orchestrator: Start, engine: Engine) -> None:
    engine.replies = {"small": "home control"}
    body = ask(orchestrator(), "Lights on, please.")
    assert body["intent"] == "home_control"
    assert [step["model"] for step in body["steps"]] == ["small", "small"]


@pytest.mark.usefixtures("registered")
def test_a_guest_gets_no_intent_that_only_the_owner_has(orchestrator: Start, engine: Engine) -> None:
    engine.replies = {"small": "home_control"}
    body = ask(orchestrator(), "Lights on, please.", mode="guest")
    assert (body["intent"], body["classified"]) == ("talk", False)
    assert "home_control" not in engine.asked("small")[0]["messages"][0]["content"]


@pytest.mark.usefixtures("registered")
def test_a_classifier_that_talks_nonsense_leads_to_the_default_intent(orchestrator: Start, engine: Engine) -> None:
    engine.replies = {"small": "\u00e9\u00e9 x7 lorem"}
    body = ask(orchestrator())
    assert (body["intent"], body["classified"]) == ("talk", False)
    assert body["steps"][1]["model"] == "large"


def test_one_model_serves_everything_where_the_registry_has_no_other(
    orchestrator: Start, engine: Engine, admin_api: AdminApi
) -> None:
    admin_api.add("only-one:1b", endpoint_url=engine.url)
    body = ask(orchestrator(ollama_url=NOBODY))
    assert [step["model"] for step in body["steps"]] == ["only-one:1b", "only-one:1b"]


def test_without_a_token_the_named_models_are_asked_for(
    orchestrator: Start, engine: Engine, admin_api: AdminApi
) -> None:
    admin_api.add("large", endpoint_url=engine.url)
    client = orchestrator(admin_api_token=None)
    assert client.get("/health").json()["status"] == "healthy"
    assert [step["model"] for step in ask(client)["steps"]] == ["small", "large"]


@pytest.mark.usefixtures("registered")
def test_a_conversation_goes_on_under_its_id(orchestrator: Start, engine: Engine) -> None:
    engine.replies = {"small": "talk", "large": "Lisbon."}
    client = orchestrator()
    first = ask(client, "Name a city.")
    ask(client, "And its river?", conversation_id=first["conversation_id"])
    told = [(message["role"], message["content"].strip()) for message in engine.asked("large")[1]["messages"]]
    assert told == [("user", "Name a city."), ("assistant", "Lisbon."), ("user", "And its river?")]


@pytest.mark.usefixtures("registered")
def test_a_guest_does_not_see_the_owners_conversation(orchestrator: Start, engine: Engine) -> None:
    client = orchestrator()
    first = ask(client, "The code of the safe is 4711.")
    ask(client, "What is the code?", conversation_id=first["conversation_id"], mode="guest")
    assert len(engine.asked("large")[1]["messages"]) == 1


@pytest.mark.usefixtures("registered")
def test_two_orchestrators_share_conversations_in_redis(
    orchestrator: Start, engine: Engine, redis_of_the_module: RedisServer
) -> None:
    one, other = orchestrator(redis_url=redis_of_the_module.url), orchestrator(redis_url=redis_of_the_module.url)
    assert one.get("/health").json() == {
        "status": "healthy",
        "components": {"llm_router": "healthy", "redis": "healthy"},
    }
    first = ask(one, "Name a city.")
    ask(other, "And its river?", conversation_id=first["conversation_id"])
    assert len(engine.asked("large")[1]["messages"]) == 3


@pytest.mark.usefixtures("registered")
def test_queries_are_answered_while_redis_is_away(orchestrator: Start, own_redis: RedisServer, engine: Engine) -> None:
    client = orchestrator(redis_url=own_redis.url)
    first = ask(client, "Name a city.")
    own_redis.stop()
    ask(client, "And its river?", conversation_id=first["conversation_id"])
    assert len(engine.asked("large")[1]["messages"]) == 3
    health = client.get("/health")
    assert health.status_code == 200
    assert health.json() == {
        "status": "degraded",
        "components": {"llm_router": "healthy", "redis": "unavailable"},
    }


def test_without_redis_memory_serves_and_health_says_so(orchestrator: Start) -> None:
    client = orchestrator()
    assert client.get("/health").json() == {
        "status": "healthy",
        "components": {"llm_router": "healthy", "redis": "memory"},
    }
    assert client.get("/livez").json() == {"status": "alive"}


@pytest.mark.usefixtures("registered")
def test_an_answer_survives_the_loss_of_the_classifier(orchestrator: Start, engine: Engine) -> None:
    engine.replies = {"small": None, "large": "Warm enough."}
    body = ask(orchestrator())
    assert body["answer"].strip() == "Warm enough."
    classify = body["steps"][0]
    assert classify["backend"] is None
    assert classify["error"]
    assert body["classified"] is False


@pytest.mark.parametrize("replies", [{"small": "talk", "large": None}, {"small": None, "large": None}])
@pytest.mark.usefixtures("registered")
def test_an_engine_that_fails_is_a_503_that_says_when_to_come_back(
    orchestrator: Start, engine: Engine, replies: dict[str, str | None]
) -> None:
    engine.replies = replies
    answer = orchestrator().post("/query", json={"query": "Is it warm?", "mode": "owner"})
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    problem = answer.json()
    assert (problem["status"], problem["type"]) == (503, "urn:athena:problem:engine_failed")
    assert "large" in problem["detail"]


def test_a_dead_engine_is_asked_once_where_one_model_does_both(orchestrator: Start, admin_api: AdminApi) -> None:
    admin_api.add("only-one", backend_type="mlx", endpoint_url=NOBODY)
    answer = orchestrator().post("/query", json={"query": "Is it warm?", "mode": "owner"})
    assert answer.status_code == 503
    assert "refused" in answer.json()["detail"].lower()


@pytest.mark.usefixtures("registered")
def test_an_engine_stops_when_the_caller_has_left(orchestrator: Start, engine: Engine) -> None:
    engine.replies = {"small": STALL}
    with pytest.raises(httpx.ReadTimeout):
        orchestrator().post("/query", json={"query": "Is it warm?"}, timeout=0.5)
    deadline = time.monotonic() + 5
    while not (engine.heard and engine.heard[0].left_at):
        assert time.monotonic() < deadline, "the engine still works for nobody"
        time.sleep(0.02)
    assert engine.asked("large") == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"mode": "owner"}, "query"),
        ({"query": "   "}, "query"),
        ({"query": "x", "mode": "king"}, "mode"),
        ({"query": "x", "conversation_id": "../../etc"}, "conversation_id"),
        ({"query": "x", "colour": "red"}, "colour"),
    ],
)
def test_a_query_that_is_none_is_refused_with_its_field(orchestrator: Start, body: dict[str, str], field: str) -> None:
    answer = orchestrator().post("/query", json=body)
    assert answer.status_code == 422
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]


def test_the_description_of_the_api_names_its_errors(orchestrator: Start) -> None:
    operation = orchestrator().get("/openapi.json").json()["paths"]["/query"]["post"]
    assert {"200", "422", "503"} <= set(operation["responses"])
    assert json.dumps(operation)


@pytest.mark.usefixtures("registered")
def test_the_metrics_tell_of_every_question_to_a_model(orchestrator: Start, engine: Engine) -> None:
    engine.replies["small"] = "talk"
    client = orchestrator()
    ask(client)
    engine.replies["large"] = None
    assert client.post("/query", json={"query": "Is it warm?"}).status_code == 503
    text = client.get("/metrics").text

    def asked(number: str, error: str, provider: str, model: str) -> str:
        labels = f'gen_ai_operation_name="chat",gen_ai_provider_name="{provider}",gen_ai_request_model="{model}"'
        return f'gen_ai_server_request_duration_seconds_count{{backend_id="{number}",{error},{labels}}}'

    assert asked("1", 'error_group="",error_type=""', "ollama", "small") + " 2.0" in text
    assert asked("2", 'error_group="",error_type=""', "ollama", "large") + " 1.0" in text
    assert asked("", 'error_group="backend",error_type="no_backend_available"', "none", "large") + " 1.0" in text
    assert 'athena_query_step_seconds_count{step="classify"} 2.0' in text
    assert 'athena_query_step_seconds_count{step="answer"} 2.0' in text
    for status in (200, 503):
        route = f'http_request_method="POST",http_response_status_code="{status}",http_route="/query"'
        assert f"http_server_request_duration_seconds_count{{{route}}} 1.0" in text
    assert 'athena_build_info{service="orchestrator",version="' in text
    assert "athena_configuration_reachable 1.0" in text


def of_redis(orchestrator: httpx.Client) -> dict[str, float]:
    """Return what an orchestrator tells of Redis."""
    told = [line.split() for line in orchestrator.get("/metrics").text.splitlines() if line.startswith("redis_")]
    return {name: float(value) for name, value in told}


def test_the_metrics_tell_of_the_redis_that_nobody_else_reaches(orchestrator: Start, own_redis: RedisServer) -> None:
    client = orchestrator(redis_url=own_redis.url)
    told = of_redis(client)
    assert told["redis_up"] == 1
    assert told["redis_memory_used_bytes"] > 100_000
    assert told["redis_connected_clients"] >= 1
    own_redis.stop()
    time.sleep(HOLD_SECONDS)
    assert of_redis(client) == {"redis_up": 0}
    own_redis.start()
    time.sleep(HOLD_SECONDS)
    assert of_redis(client)["redis_up"] == 1


def test_without_redis_the_metrics_tell_of_none(orchestrator: Start) -> None:
    assert of_redis(orchestrator()) == {}
