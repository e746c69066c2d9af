"""What follows from the declaration of models (`athena_models`) for registry and hosts, and what is wrong with it."""

import hmac
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Model = Mapping[str, Any]

OLLAMA_PORT = 11434
# What a declaration is made of. What mlx and ollama are told, and the figures of the admission, their roles judge.
COMMON = ("name", "engine", "hosts", "backend", "agent")
FIGURES = ("context_tokens", "weights_bytes", "kv_bytes_per_token", "layers", "kv_heads", "head_dim", "value_dim")
# What counts in the admission besides, of what a server of mlx is told.
COUNTED = ("decode_concurrency", "prompt_concurrency", "prompt_cache_size", "prompt_cache_bytes")
# Where the role mac_host reads what is not said.
SOURCES = ("folder", "ollama_url", "ollama_model")
MLX = (
    *("port", "source", "quantise", "sha256", "draft", "draft_tokens", "memory_bytes", "decode_concurrency"),
    *("prompt_concurrency", "prompt_cache_size", "prompt_cache_bytes", "max_tokens"),
)
OLLAMA = ("digest", "insecure", "preload", "keep_alive")
KEYS = {"mlx": (*COMMON, *FIGURES, *MLX), "ollama": (*COMMON, *FIGURES, *OLLAMA, "parallel")}
# What is said elsewhere.
INSTEAD = {
    ("mlx", "parallel"): "; the count of requests at once is decode_concurrency",
    ("ollama", "kv_bits"): "; that is OLLAMA_KV_CACHE_TYPE of ollama_settings",
}
TYPES = {"mlx": ("mlx", "auto"), "ollama": ("ollama",)}
BACKEND = (
    *("model_name", "backend_type", "enabled", "max_tokens", "temperature_default", "timeout_seconds", "priority"),
    *("weight", "max_concurrency", "max_queue", "first_token_seconds", "stall_seconds", "capabilities", "arm"),
)


