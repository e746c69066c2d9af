"""Which engine is asked for which models before a deployment, and what is said of its answer."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from types import ModuleType
from typing import Any

import pytest
from loading import load
from serving import Answering, serving

SERVICES = [
    {"name": "mlx-service", "port": 8080, "addresses": ["192.0.2.31", "192.0.2.32"]},
    {"name": "ollama", "port": 11434, "addresses": ["192.0.2.33"]},
]
OLLAMA = "http://ollama.athena.svc:11434"


@pytest.fixture(scope="module")
def look() -> ModuleType:
    return load("roles/verification/library/engine_look.py")


def backend(model: str, kind: str, url: str) -> dict[str, Any]:
    return {"model_name": model, "backend_type": kind, "endpoint_url": url}


@contextmanager
def server(answer: dict[str, Any] | None) -> Iterator[str]:
    """An engine that lists models, or with None hangs up."""

    class Handler(Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if answer is not None:
                self.answer(200, json.dumps(answer).encode())

    with serving(Handler) as address:
        yield f"http://{address}"


def test_every_machine_behind_a_name_of_the_cluster_is_asked_and_of_auto_the_ollama_as_well(look: ModuleType) -> None:
    declared = [backend("phi3:mini", "auto", "http://mlx-service.athena.svc.cluster.local:8080")]
    assert [(q.kind, q.url, q.models) for q in look.questions(declared, SERVICES, OLLAMA)] == [
        ("MLX", "http://192.0.2.31:8080", ("phi3:mini",)),
        ("MLX", "http://192.0.2.32:8080", ("phi3:mini",)),
        ("Ollama", "http://192.0.2.33:11434", ("phi3:mini",)),
    ]


def test_without_a_default_ollama_auto_is_its_mlx_alone(look: ModuleType) -> None:
    declared = [backend("phi3:mini", "auto", "http://192.0.2.40:8080")]
    assert [(q.kind, q.url) for q in look.questions(declared, [], "none")] == [("MLX", "http://192.0.2.40:8080")]


def test_an_engine_at_an_address_of_its_own_is_asked_and_one_that_no_backend_names_is_to_be_there(
    look: ModuleType,
) -> None:
    declared = [
        backend("a", "ollama", "http://192.0.2.40:11434/"),
        backend("b", "ollama", "http://192.0.2.40:11434"),
        backend("c", "openai", "http://192.0.2.50:8000"),
    ]
    asked = {q.url: q.models for q in look.questions(declared, SERVICES, OLLAMA)}
    assert asked["http://192.0.2.40:11434"] == ("a", "b")
    assert asked["http://192.0.2.33:11434"] == ()
    assert "http://192.0.2.50:8000" not in asked


def test_an_ollama_without_the_model_is_told_with_the_remedy(look: ModuleType) -> None:
    with server({"models": [{"name": "tiny:latest"}]}) as url:
        assert look.ask(look.Question("Ollama", url, ("tiny",)), 5).problem == ""
        said = look.ask(look.Question("Ollama", url, ("tiny", "phi3:mini")), 5).problem
    assert "does not have the model phi3:mini" in said
    assert "ollama pull phi3:mini" in said


def test_an_mlx_has_what_it_was_started_with_whatever_that_is_called(look: ModuleType) -> None:
    with server({"data": [{"id": "/models/phi"}]}) as url:
        assert look.ask(look.Question("MLX", url, ("phi3:mini",)), 5).problem == ""
    with server({"data": []}) as url:
        assert "has no model" in look.ask(look.Question("MLX", url, ("phi3:mini",)), 5).problem


def test_an_mlx_without_a_cache_folder_hangs_up_and_is_there_all_the_same(look: ModuleType) -> None:
    with server(None) as url:
        assert look.ask(look.Question("MLX", url, ("phi3:mini",)), 5).problem == ""
        assert "it hangs up" in look.ask(look.Question("Ollama", url, ()), 5).problem


def test_an_engine_that_is_not_there_is_told_with_the_setting(look: ModuleType) -> None:
    said = look.ask(look.Question("Ollama", "http://127.0.0.1:9", ()), 5).problem
    assert said.startswith("Ollama at 127.0.0.1:9 does not answer")
    assert "athena_ollama_addresses" in said
