"""What changes which models an Ollama has: administrators alone get through, to the one engine that they mean."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from structlog.testing import capture_logs

from athena.proxy.app import create_app
from athena.proxy.keys import new_key
from athena.proxy.model_changes import CHANGES, Host, host_of
from athena.proxy.server.limits import Limits
from athena.router.errors import RequestRejectedError
from athena.router.types import Backend, BackendType, Snapshot
from athena.settings import ProxySettings
from tests.engines.server import EngineServer
from tests.proxy.conftest import TOKEN, Run, StartProxy, closed_port, running_proxy, wait_for_configuration
from tests.proxy.standin import Heard, Registry, StandIn, backend
from tests.proxy.test_registry_keys import Asking, settings_for
from tests.support.admin import AdminApi
from tests.support.prompt_server import serving_prompts

BY_TOKEN = {"authorization": f"Bearer {TOKEN}"}
WHICH = "x-athena-backend-id"
WITHIN_SECONDS = 30.0
TINY = {"model": "tiny"}


async def changing(heard: Heard) -> None:
    """Serve like Ollama, of which every model but `missing` can be changed."""
    if heard.path not in CHANGES:
        await heard.answer(b"404 page not found", status=404, content_type="text/plain")
        return
    asked = heard.json
    if "missing" in asked.values():
        await heard.answer(b'{"error":"model \'missing\' not found"}', status=404)
    elif heard.path in {"/api/copy", "/api/delete"}:
        await heard.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    elif asked.get("stream") is False:
        await heard.answer(b'{"status":"success"}', content_type="application/json; charset=utf-8")
    else:
        await heard.start("application/x-ndjson")
        for status in ("pulling manifest", "verifying sha256 digest", "success"):
            await heard.chunk(json.dumps({"status": status}).encode() + b"\n")
        await heard.end()


class Pull:
    """A pull that goes on when the test says so."""

    def __init__(self) -> None:
        self.left = threading.Event()
        self._go_on = asyncio.Event()

    def go_on(self, engine: StandIn) -> None:
        """Let the end come."""
        engine.loop.call_soon_threadsafe(self._go_on.set)

    async def __call__(self, heard: Heard) -> None:
        """Tell of the beginning, and of the end once the test lets it come, unless the caller leaves before."""
        await heard.start("application/x-ndjson")
        await heard.chunk(b'{"status":"pulling manifest"}\n')
        leaving, going_on = asyncio.create_task(heard.until_left()), asyncio.create_task(self._go_on.wait())
        await asyncio.wait({leaving, going_on}, return_when=asyncio.FIRST_COMPLETED)
        left = leaving.done()
        leaving.cancel()
        going_on.cancel()
        if left:
            self.left.set()
            return
        await heard.chunk(b'{"status":"success"}\n')
        await heard.end()


@pytest.fixture
def engine(stand_in: Run) -> StandIn:
    return stand_in(changing)


@pytest.fixture
def asking(admin_api: AdminApi, engine: StandIn, stack: ExitStack) -> Asking:
    """A proxy that asks for keys, in front of a default Ollama and nothing else."""
    settings = settings_for(admin_api.base_url, admin_api.token, engine.url)
    server = stack.enter_context(serving_prompts(create_app(settings), Limits()))
    return Asking(admin_api, wait_for_configuration(server.url))


def asked_of(engine: StandIn) -> list[Heard]:
    """Return the changes that an engine was asked for."""
    return [heard for heard in engine.heard if heard.path in CHANGES]


def change(url: str, path: str, headers: dict[str, str], **body: Any) -> httpx.Response:
    return httpx.request(CHANGES[path], url + path, json=body or TINY, headers=headers, timeout=WITHIN_SECONDS)


@pytest.mark.parametrize("path", CHANGES)
def test_a_key_for_it_gets_through_and_no_other_does(asking: Asking, engine: StandIn, path: str) -> None:
    usual = asking.make("bob")["key"]
    for headers, status in (({}, 403), ({"x-api-key": usual}, 403), ({"x-api-key": "sk-athena-guess"}, 401)):
        refused = change(asking.url, path, headers)
        assert refused.status_code == status
        assert status == 401 or "administrator" in refused.json()["error"]
    assert asked_of(engine) == []
    administrators = asking.api.client.post(
        "/api/api-keys", json={"name": "alice", "scopes": ["models", "admin"], "requests_per_minute": 1}
    ).json()["key"]
    asking.make("carol")  # once the proxy knows this one it knows the one before
    for _ in range(2):  # no prompts, and so not counted
        assert change(asking.url, path, {"x-api-key": administrators}).status_code == 200
    assert [(heard.method, heard.path, heard.json) for heard in asked_of(engine)] == [
        (CHANGES[path], path, {"model": "tiny"})
    ] * 2
    assert "x-api-key" not in asked_of(engine)[0].headers
    assert asking.post("/api/generate", {"model": "tiny", "prompt": "Once"}, administrators).status_code == 403


def test_a_key_for_some_models_changes_those_alone(asking: Asking, engine: StandIn) -> None:
    key = asking.make(scopes=["models", "admin"], models=["mine", "mine:copy"])["key"]
    for path, body in (
        ("/api/pull", {"model": "theirs"}),
        ("/api/delete", {"name": "theirs"}),
        ("/api/copy", {"source": "mine", "destination": "theirs"}),
        ("/api/create", {"model": "mine", "from": "theirs"}),
    ):
        refused = change(asking.url, path, {"x-api-key": key}, **body)
        assert refused.status_code == 403
        assert "'theirs'" in refused.json()["error"]
    assert asked_of(engine) == []
    assert change(asking.url, "/api/copy", {"x-api-key": key}, source="mine", destination="mine:copy").is_success


def test_the_installations_token_gets_through_where_no_keys_are_asked_for(
    proxy_for: StartProxy, engine: StandIn
) -> None:
    url = proxy_for(ollama_url=engine.url)
    assert change(url, "/api/pull", {"authorization": f"Bearer {TOKEN}s"}).status_code == 403
    assert change(url, "/api/pull", {"x-api-key": TOKEN}).status_code == 403
    assert asked_of(engine) == []
    assert change(url, "/api/pull", BY_TOKEN).status_code == 200


def test_without_a_token_of_its_own_a_proxy_takes_none(engine: StandIn) -> None:
    with Registry([]) as registry, running_proxy(registry.url, engine.url, token=None) as url:
        for headers in ({"authorization": "Bearer"}, {"authorization": "Bearer None"}, {}):
            assert change(url, "/api/pull", headers).status_code == 403
    assert asked_of(engine) == []


def test_a_key_of_a_file_is_no_administrators(
    engine: StandIn, stack: ExitStack, tmp_path: Path, admin_api: AdminApi
) -> None:
    key, line = new_key("carol")
    (tmp_path / "keys").write_text(line)
    settings = settings_for(admin_api.base_url, None, engine.url, proxy_api_keys_file=tmp_path / "keys")
    url = stack.enter_context(serving_prompts(create_app(settings), Limits())).url
    assert change(url, "/api/delete", {"x-api-key": key}).status_code == 403
    assert asked_of(engine) == []


def test_the_official_client_sees_each_piece_as_it_comes(stand_in: Run, proxy_for: StartProxy) -> None:
    pull = Pull()
    engine = stand_in(pull)
    client = ollama.Client(host=proxy_for(ollama_url=engine.url), headers=BY_TOKEN)
    with closing(client._client):
        progress = client.pull("tiny", stream=True)
        assert next(progress).status == "pulling manifest"
        pull.go_on(engine)
        assert [piece.status for piece in progress] == ["success"]


def test_the_official_client_does_all_of_it(proxy_for: StartProxy, engine: StandIn) -> None:
    client = ollama.Client(host=proxy_for(ollama_url=engine.url), headers=BY_TOKEN)
    with closing(client._client):
        assert client.pull("tiny").status == "success"
        assert client.push("tiny").status == "success"
        assert client.create("mine", from_="tiny").status == "success"
        assert client.copy("tiny", "other").status == "success"
        assert client.delete("tiny").status == "success"
        with pytest.raises(ollama.ResponseError, match="model 'missing' not found") as caught:
            client.delete("missing")
    assert caught.value.status_code == 404
    assert [heard.path for heard in asked_of(engine)] == [*CHANGES, "/api/delete"]


def test_an_answer_is_the_engines_and_says_which_it_was(proxy_for: StartProxy, engine: StandIn) -> None:
    url = proxy_for(ollama_url=engine.url)
    answer = change(url, "/api/pull", {**BY_TOKEN, "x-request-id": "from-the-caller"}, model="tiny", stream=False)
    assert answer.json() == {"status": "success"}
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert (answer.headers["x-athena-backend"], answer.headers[WHICH]) == ("ollama", "default")
    assert answer.headers["x-request-id"] == asked_of(engine)[0].headers["x-request-id"] == "from-the-caller"


def test_whoever_leaves_ends_the_work_for_it(stand_in: Run, proxy_for: StartProxy) -> None:
    pull = Pull()
    url = proxy_for(ollama_url=stand_in(pull).url)
    with httpx.stream("POST", url + "/api/pull", json=TINY, headers=BY_TOKEN, timeout=WITHIN_SECONDS) as reply:
        next(reply.iter_lines())
    assert pull.left.wait(WITHIN_SECONDS)


def test_a_proxy_that_ends_says_so_and_ends_the_work(stand_in: Run) -> None:
    pull = Pull()
    engine = stand_in(pull)
    with ExitStack() as running, Registry([]) as registry:
        url = wait_for_configuration(running.enter_context(running_proxy(registry.url, engine.url)))
        with httpx.stream("POST", url + "/api/pull", json=TINY, headers=BY_TOKEN, timeout=WITHIN_SECONDS) as reply:
            lines = reply.iter_lines()
            next(lines)
            ending = threading.Thread(target=running.close)
            ending.start()
            assert "being shut down" in json.loads(next(lines))["error"]
            with pytest.raises(httpx.RemoteProtocolError):
                next(lines)
        ending.join()
    assert pull.left.wait(WITHIN_SECONDS)


@pytest.fixture
def several(stand_in: Run, engine: StandIn) -> Iterator[tuple[str, StandIn, StandIn]]:
    """A proxy in front of two Ollamas, of which the second serves the backends 1 and 4, and of other servers."""
    other = stand_in(changing)
    rows = [
        backend("phi", "ollama", other.url),
        backend("auto", "auto", "http://127.0.0.1:9"),
        backend("vllm", "openai", "http://127.0.0.1:9"),
        backend("off", "ollama", other.url, enabled=False),
        backend("gone", "ollama", f"http://127.0.0.1:{closed_port()}"),
    ]
    with Registry(rows) as registry, running_proxy(registry.url, engine.url) as url:
        yield wait_for_configuration(url), engine, other


@pytest.mark.parametrize("path", CHANGES)
def test_where_there_are_several_the_caller_says_which(several: tuple[str, StandIn, StandIn], path: str) -> None:
    url, default, other = several
    unsaid = change(url, path, BY_TOKEN)
    assert unsaid.status_code == 400
    assert f"default ({default.url}), 1 ({other.url}), 5 (" in unsaid.json()["error"]
    for named in ("2", "3", "9", "x", ""):
        refused = change(url, path, {**BY_TOKEN, WHICH: named})
        assert refused.status_code == 400
        assert f"no Ollama is called '{named}'" in refused.json()["error"]
    assert asked_of(default) == asked_of(other) == []
    for named, engine in (("1", other), ("4", other), ("default", default)):
        answer = change(url, path, {**BY_TOKEN, WHICH: named})
        assert (answer.status_code, answer.headers[WHICH]) == (200, named)
        assert len(asked_of(engine)) == 1
        engine.heard.clear()
    assert asked_of(default) == asked_of(other) == []


def test_one_that_fails_is_named_and_no_other_is_asked(several: tuple[str, StandIn, StandIn]) -> None:
    url, default, other = several
    answer = change(url, "/api/pull", {**BY_TOKEN, WHICH: "5"})
    assert answer.status_code == 503
    assert "Connection refused" in answer.json()["error"]
    assert asked_of(default) == asked_of(other) == []


def test_an_answer_that_breaks_off_ends_in_an_error(stand_in: Run, proxy_for: StartProxy) -> None:
    async def breaks(heard: Heard) -> None:
        await heard.start("application/x-ndjson")
        await heard.chunk(b'{"status":"pulling manifest"}\n')
        heard.close()

    engine = stand_in(breaks)
    client = ollama.Client(host=proxy_for(ollama_url=engine.url), headers=BY_TOKEN)
    with closing(client._client), pytest.raises(ollama.ResponseError, match="failed"):
        list(client.pull("tiny", stream=True))
    assert len(asked_of(engine)) == 1


@pytest.mark.parametrize("path", CHANGES)
def test_a_change_without_an_answer_is_not_asked_for_again(stand_in: Run, proxy_for: StartProxy, path: str) -> None:
    async def silent(heard: Heard) -> None:
        if heard.path == path:
            heard.close()
        else:
            await changing(heard)

    engine = stand_in(silent)
    url = proxy_for(ollama_url=engine.url)
    assert httpx.get(url + "/api/ps").status_code == 200  # so that a connection is kept
    assert change(url, path, BY_TOKEN).status_code == 503
    assert len(asked_of(engine)) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": 1}', b"\xff"])
@pytest.mark.parametrize("path", CHANGES)
def test_what_is_no_request_reaches_no_engine(proxy_for: StartProxy, engine: StandIn, path: str, body: bytes) -> None:
    answer = httpx.request(CHANGES[path], proxy_for(ollama_url=engine.url) + path, content=body, headers=BY_TOKEN)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert asked_of(engine) == []


@pytest.mark.parametrize(("path", "method"), [*((path, "GET") for path in CHANGES), ("/api/delete", "POST")])
def test_another_method_is_answered_with_the_right_one(http: httpx.Client, path: str, method: str) -> None:
    answer = http.request(method, path, headers=BY_TOKEN)
    assert (answer.status_code, answer.headers["allow"]) == (405, CHANGES[path])


@pytest.mark.parametrize(
    ("path", "more", "status"),
    [
        ("/api/create", "", 403),
        ("/api/blobs/sha256:0", "", 403),
        ("/api/create", f"authorization: Bearer {TOKEN}\r\n", 413),
    ],
)
def test_a_body_is_read_of_administrators_alone_and_within_limits(
    proxy_for: StartProxy, engine: StandIn, path: str, more: str, status: int
) -> None:
    url = httpx.URL(proxy_for(ollama_url=engine.url, limits=Limits(body_bytes=1000)))
    with socket.create_connection((url.host, url.port or 0), timeout=WITHIN_SECONDS) as caller:
        size = 2000 if more else 500
        caller.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\n{more}content-length: {size}\r\n\r\n{{".encode())
        assert caller.recv(12) == f"HTTP/1.1 {status}".encode()
    assert asked_of(engine) == []


def test_the_log_says_who_changed_what_where_and_how_it_went(several: tuple[str, StandIn, StandIn]) -> None:
    url, _, other = several
    with capture_logs() as lines:
        change(url, "/api/pull", {**BY_TOKEN, WHICH: "1", "x-request-id": "r1"})
        change(url, "/api/delete", {**BY_TOKEN, WHICH: "1"}, name="missing")
        change(url, "/api/delete", BY_TOKEN, model="phi")
        change(url, "/api/delete", {}, model="phi")
    told = [line for line in lines if line["event"] == "models_change_completed"]
    assert [(line["change"], line["model"], line["backend_id"], line["log_level"]) for line in told] == [
        ("pull", "tiny", "1", "info"),
        ("delete", "missing", "1", "warning"),
        ("delete", "phi", None, "warning"),
    ]
    assert (told[0]["caller"], told[0]["endpoint"], told[0]["request_id"]) == ("127.0.0.1", other.url, "r1")
    assert told[1]["error"] == "status 404"
    assert "There are several Ollamas" in told[2]["error"]


def test_while_nobody_knows_which_ollamas_there_are_only_the_default_is_changed(
    engine: StandIn, stack: ExitStack
) -> None:
    settings = ProxySettings.model_validate(
        {"admin_api_url": f"http://127.0.0.1:{closed_port()}", "admin_api_token": TOKEN, "ollama_url": engine.url}
    )
    url = stack.enter_context(serving_prompts(create_app(settings), Limits())).url
    unknown = change(url, "/api/pull", BY_TOKEN)
    assert (unknown.status_code, unknown.headers["retry-after"]) == (503, "1")
    assert change(url, "/api/pull", {**BY_TOKEN, WHICH: "default"}).status_code == 200


def test_rows_of_the_default_ollama_are_no_choice() -> None:
    def snapshot(*urls: str) -> Snapshot:
        rows = [
            Backend(id=number, model_name="m", backend_type=BackendType.OLLAMA, endpoint_url=url)
            for number, url in enumerate(urls, 1)
        ]
        return Snapshot(version=1, routes={"m": tuple(rows)}, complete=True)

    assert host_of(snapshot("http://a", "http://a"), "http://a", None) == Host("http://a", "default")
    assert host_of(snapshot("http://a", "http://b"), "http://a", "2") == Host("http://b", "2")
    with pytest.raises(RequestRejectedError, match=r"default \(http://a\), 2 \(http://b\)\.$"):
        host_of(snapshot("http://a", "http://b", "http://b"), "http://a", None)
    assert host_of(snapshot("http://a", "http://a"), None, None) == Host("http://a", "1")
    with pytest.raises(RequestRejectedError, match=r"1 \(http://a\), 2 \(http://b\)\.$"):
        host_of(snapshot("http://a", "http://b"), None, None)


@pytest.mark.engine
def test_a_real_ollama_copies_makes_and_forgets_models(ollama_server: EngineServer, proxy_for: StartProxy) -> None:
    url = proxy_for(backend("tiny", "ollama", ollama_server.url))
    client = ollama.Client(host=url, headers={**BY_TOKEN, WHICH: "1"})
    directly = ollama.Client(host=ollama_server.url)

    def names() -> set[str | None]:
        return {model.model for model in directly.list().models}

    with closing(client._client), closing(directly._client):
        before = names()
        client.copy("tiny", "of-a-proxy:copied")
        steps = [
            step.status for step in client.create("of-a-proxy:made", from_="tiny", system="Be short.", stream=True)
        ]
        assert steps[-1] == "success"
        assert names() - before == {"of-a-proxy:copied", "of-a-proxy:made"}
        assert "Be short." in (directly.show("of-a-proxy:made").modelfile or "")
        for name in ("of-a-proxy:copied", "of-a-proxy:made"):
            assert client.delete(name).status == "success"
        assert names() == before
        with pytest.raises(ollama.ResponseError, match="not found") as caught:
            client.delete("of-a-proxy:made")
        assert caught.value.status_code == 404
        nowhere = f"127.0.0.1:{closed_port()}/nobody/nothing"
        with pytest.raises(ollama.ResponseError, match="pull model manifest"):
            list(client.pull(nowhere, insecure=True, stream=True))
        with pytest.raises(ollama.ResponseError, match="pull model manifest"):
            client.pull(nowhere, insecure=True)