class FilterModule:
    """The filters of this file, by name."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {
            "fleet_agents_token": agents_token,
            "fleet_backends": backends,
            "fleet_egress": egress,
            "fleet_guarded": guarded,
            "fleet_host": of_host,
            "fleet_peers": peers,
            "fleet_problems": problems,
            "fleet_record": of_record,
            "fleet_unchanged": unchanged,
            "fleet_with_digests": with_digests,
        }


# --- what is wrong ----------------------------------------------------------------------------------------------------


def problems(models: Any, hosts: Sequence[str]) -> list[str]:
    """Return what speaks against a declaration, a sentence each with its remedy; nothing if it can be."""
    if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        return ["athena_models must be a list of mappings, each with name and engine"]
    found = [
        f"athena_models[{place}] ({model.get('name') or 'without a name'}): {fault}"
        for place, model in enumerate(models)
        for fault in _faults(model, hosts)
    ]
    if found:  # what they are beside each other can only be said of models that hold by themselves
        return found
    return [fault for host in hosts for fault in _faults_on(host, on_host(models, host))] + list(
        _faults_of_rows(models)
    )


def _faults(model: Model, hosts: Sequence[str]) -> Iterator[str]:
    if not isinstance(model.get("name"), str) or not model["name"]:
        yield "it has no name, which is what callers call it"
    engine = model.get("engine")
    if engine not in KEYS:
        yield f"engine must be mlx or ollama; it is {engine or 'not set'}"
        return
    for key in sorted(set(model) - set(KEYS[engine]), key=str):
        instead = INSTEAD.get((engine, key)) or ", but " + ", ".join(KEYS[engine])
        yield f"there is no key '{key}' for {engine}{instead}"
    for key in ("backend", "agent"):
        if not isinstance(model.get(key, {}), dict):
            yield f"{key} must be a mapping"
    yield from _faults_of_hosts(model.get("hosts"), hosts)
    if isinstance(model.get("backend", {}), dict):
        yield from _faults_of_backend(model, model.get("backend", {}))


def _faults_of_hosts(named: Any, hosts: Sequence[str]) -> Iterator[str]:
    if named is None:
        if not hosts:
            yield "the group engines of the inventory has no hosts; name there those that serve models"
        return
    if not isinstance(named, list) or not named:
        yield "hosts must be a list of names; left out, the model is on all hosts of the group engines"
        return
    for host in named:
        if host not in hosts:
            yield f"hosts: there is no {host} in the group engines, but {', '.join(hosts) or 'nothing'}"
    for host, times in Counter(map(str, named)).items():
        if times > 1:
            yield f"hosts names {host} {times} times"


def _faults_of_backend(model: Model, fields: Mapping[str, Any]) -> Iterator[str]:
    for field in sorted(set(fields) - set(BACKEND), key=str):
        hint = "follows from hosts and port" if field == "endpoint_url" else f"is none of {', '.join(BACKEND)}"
        yield f"backend: {field} {hint}"
    kind = fields.get("backend_type")
    if kind is not None and kind not in TYPES[model["engine"]]:
        yield f"backend: backend_type must be {' or '.join(TYPES[model['engine']])}; it is {kind}"
    if model["engine"] == "ollama" and fields.get("model_name", model.get("name")) != model.get("name"):
        yield "backend: model_name must be left out; Ollama knows a model by its name"
    if model["engine"] == "mlx" and "port" not in model and fields:
        yield "backend is of no use without a port; a model without one only drafts for another"


def _faults_on(host: str, models: Sequence[Model]) -> Iterator[str]:
    ports = Counter(model["port"] for model in models if "port" in model)
    for port, times in sorted(ports.items(), key=str):
        if times > 1 or port == OLLAMA_PORT:
            names = ", ".join(model["name"] for model in models if model.get("port") == port)
            yield (
                f"athena_models: on {host} the port {port} is that of {names}"
                + (" and of Ollama" if port == OLLAMA_PORT else "")
                + "; give each its own"
            )
    for (engine, name), times in Counter((model["engine"], model["name"]) for model in models).items():
        if times > 1:
            yield f"athena_models: {name} is on {host} {times} times for {engine}; leave one out"
    drafts = {model["name"] for model in models if model["engine"] == "mlx"}
    for model in models:
        draft = model.get("draft", model["name"])
        if model["engine"] == "mlx" and draft not in drafts:
            yield f"athena_models: the draft of {model['name']}, {draft}, is not on {host}; add that to its hosts"


def _faults_of_rows(models: Sequence[Model]) -> Iterator[str]:
    rows = Counter(
        (_called(model), host, model.get("port", OLLAMA_PORT))
        for model in models
        for host in model.get("hosts") or [""]
    )
    for (name, _, port), times in rows.items():
        if times > 1:
            yield f"athena_models: {times} backends of {name} would be at port {port} of one host; leave one out"


# --- what follows -----------------------------------------------------------------------------------------------------


def on_host(models: Iterable[Model], host: str) -> list[Model]:
    """Return the models of a host."""
    return [model for model in models if host in (model.get("hosts") or [host])]


def backends(models: Sequence[Model], addresses: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the backends for the registry, none of what does not hold; `addresses`: how routers reach each host."""
    if problems(models, list(addresses)):
        return []
    return [row for host in addresses for row in _rows(on_host(models, host), addresses[host])]


