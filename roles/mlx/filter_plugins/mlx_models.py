"""What is declared of models: what cannot be, and the arguments with which a server of one is started."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

Model = dict[str, Any]

NAME = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
REVISION = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{64}")
PORTS = range(8080, 65536)
# The launchd job that empties the log of LABEL is LABEL.log.
RESERVED_END = ".log"

SOURCES = ("repository", "folder", "controller_folder", "random")
KEYS = {
    *("name", "port", "source", "quantise", "sha256", "draft", "memory_bytes"),
    *("decode_concurrency", "prompt_concurrency", "prompt_cache_size", "prompt_cache_bytes", "max_tokens"),
    "draft_tokens",
}
FLAGS = {
    "decode_concurrency": "--decode-concurrency",
    "prompt_concurrency": "--prompt-concurrency",
    "prompt_cache_size": "--prompt-cache-size",
    "prompt_cache_bytes": "--prompt-cache-bytes",
    "max_tokens": "--max-tokens",
    "draft_tokens": "--num-draft-tokens",
}
NUMBERS = (*FLAGS, "memory_bytes")
# Mode → bits and group sizes that mlx knows, the first of each taken where none is declared.
QUANTISATIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "affine": ((4, 1, 2, 3, 5, 6, 8), (64, 32, 128)),
    "mxfp4": ((4,), (32,)),
    "mxfp8": ((8,), (32,)),
    "nvfp4": ((4,), (16,)),
}


class FilterModule:
    """The filters of this file, by name."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {
            "mlx_problems": problems,
            "mlx_quantisation": quantisation,
            "mlx_arguments": arguments,
            "mlx_shared": shared,
            "mlx_peers_with": peers_with,
        }


