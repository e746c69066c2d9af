#!/usr/bin/python
"""Refuse models that a Mac's memory cannot hold, with the arithmetic; change nothing."""

import json
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mac_memory import (
    FiguresError,
    demand,
    from_config,
    from_model_info,
    needed_mib,
    ollama_of,
    problems,
    table,
)

DOCUMENTATION = """
module: memory_admission
short_description: Say what the declared models take of a Mac's memory, and refuse what does not fit, or say it too
description: >-
  Figures that a declaration leaves out are read: from a model's folder (config.json, and the sizes of its safetensors),
  or from an Ollama that has the model. What is declared wins over what is read.
options:
  models:
    description: "What is to be held at once: mappings with name, engine, weights_bytes and so on, see the role."
    type: list
    elements: dict
    required: true
  ollama_settings: {description: "The settings of the Ollama there, by their names.", type: dict, required: true}
  memory_mib: {description: The memory of the Mac., type: int, required: true}
  limit_mib: {description: What the GPU may wire of it., type: int, required: true}
  headroom_mib: {description: What is kept free beside the models., type: int, required: true}
  must_fit:
    description: >-
      Whether what does not fit, or cannot be added up, is refused. Otherwise `objection` has why it would have been,
      and `needed_mib` is 0 where there is no sum.
    type: bool
    default: true
"""
OLLAMA_SECONDS = 10


def read_folder(folder):
    """Return the figures of a model's folder."""
    try:
        config = json.loads((folder / "config.json").read_text())
        weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    except (OSError, ValueError) as error:
        raise FiguresError(f"its folder {folder} cannot be read: {error}") from None
    if not weights:
        raise FiguresError(f"its folder {folder} has no *.safetensors")
    return {"weights_bytes": weights, **from_config(config)}


def read_ollama(url, name):
    """Return the figures of a model that an Ollama has."""
    wanted = name if ":" in name else f"{name}:latest"
    try:
        tags = ask(f"{url.rstrip('/')}/api/tags")
        shown = ask(f"{url.rstrip('/')}/api/show", {"model": name})
    except (URLError, OSError, ValueError) as error:
        raise FiguresError(f"the Ollama at {url} does not tell of {name}: {error}") from None
    sizes = [one["size"] for one in tags.get("models", []) if one.get("name") == wanted]
    if not sizes:
        raise FiguresError(f"the Ollama at {url} has no {wanted}")
    return {"weights_bytes": sizes[0], **from_model_info(shown.get("model_info", {}))}


def ask(url, body=None):
    """Return the answer of an HTTP API, which is JSON."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("its address must begin with http:// or https://")
    data = json.dumps(body).encode() if body is not None else None
    request = Request(url, data, {"Content-Type": "application/json"})  # noqa: S310  # looked at above
    with build_opener(ProxyHandler({})).open(request, timeout=OLLAMA_SECONDS) as answer:  # an engine is behind no proxy
        return json.load(answer)


def complete(model):
    """Return a model's declaration with what was read where it says nothing."""
    try:
        if model.get("folder"):
            found = read_folder(Path(model["folder"]))
        elif model.get("ollama_url"):
            found = read_ollama(model["ollama_url"], model.get("ollama_model") or model["name"])
        else:
            found = {}
    except FiguresError as error:
        raise FiguresError(f"mac_host_models: {model['name']}: {error}; or declare its figures.") from None
    return {**found, **{name: value for name, value in model.items() if value is not None}}


def admission(models, settings, memory, limit, headroom):
    """Return what models take, and why that is too much, empty where it fits; raise FiguresError without a sum."""
    if faults := problems(models, settings):
        raise FiguresError(f"{'; '.join(faults)}.")
    ollama = ollama_of(settings)
    demands = [demand(complete(model), ollama) for model in models]
    shown = table(demands, headroom, limit, f"{memory} of memory - {memory - limit} for macOS", ollama)
    needed = needed_mib(demands, headroom, ollama)
    found = {
        "table": shown,
        "needed_mib": needed,
        "left_mib": limit - needed,
        "demands": [{"name": one.name, "engine": one.engine, "mib": one.total_mib} for one in demands],
    }
    if needed <= limit:
        return found, ""
    return found, (
        f"The models of mac_host_models need {needed} MiB, and the GPU may hold {limit} MiB:"
        f" {needed - limit} MiB too much."
    )


def main():
    module = AnsibleModule(
        argument_spec={
            "models": {"type": "list", "elements": "dict", "required": True},
            "ollama_settings": {"type": "dict", "required": True},
            "memory_mib": {"type": "int", "required": True},
            "limit_mib": {"type": "int", "required": True},
            "headroom_mib": {"type": "int", "required": True},
            "must_fit": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    asked = module.params
    try:
        found, too_much = admission(
            *(asked[name] for name in ("models", "ollama_settings", "memory_mib", "limit_mib", "headroom_mib"))
        )
    except FiguresError as error:
        if asked["must_fit"]:
            module.fail_json(msg=f"{error} Nothing was changed.")
        module.exit_json(changed=False, objection=str(error), needed_mib=0)
    if too_much and asked["must_fit"]:
        module.fail_json(
            msg=(
                f"{too_much} Nothing was changed. Declare fewer or smaller models, a smaller context_tokens, for mlx"
                " a smaller decode_concurrency, prompt_concurrency or prompt_cache_bytes, for Ollama a smaller"
                " OLLAMA_NUM_PARALLEL, OLLAMA_CONTEXT_LENGTH or OLLAMA_MAX_LOADED_MODELS, and start the engines with"
                f" the same.\n{found['table']}"
            )
        )
    module.exit_json(changed=False, objection=f"{too_much}\n{found['table']}" if too_much else "", **found)


if __name__ == "__main__":
    main()
