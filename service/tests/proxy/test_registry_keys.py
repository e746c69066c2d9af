"""API keys of the registry: the real Admin API gives them out, and running proxies hold callers to them."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import psycopg
import pytest

from athena.proxy.app import create_app
from athena.proxy.caller import Caller
from athena.proxy.keyring import KeyRing
from athena.proxy.keys import KeysFile, new_key
from athena.proxy.server.limits import Limits
from athena.router.snapshot import Configuration
from athena.router.types import ApiKey, Snapshot
from athena.settings import ProxySettings
from tests.proxy.conftest import Run, closed_port, wait_for_configuration
from tests.proxy.engines import ollama_engine, openai_engine
from tests.proxy.test_ollama_models import loaded
from tests.router.registry import Registry
from tests.support.admin import AdminApi
from tests.support.http_server import serving
from tests.support.prompt_server import serving_prompts

KEYS = "/api/api-keys"
CHAT = {"model": "m-openai", "messages": [{"role": "user", "content": "Good morning"}]}
TOLD_WITHIN_SECONDS = 5.0


def within(condition: Callable[[], bool], seconds: float = TOLD_WITHIN_SECONDS) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Asking:
    """A proxy that asks for keys, over an Admin API in which they are made."""

    def __init__(self, api: AdminApi, url: str) -> None:
        self.api = api
        self.url = url

    def make(self, name: str = "alice", **fields: Any) -> dict[str, Any]:
        """Make a key, and return what is known of it once the proxy knows it too."""
        answer = self.api.client.post(KEYS, json={"name": name, **fields})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        within(lambda: self.get("/v1/models", made["key"]).status_code != 401)
        return made

    def get(self, path: str, key: str) -> httpx.Response:
        """Ask for a page."""
        return httpx.get(self.url + path, headers={"authorization": f"Bearer {key}"})

    def post(self, path: str, body: dict[str, Any], key: str) -> httpx.Response:
        """Ask for a reply."""
        return httpx.post(self.url + path, json=body, headers={"x-api-key": key})


def settings_for(admin_url: str, token: str | None, ollama_url: str, **more: Any) -> ProxySettings:
    return ProxySettings.model_validate(
        {
            "admin_api_url": admin_url,
            "admin_api_token": token,
            "ollama_url": ollama_url,
            "proxy_ask_for_keys": True,
            **more,
        }
    )


@pytest.fixture
def engines(admin_api: AdminApi, stand_in: Run) -> str:
    """The models `m-openai` and `m-ollama`; the address of the default Ollama, which has `tiny:latest`."""
    admin_api.add("m-openai", backend_type="openai", endpoint_url=stand_in(openai_engine).url)
    default = stand_in(ollama_engine)
    default.loaded = loaded("m-ollama:latest", "tiny:latest")
    admin_api.add("m-ollama", endpoint_url=default.url)
    return default.url


@pytest.fixture
def asking(admin_api: AdminApi, engines: str, stack: ExitStack) -> Asking:
    settings = settings_for(admin_api.base_url, admin_api.token, engines)
    server = stack.enter_context(serving_prompts(create_app(settings), Limits()))
    return Asking(admin_api, wait_for_configuration(server.url))


def test_a_key_lets_its_caller_in_at_once_and_a_revoked_one_is_refused_at_once(asking: Asking) -> None:
    assert httpx.post(f"{asking.url}/v1/chat/completions", json=CHAT).status_code == 401
    made, other = asking.make(), asking.make("bob")
    for _ in range(2):
        assert asking.post("/v1/chat/completions", CHAT, made["key"]).status_code == 200
    asking.api.client.post(f"{KEYS}/{made['id']}/revoke").raise_for_status()
    began = time.monotonic()
    within(lambda: asking.post("/v1/chat/completions", CHAT, made["key"]).status_code == 401)
    assert time.monotonic() - began < 2.0
    refused = asking.post("/v1/chat/completions", CHAT, made["key"])
    assert refused.json()["error"]["code"] == "unauthorized"
    assert made["key"] not in refused.text
    assert asking.post("/v1/chat/completions", CHAT, other["key"]).status_code == 200


def test_what_a_key_is_bound_to_changes_at_once_and_what_it_has_used_stays_used(asking: Asking) -> None:
    made = asking.make(requests_per_minute=100)

    def change(**fields: Any) -> None:
        asking.api.client.put(f"{KEYS}/{made['id']}", json=fields).raise_for_status()

    for _ in range(3):
        assert asking.post("/v1/chat/completions", CHAT, made["key"]).status_code == 200
    change(requests_per_minute=3)
    within(lambda: asking.post("/v1/chat/completions", CHAT, made["key"]).status_code == 429, 30)
    change(requests_per_minute=None)
    within(lambda: asking.post("/v1/chat/completions", CHAT, made["key"]).status_code == 200, 30)
    change(models=["m-ollama"])
    within(lambda: asking.post("/v1/chat/completions", CHAT, made["key"]).status_code == 403, 30)
    change(models=None, scopes=["models"])
    within(lambda: "is not for prompts" in asking.post("/v1/chat/completions", CHAT, made["key"]).text, 30)
    assert asking.get("/v1/models", made["key"]).status_code == 200


def test_a_model_that_a_key_may_not_use_is_refused_in_both_protocols_and_not_listed(asking: Asking) -> None:
    key = asking.make(models=["m-ollama", "not-there-yet"])["key"]
    refused = asking.post("/v1/chat/completions", CHAT, key)
    assert refused.status_code == 403
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_allowed", "model")
    assert "may not use the model 'm-openai'" in error["message"]
    refused = asking.post("/api/chat", CHAT, key)
    assert refused.status_code == 403
    assert refused.json() == {"error": error["message"]}
    assert (
        asking.post("/api/generate", {"model": "m-ollama", "prompt": "Once", "stream": False}, key).status_code == 200
    )
    assert [model["id"] for model in asking.get("/v1/models", key).json()["data"]] == ["m-ollama"]
    assert [model["name"] for model in asking.get("/api/tags", key).json()["models"]] == ["m-ollama"]
    assert [model["name"] for model in asking.get("/api/ps", key).json()["models"]] == ["m-ollama"]
    for model, status in (("m-ollama", 200), ("m-openai", 403), ("tiny:latest", 403)):
        assert asking.post("/api/show", {"model": model}, key).status_code == status
    for path, status in (("m-ollama", 200), ("m-openai", 403), ("tiny:latest", 403)):
        assert asking.get(f"/v1/models/{path}", key).status_code == status
    assert asking.get("/athena/why?model=m-ollama", key).status_code == 200
    assert asking.get("/athena/why?model=m-openai", key).status_code == 403
    everything = asking.make("bob")["key"]
    listed = {model["id"] for model in asking.get("/v1/models", everything).json()["data"]}
    assert {"m-openai", "m-ollama", "tiny:latest"} <= listed


def test_a_key_is_good_for_its_scopes_alone(asking: Asking) -> None:
    requests: dict[str, Callable[[str], httpx.Response]] = {
        "prompts": lambda key: asking.post("/v1/chat/completions", CHAT, key),
        "embeddings": lambda key: asking.post("/api/embed", {"model": "m-ollama", "input": "text"}, key),
        "models": lambda key: asking.get("/v1/models", key),
    }
    for scope in requests:
        key = asking.make(f"only-{scope}", scopes=[scope])["key"]
        for other, ask in requests.items():
            answer = ask(key)
            assert answer.status_code == (200 if other == scope else 403), (scope, other, answer.text)
            if other != scope:
                assert f"is not for {other}" in answer.text


def test_the_official_clients_see_the_refusals_as_their_own_errors(asking: Asking) -> None:
    made = asking.make(models=["m-ollama"])
    with openai.OpenAI(base_url=f"{asking.url}/v1", api_key=made["key"], max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["m-ollama"]
        with pytest.raises(openai.PermissionDeniedError):
            client.chat.completions.create(model="m-openai", messages=[{"role": "user", "content": "Hello"}])
    of_ollama = ollama.Client(host=asking.url, headers={"authorization": f"Bearer {made['key']}"})
    with of_ollama._client, pytest.raises(ollama.ResponseError) as caught:
        of_ollama.generate(model="m-openai", prompt="Once")
    assert caught.value.status_code == 403
    stranger = openai.OpenAI(base_url=f"{asking.url}/v1", api_key="sk-athena-guess", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_refusals_are_counted_by_their_types(asking: Asking) -> None:
    key = asking.make(models=["m-ollama"])["key"]
    asking.post("/v1/chat/completions", CHAT, key)
    asking.post("/v1/chat/completions", CHAT, "sk-athena-guess")
    page = httpx.get(f"{asking.url}/metrics").text
    for error_type in ("model_not_allowed", "unauthorized"):
        assert f'error_type="{error_type}"' in page
    assert "sk-athena" not in page


def test_keys_of_a_file_hold_beside_those_of_the_registry(
    admin_api: AdminApi, engines: str, stack: ExitStack, tmp_path: Path
) -> None:
    key, line = new_key("carol")
    (tmp_path / "keys").write_text(line)
    settings = settings_for(
        admin_api.base_url, admin_api.token, engines, proxy_ask_for_keys=False, proxy_api_keys_file=tmp_path / "keys"
    )
    server = stack.enter_context(serving_prompts(create_app(settings), Limits()))
    asking = Asking(admin_api, wait_for_configuration(server.url))
    for good in (key, asking.make()["key"]):
        assert asking.post("/v1/chat/completions", CHAT, good).status_code == 200
    assert asking.post("/v1/chat/completions", CHAT, "sk-athena-guess").status_code == 401


def test_the_keys_outlive_the_registry_and_a_restart(
    admin_api: AdminApi, engines: str, stack: ExitStack, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    settings = settings_for(admin_api.base_url, admin_api.token, engines, router_state_file=state)
    with serving_prompts(create_app(settings), Limits()) as server:
        made = Asking(admin_api, wait_for_configuration(server.url)).make(models=["m-openai"])
        within(lambda: made["prefix"] in state.read_text())
    assert made["key"] not in state.read_text()
    away = settings_for(f"http://127.0.0.1:{closed_port()}", admin_api.token, engines, router_state_file=state)
    asking = Asking(admin_api, stack.enter_context(serving_prompts(create_app(away), Limits())).url)
    assert asking.post("/v1/chat/completions", CHAT, made["key"]).status_code == 200
    assert asking.post("/v1/chat/completions", {**CHAT, "model": "m-ollama"}, made["key"]).status_code == 403
    assert asking.post("/v1/chat/completions", CHAT, "sk-athena-guess").status_code == 401


def test_while_nobody_knows_which_keys_there_are_a_caller_is_told_to_come_again(
    engines: str, stack: ExitStack, tmp_path: Path
) -> None:
    key, line = new_key("carol")
    (tmp_path / "keys").write_text(line)
    admin = f"http://127.0.0.1:{closed_port()}"
    settings = settings_for(admin, "a-token-of-these-tests", engines, proxy_api_keys_file=tmp_path / "keys")
    url = stack.enter_context(serving_prompts(create_app(settings), Limits())).url
    unknown = httpx.post(f"{url}/v1/chat/completions", json=CHAT, headers={"x-api-key": "sk-athena-perhaps"})
    assert (unknown.status_code, unknown.headers["retry-after"]) == (503, "1")
    assert "has not been told yet which API keys there are" in unknown.json()["error"]["message"]
    assert httpx.post(f"{url}/v1/chat/completions", json=CHAT).status_code == 401
    tiny = {"model": "tiny:latest", "prompt": "Once", "stream": False}
    assert httpx.post(f"{url}/api/generate", json=tiny, headers={"x-api-key": key}).status_code == 200


def test_an_admin_api_from_before_there_were_keys_does_not_stop_those_of_the_file(
    engines: str, stack: ExitStack, tmp_path: Path
) -> None:
    async def from_before(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        found = {"/api/llm-backends": b"[]", "/api/llm-backends/changes": b'{"version": 3}'}.get(scope["path"])
        headers = [(b"x-registry-version", b"3"), (b"content-length", b"%d" % len(found or b""))]
        await send({"type": "http.response.start", "status": 404 if found is None else 200, "headers": headers})
        await send({"type": "http.response.body", "body": found or b""})

    key, line = new_key("carol")
    (tmp_path / "keys").write_text(line)
    admin = stack.enter_context(serving(from_before))
    settings = settings_for(admin, "a-token-of-these-tests", engines, proxy_api_keys_file=tmp_path / "keys")
    url = wait_for_configuration(stack.enter_context(serving_prompts(create_app(settings), Limits())).url)
    tiny = {"model": "tiny:latest", "prompt": "Once", "stream": False}
    assert httpx.post(f"{url}/api/generate", json=tiny, headers={"x-api-key": key}).status_code == 200
    assert httpx.post(f"{url}/api/generate", json=tiny, headers={"x-api-key": "guess"}).status_code == 503


def test_a_key_ends_when_its_time_has_come_though_nobody_tells(asking: Asking) -> None:
    made = asking.make(expires_in_days=1)
    with psycopg.connect(asking.api.database_url) as connection:
        connection.execute("UPDATE api_keys SET expires_at = now() + interval '2 seconds' WHERE id = %s", [made["id"]])
    bob = asking.make("bob")  # whose making has the proxy load all keys again
    assert asking.post("/v1/chat/completions", CHAT, made["key"]).status_code == 200
    within(lambda: asking.post("/v1/chat/completions", CHAT, made["key"]).status_code == 401)
    assert asking.post("/v1/chat/completions", CHAT, bob["key"]).status_code == 200


def test_the_registry_learns_which_keys_are_used(admin_api: AdminApi, engines: str) -> None:
    settings = settings_for(admin_api.base_url, admin_api.token, engines)
    with serving_prompts(create_app(settings), Limits()) as server:
        asking = Asking(admin_api, wait_for_configuration(server.url))
        used = asking.make()
        idle = admin_api.client.post(KEYS, json={"name": "bob"}).json()
    # What was not told yet is told at the end.
    last_used = {key["id"]: key["last_used_at"] for key in admin_api.client.get(KEYS).json()}
    assert last_used[used["id"]] is not None
    assert last_used[idle["id"]] is None


def test_asking_for_keys_without_any_place_to_have_them_from_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="neither ADMIN_API_TOKEN"):
        ProxySettings.model_validate({"proxy_ask_for_keys": True})


def test_a_key_that_file_and_registry_have_is_held_to_what_the_registry_says(tmp_path: Path) -> None:
    key, line = new_key("alice")
    (tmp_path / "keys").write_text(line)
    of_registry = ApiKey(id=1, name="alice", prefix="sk", digest=line.split()[1], scopes=("models",), models=("m",))

    configuration = Configuration(Registry())
    configuration.snapshot = Snapshot(version=1, routes={}, complete=True, keys=(of_registry,))
    ring = KeyRing(KeysFile(tmp_path / "keys"), configuration, caller_of=lambda key: Caller(key.name, key))
    caller = ring.caller(None, key.encode())
    assert caller is not None
    assert not caller.may_use("another")
