"""Why requests go where they go, over HTTP and by the command."""

import httpx
import pytest

from tests.support.processes import athena


def test_a_model_s_route_is_told_with_its_state(http: httpx.Client) -> None:
    told = http.get("/athena/why", params={"model": "m-mlx"})
    assert told.status_code == 200
    assert told.json()["model"] == "m-mlx"
    (choice,) = told.json()["choices"]
    assert choice["order"][0].startswith("mlx at http://127.0.0.1:")
    assert "in the route" in choice["figures"][0]


@pytest.mark.parametrize("query", ["", "?model=", "?model=a&model=b", "?other=m"])
def test_one_model_has_to_be_named(http: httpx.Client, query: str) -> None:
    refused = http.get("/athena/why" + query)
    assert refused.status_code == 422
    assert "name one model" in refused.json()["error"]["message"]
    assert http.post("/athena/why").status_code == 405


def test_the_command_prints_it_in_words(proxy: str) -> None:
    done = athena("why", "m-ollama", "--proxy", proxy)
    assert done.returncode == 0, done.stderr
    first, order, figures = done.stdout.splitlines()
    assert first == "m-ollama: priority"
    assert "priority" in order
    assert "ollama at http://127.0.0.1:" in figures


def test_the_command_says_where_no_proxy_is() -> None:
    done = athena("why", "m", "--proxy", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the proxy at http://127.0.0.1:9 cannot be reached")
