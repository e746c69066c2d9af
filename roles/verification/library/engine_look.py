#!/usr/bin/python
"""Ask every engine that the declared backends name whether it is there and has their models."""

import http.client
import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: engine_look
short_description: List the engines of the declared backends, and what is wrong with them
options:
  backends:
    description: The declared backends, of which model_name, backend_type and endpoint_url count.
    type: list
    elements: dict
    required: true
  services:
    description: >-
      The names of the cluster for machines with engines: name, port, addresses. `ollama` is an Ollama, others are MLX.
    type: list
    elements: dict
    required: true
  default_ollama: {description: "The Ollama behind every `auto` backend, or `none`.", type: str, required: true}
  patience: {description: "How long each may take to answer, in seconds.", type: int, required: true}
"""
PATHS = {"Ollama": "/api/tags", "MLX": "/v1/models"}
KINDS = {"ollama": ("Ollama",), "mlx": ("MLX",), "auto": ("MLX",)}


@dataclass(frozen=True)
class Question:
    """An engine at an address, and the models that it is to have."""

    kind: str
    url: str
    models: tuple[str, ...]


@dataclass(frozen=True)
class Engine:
    """What became of a question: `error` says why there was no answer, `problem` what is wrong, both may be empty."""

    kind: str
    url: str
    models: tuple[str, ...]
    error: str
    problem: str


def questions(backends: list[dict[str, Any]], services: list[dict[str, Any]], default_ollama: str) -> list[Question]:
    """Return what each engine is asked for; those that no backend names only whether they are there.

    Servers of the OpenAI API are not asked: they may want a key, and let in the cluster alone.
    """
    wanted: dict[tuple[str, str], list[str]] = {}
    for service in services:
        kind = "Ollama" if service["name"] == "ollama" else "MLX"
        for address in service["addresses"]:
            wanted.setdefault((kind, f"http://{address}:{service['port']}"), [])
    for backend in backends:
        kinds = [(kind, backend["endpoint_url"]) for kind in KINDS.get(backend["backend_type"], ())]
        if backend["backend_type"] == "auto" and default_ollama != "none":
            kinds.append(("Ollama", default_ollama))
        for kind, endpoint in kinds:
            for url in machines(endpoint, services):
                models = wanted.setdefault((kind, url), [])
                if backend["model_name"] not in models:
                    models.append(backend["model_name"])
    return [Question(kind, url, tuple(models)) for (kind, url), models in wanted.items()]


def machines(endpoint: str, services: list[dict[str, Any]]) -> list[str]:
    """Return the addresses behind an endpoint: of a name of the cluster, those of its machines."""
    host = urlsplit(endpoint).hostname or ""
    name, _, rest = host.partition(".")
    if "svc" not in rest.split("."):
        return [endpoint.rstrip("/")]
    return [
        f"http://{address}:{service['port']}"
        for service in services
        if service["name"] == name
        for address in service["addresses"]
    ]


def missing(question: Question, listed: list[str]) -> list[str]:
    """Return the models that the engine does not have.

    An MLX serves the model that it was started with, whatever that is called in the registry: it lacks one if it
    lists none at all.
    """
    if question.kind == "MLX":
        return [] if listed else list(question.models)
    short = {name.removesuffix(":latest") for name in listed}
    return [model for model in question.models if model.removesuffix(":latest") not in short]


def problem(question: Question, listed: list[str], error: str) -> str:
    """Return what is wrong with an engine, with the remedy; nothing where nothing is."""
    place = f"{question.kind} at {urlsplit(question.url).netloc}"
    if error:
        setting = f"athena_{question.kind.lower()}_addresses"
        return f"{place} does not answer ({error}). Start it, or change {setting} or athena_backends."
    lacks = missing(question, listed)
    if not lacks:
        return ""
    if question.kind == "MLX":
        return (
            f"{place} has no model, and is to serve {', '.join(lacks)}. Start it with one: mlx_lm.server --model MODEL."
        )
    pulls = "; ".join(f"ollama pull {model}" for model in lacks)
    return f"{place} does not have the model {', '.join(lacks)}. Have it there: {pulls}."


def listed_in(kind: str, answer: dict[str, Any]) -> list[str]:
    """Return the names of the models in an engine's own words."""
    entries = answer.get("models" if kind == "Ollama" else "data") or []
    return [str(entry.get("name" if kind == "Ollama" else "id")) for entry in entries]


def ask(question: Question, patience: float) -> Engine:
    """Ask one engine."""
    listed, error = [], ""
    try:
        with urllib.request.urlopen(question.url + PATHS[question.kind], timeout=patience) as answer:  # noqa: S310
            listed = listed_in(question.kind, json.load(answer))
    except HTTPError as refusal:
        error = f"it says {refusal.code}"
    except http.client.RemoteDisconnected:
        # An MLX that has no cache folder drops whoever asks for the list, and answers questions all the same.
        listed, error = (["unknown"], "") if question.kind == "MLX" else ([], "it hangs up")
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as failure:
        error = str(getattr(failure, "reason", failure)) or type(failure).__name__
    return Engine(question.kind, question.url, tuple(listed), error, problem(question, listed, error))


def main() -> None:
    """Ask all of them at once."""
    module = AnsibleModule(
        argument_spec={
            "backends": {"type": "list", "elements": "dict", "required": True},
            "services": {"type": "list", "elements": "dict", "required": True},
            "default_ollama": {"type": "str", "required": True},
            "patience": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    asked = module.params
    to_ask = questions(asked["backends"], asked["services"], asked["default_ollama"])
    with ThreadPoolExecutor(max_workers=16) as pool:
        engines = list(pool.map(lambda question: ask(question, asked["patience"]), to_ask))
    module.exit_json(
        changed=False,
        engines=[asdict(engine) for engine in engines],
        problems=[engine.problem for engine in engines if engine.problem],
    )


if __name__ == "__main__":
    main()