def shared(files: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return of the models that are there, by name, the key and the sum by which other hosts know them."""
    return {name: {"key": made["key"], "sha256": made["sha256"]} for name, made in files.items() if made["sha256"]}


def peers_with(peers: list[dict[str, Any]], name: str) -> list[dict[str, str]]:
    """Return of the hosts (`mlx_peers`) those that have a model: where, which key it has there, and its sum."""
    return [{"url": peer["url"].rstrip("/"), **peer["models"][name]} for peer in peers if name in peer["models"]]


def problems(models: Any) -> list[str]:
    """Return what speaks against a declaration (`mlx_models`), a sentence each; nothing if it can be."""
    if not all(isinstance(model, dict) for model in models):
        return ["mlx_models must be a list of mappings, each with a name"]
    found = [
        f"mlx_models[{position}] ({model.get('name', 'without a name')}): {problem}"
        for position, model in enumerate(models)
        for problem in problems_of_one(model)
    ]
    return found + list(problems_together(models))


def problems_of_one(model: Model) -> Iterator[str]:
    """Yield what speaks against one model by itself."""
    for key in sorted(set(model) - KEYS, key=str):
        yield f"there is no key '{key}', but {', '.join(sorted(KEYS))}"
    name = model.get("name")
    if not (isinstance(name, str) and NAME.fullmatch(name) and not name.endswith(RESERVED_END)):
        yield f"name must be of a-z, 0-9, '.', '_' and '-', begin and end with a-z or 0-9, not with {RESERVED_END}"
    if "port" in model and not (is_number(model["port"]) and model["port"] in PORTS):
        yield f"port is {model['port']}; it must be a whole number from {PORTS.start} to {PORTS.stop - 1}"
    for key in NUMBERS:
        if key in model and not (is_number(model[key]) and model[key] > 0):
            yield f"{key} is {model[key]}; it must be a whole number above 0"
    if "sha256" in model and not (isinstance(model["sha256"], str) and DIGEST.fullmatch(model["sha256"])):
        yield "sha256 must be 64 hexadecimal digits; the role's README says how to compute it"
    if "draft_tokens" in model and "draft" not in model:
        yield "draft_tokens says nothing without draft, the name of the model that drafts"
    yield from problems_of_source(model.get("source"))
    if "quantise" in model:
        yield from problems_of_quantisation(model["quantise"])
    budget, cache = model.get("memory_bytes"), model.get("prompt_cache_bytes")
    if is_number(budget) and is_number(cache) and cache >= budget:
        yield f"prompt_cache_bytes, {cache}, leaves nothing of memory_bytes, {budget}, for the model itself"


def problems_of_source(source: Any) -> Iterator[str]:
    """Yield what speaks against where a model comes from."""
    if not isinstance(source, dict) or len(set(source) & set(SOURCES)) != 1:
        yield f"source must be a mapping with one of {', '.join(SOURCES)}"
        return
    for key in sorted(set(source) - set(SOURCES) - {"revision"}, key=str):
        yield f"source has no key '{key}'"
    if "repository" in source:
        if not REPOSITORY.fullmatch(str(source["repository"])):
            yield f"source.repository is {source['repository']}; it must be OWNER/NAME, as the hub has it"
        if not REVISION.fullmatch(str(source.get("revision", ""))):
            yield "source.revision must be the 40 hexadecimal digits of a commit of the repository; a branch moves"
    elif "revision" in source:
        yield "source.revision belongs to a repository of the hub"
    for key in ("folder", "controller_folder"):
        if key in source and not (isinstance(source[key], str) and PurePosixPath(source[key]).is_absolute()):
            yield f"source.{key} is {source[key]}; it must be an absolute path"
    if source.get("random", True) is not True:
        yield "source.random can only be true"


def problems_of_quantisation(declared: Any) -> Iterator[str]:
    """Yield what mlx would not take as a quantisation."""
    if not isinstance(declared, dict):
        yield "quantise must be a mapping such as {bits: 4, group_size: 64}"
        return
    for key in sorted(set(declared) - {"mode", "bits", "group_size"}, key=str):
        yield f"quantise has no key '{key}', but mode, bits, group_size"
    mode = declared.get("mode", "affine")
    if mode not in QUANTISATIONS:
        yield f"quantise.mode is {mode}; mlx knows {', '.join(QUANTISATIONS)}"
        return
    for key, known in zip(("bits", "group_size"), QUANTISATIONS[mode], strict=True):
        if key in declared and not (is_number(declared[key]) and declared[key] in known):
            yield f"quantise.{key} is {declared[key]}; for {mode}, mlx knows {', '.join(map(str, sorted(known)))}"


def problems_together(models: list[Model]) -> Iterator[str]:
    """Yield what speaks against models beside each other."""
    for key in ("name", "port"):
        for value, times in Counter(str(model[key]) for model in models if key in model).items():
            if times > 1:
                yield f"mlx_models: {times} models have the {key} {value}; give each its own"
    names = {str(model.get("name")) for model in models}
    drafts = {str(model["draft"]) for model in models if "draft" in model}
    for model in models:
        name = model.get("name")
        if "port" not in model and name not in drafts:
            yield f"mlx_models: {name} has no port; only a model that is the draft of another needs none"
        if "draft" in model and (model["draft"] == name or model["draft"] not in names):
            yield f"mlx_models: the draft of {name} is {model['draft']}; it must be the name of another of the models"


def is_number(value: Any) -> bool:
    """Return whether a value is a whole number, and not one of the words that YAML takes for true and false."""
    return isinstance(value, int) and not isinstance(value, bool)


def quantisation(declared: dict[str, Any] | None) -> dict[str, Any]:
    """Return a declared quantisation with all its figures, empty for none."""
    if declared is None:
        return {}
    mode = declared.get("mode", "affine")
    bits, group_sizes = QUANTISATIONS[mode]
    return {
        "mode": mode,
        "bits": declared.get("bits", bits[0]),
        "group_size": declared.get("group_size", group_sizes[0]),
    }


def arguments(model: Model, models_dir: str, address: str) -> list[str]:
    """Return the arguments of the server of a model. Its paths stay the same when the model changes."""
    made = ["--model", served(models_dir, model["name"]), "--host", address, "--port", str(model["port"])]
    made += ["--allowed-origins", "none"]  # it would let any page of a browser that reaches it ask
    if "draft" in model:
        made += ["--draft-model", served(models_dir, model["draft"])]
    for key, flag in FLAGS.items():
        if key in model:
            made += [flag, str(model[key])]
    return made


def served(models_dir: str, name: str) -> str:
    """Return the path under which a model is served, which is also the name by which its server knows it."""
    return f"{models_dir}/{name}/current"