def egress(models: Sequence[Model], addresses: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the network rules with which pods reach the engines of hosts whose address is one of IPv4."""
    ports: dict[str, set[int]] = {}
    for host in addresses if not problems(models, list(addresses)) else ():
        address = addresses[host]
        if address.replace(".", "").isdigit():
            ports.setdefault(address, set()).update(_ports(on_host(models, host)))
    return [{"cidr": f"{address}/32", "ports": sorted(found)} for address, found in ports.items() if found]


def guarded(declared: Any, served: Iterable[Any]) -> Any:
    """Return the ports and ranges that a Mac's firewall guards, with those that are served and not among them.

    None declared is no firewall, and stays so; what is no list, or no port, the roles of the host refuse.
    """
    if not isinstance(declared, list) or not declared:
        return declared
    ports = sorted({int(port) for port in served if str(port).isdigit()} - {0})
    return [*declared, *(port for port in ports if not any(_has(one, port) for one in declared))]


def _has(declared: Any, port: int) -> bool:
    """Return whether a port or a range such as 8080:8099 has a port; what is neither has none."""
    first, _, last = str(declared).partition(":")
    return first.isdigit() and (last or first).isdigit() and int(first) <= port <= int(last or first)


def _ports(models: Sequence[Model]) -> set[int]:
    return {model.get("port", OLLAMA_PORT) for model in models if model["engine"] == "ollama" or "port" in model}


def _rows(models: Sequence[Model], address: str) -> list[dict[str, Any]]:
    rows = []
    # What an Ollama is started with: to it, longer prompts are cut without a word. That a model has less by
    # itself is for the router to find out. A server of MLX has no such setting: it takes any prompt, and the memory for
    # it, so that only routers keep what it holds to what the admission has counted.
    shared = _shared([model for model in models if model["engine"] == "ollama"]).get("context_tokens")
    for model in models:
        if model["engine"] == "mlx" and "port" not in model:
            continue
        port = model["port"] if model["engine"] == "mlx" else OLLAMA_PORT
        at_once = model.get("decode_concurrency" if model["engine"] == "mlx" else "parallel")
        said = model.get("backend", {})
        able = said.get("capabilities", {})
        context = model.get("context_tokens") if model["engine"] == "mlx" else shared
        if context and isinstance(able, dict):
            said = {**said, "capabilities": {"context_tokens": context, **able}}
        rows.append(
            {
                "model_name": model["name"],
                "backend_type": model["engine"],
                "endpoint_url": f"http://{address}:{port}",
                **({"max_concurrency": at_once} if at_once else {}),
                **said,
            }
        )
    return rows


def _shared(models: Sequence[Model]) -> dict[str, int]:
    """Return what one Ollama has for all its models: the largest that is declared."""
    return {
        key: max(model[key] for model in models if key in model)
        for key in ("parallel", "context_tokens")
        if any(key in model for model in models)
    }


def _called(model: Model) -> str:
    return str(model.get("backend", {}).get("model_name", model["name"]))


def of_host(models: Sequence[Model], host: str, addresses: Mapping[str, str], mlx_dir: str) -> dict[str, Any]:
    """Return what the roles of a host are told, by their variables, its backends, and whom to ask for a token.

    `mlx_shares` and `ollama_shares` say whether there are other hosts to copy its models. An Ollama has one count of
    requests at once and one length of context for all its models: the largest declared.
    """
    found = on_host(models, host)
    mlx = [model for model in found if model["engine"] == "mlx"]
    ollama = [model for model in found if model["engine"] == "ollama"]
    shared = _shared(ollama)
    return {
        "mlx_models": [_only(model, ("name", *MLX)) for model in mlx],
        "mlx_shares": bool(mlx) and len(addresses) > 1,
        "ollama_shares": bool(ollama) and len(addresses) > 1,
        "ollama_models": [_only(model, ("name", *OLLAMA)) for model in ollama],
        "ollama_settings": {
            "OLLAMA_HOST": f"0.0.0.0:{OLLAMA_PORT}",
            **({"OLLAMA_NUM_PARALLEL": shared["parallel"]} if "parallel" in shared else {}),
            **({"OLLAMA_CONTEXT_LENGTH": shared["context_tokens"]} if "context_tokens" in shared else {}),
        },
        "mac_host_models": [*_needs_of_mlx(mlx), *map(_needs_of_ollama, ollama)],
        "agent_engines": [_watched_mlx(model, mlx_dir) for model in mlx if "port" in model] + _watched_ollama(ollama),
        "backends": _rows(found, addresses[host]),
        "asked": [
            {"name": model["name"], "engine": model["engine"], "port": model.get("port", OLLAMA_PORT)}
            for model in found
            if model["engine"] == "ollama" or "port" in model
        ],
    }


def peers(shared: Mapping[str, Any], host: str, addresses: Mapping[str, str], port: int) -> list[dict[str, Any]]:
    """Return where a host may copy an engine's models from: the other hosts that have some (`shared`, by host)."""
    return [
        {"url": f"http://{addresses[other]}:{port}", "models": has}
        for other, has in shared.items()
        if other != host and has
    ]


def unchanged(models: Sequence[Model], others: Sequence[Model]) -> list[Model]:
    """Return those models of MLX that `others` declares alike, with what drafts for them: their servers hold the same.

    All other servers end before a host changes from the one to the other. Where they ended one after the other, each
    just before it starts anew, one that has grown already would be held together with one that is still to shrink.
    """
    by_name = {model["name"]: model for model in others}
    same = {model["name"] for model in models if by_name.get(model["name"]) == model}
    return [model for model in models if {model["name"], model.get("draft", model["name"])} <= same]


def of_record(record: Mapping[str, Any], environment: str = "") -> dict[str, Any]:
    """Return what a host was last, as this release says it.

    Without what the models of Ollama were, which no declaration says. An earlier one did not say which environment
    served MLX's models: the one in force, whose name is given. And it said more about what models hold:
    `parallel` was the count of requests at once: of mlx that is decode_concurrency, of Ollama it is in its settings,
    which the record has. The bits of its cache (`kv_bits`) are there as well, and mlx was never told any.
    """
    told = {key: value for key, value in record.items() if key != "ollama_digests"}
    if told.get("mlx", {}).get("models"):
        told["mlx"] = {"environment": environment, **told["mlx"]}
    if "mac_host" in told:
        held = [_of_earlier(model) for model in told["mac_host"].get("models", [])]
        told["mac_host"] = {**told["mac_host"], "models": held}
    return told


def with_digests(models: Sequence[Model], digests: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return models of Ollama with what each was, for the way back: that counts where no digest is declared."""
    known = {model["name"]: {"former_digest": digests[model["name"]]} for model in models if model["name"] in digests}
    return [{**model, **known.get(model["name"], {})} for model in models]


def _of_earlier(model: Model) -> dict[str, Any]:
    more = COUNTED if model["engine"] == "mlx" else ()
    at_once = {"decode_concurrency": model["parallel"]} if model["engine"] == "mlx" and "parallel" in model else {}
    return {**at_once, **_only(model, ("name", "engine", *FIGURES, *more, *SOURCES))}


def agents_token(admin_token: str | None) -> str:
    """Return the token that the agents of hosts report with, which follows from the installation's; empty of none.

    The Admin API knows it as well, and gives it the scope `service`: it cannot change the registry.
    """
    text = (admin_token or "").strip()
    return hmac.new(text.encode(), b"athena: agents of hosts", "sha256").hexdigest() if text else ""


def _only(model: Model, keys: Sequence[str]) -> dict[str, Any]:
    return {key: model[key] for key in keys if key in model}


def _needs_of_mlx(models: Sequence[Model]) -> list[dict[str, Any]]:
    """Return what each server holds: its model, and the one that drafts for it, with as long a context.

    With a draft a server has one request at a time, and keeps prompts of both models together.
    """
    by_name = {model["name"]: model for model in models}
    needs: list[dict[str, Any]] = []
    for model in models:
        if "port" not in model:
            continue
        if "draft" not in model:
            needs.append(_held(model, model["name"], _only(model, COUNTED)))
            continue
        alone = {"decode_concurrency": 1, "prompt_concurrency": 1}
        kept = _only(model, ("prompt_cache_size", "prompt_cache_bytes"))
        needs.append(_held(model, model["name"], {**alone, **kept}))
        context = _only(model, ("context_tokens",))
        of_draft = {**alone, **context, **({"prompt_cache_bytes": 0} if "prompt_cache_bytes" in kept else kept)}
        needs.append(_held(by_name[model["draft"]], f"{model['draft']} for {model['name']}", of_draft))
    return needs


def _held(model: Model, name: str, more: Mapping[str, Any]) -> dict[str, Any]:
    needs = {"name": name, "engine": "mlx", **_only(model, FIGURES), **more}
    source = model.get("source")
    if "weights_bytes" not in model and isinstance(source, dict) and "folder" in source:
        needs["folder"] = source["folder"]
    return needs


def _needs_of_ollama(model: Model) -> dict[str, Any]:
    needs = {"name": model["name"], "engine": "ollama", **_only(model, FIGURES)}
    if "weights_bytes" not in model:  # of a model that it has already, it tells
        needs["ollama_url"] = f"http://127.0.0.1:{OLLAMA_PORT}"
    return needs


def _watched_mlx(model: Model, mlx_dir: str) -> dict[str, Any]:
    return {
        "name": model["name"],
        "kind": "mlx",
        "url": f"http://127.0.0.1:{model['port']}",
        "model": f"{mlx_dir}/models/{model['name']}/current",
        "label": f"com.athena.mlx.{model['name']}",
        **model.get("agent", {}),
    }


def _watched_ollama(models: Sequence[Model]) -> list[dict[str, Any]]:
    """Return the one Ollama, by a model that stays loaded if there is one: no probe loads a model."""
    if not models:
        return []
    asked = next((model for model in models if model.get("preload")), models[0])
    return [
        {
            "name": "ollama",
            "kind": "ollama",
            "url": f"http://127.0.0.1:{OLLAMA_PORT}",
            "model": asked["name"],
            "label": "com.athena.ollama",
            **asked.get("agent", {}),
        }
    ]
