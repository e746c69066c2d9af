"""What Ollama's settings and declared models mean, and what is wrong with them: Ollama takes its default instead."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

DURATION = re.compile(r"-?\d+|-?(\d+(\.\d+)?(ns|us|ms|s|m|h))+")
ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(:(?P<port>\d{1,5}))?")
DIGEST = re.compile(r"(sha256:)?[0-9a-f]{12,64}")
DURATION_WORDS = "a duration such as 10m, or seconds, negative for ever"
CACHE_TYPES = ("f16", "q8_0", "q4_0")
PORT, LAST_PORT = 11434, 65535
Judge = Callable[[Any], str]


def is_switch(value: Any) -> bool:
    return isinstance(value, bool) or str(value).lower() in ("0", "1", "true", "false")


def is_number(value: Any) -> bool:
    return not isinstance(value, bool) and re.fullmatch(r"\d+", str(value)) is not None


def is_duration(value: Any) -> bool:
    """Return whether it is a number of seconds, or a duration as Go writes it: 90, 10m, 1h30m, -1."""
    return not isinstance(value, bool) and DURATION.fullmatch(str(value)) is not None


def is_address(value: Any) -> bool:
    found = ADDRESS.fullmatch(str(value))
    return found is not None and 0 < int(found["port"] or PORT) <= LAST_PORT


def judge(is_right: Callable[[Any], bool], wanted: str) -> Judge:
    """Return what says what a value should have been, nothing of one that is right."""
    return lambda value: "" if is_right(value) else wanted


number = judge(is_number, "a whole number")
duration = judge(is_duration, DURATION_WORDS)
switch = judge(is_switch, "true or false")
JUDGES: dict[str, Judge] = {
    "OLLAMA_HOST": judge(is_address, "an address such as 127.0.0.1:11434"),
    "OLLAMA_MODELS": judge(lambda value: str(value).startswith("/"), "an absolute path"),
    "OLLAMA_KV_CACHE_TYPE": judge(lambda value: value in CACHE_TYPES, f"one of {', '.join(CACHE_TYPES)}"),
    "OLLAMA_ORIGINS": judge(lambda value: isinstance(value, (list, str)), "a list of origins"),
    "OLLAMA_DEBUG": judge(lambda value: is_switch(value) or is_number(value), "true, false or a number"),
    **dict.fromkeys(("OLLAMA_KEEP_ALIVE", "OLLAMA_LOAD_TIMEOUT"), duration),
    **dict.fromkeys(
        (
            *("OLLAMA_CONTEXT_LENGTH", "OLLAMA_GPU_OVERHEAD", "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_MAX_QUEUE"),
            "OLLAMA_NUM_PARALLEL",
        ),
        number,
    ),
    **dict.fromkeys(
        ("OLLAMA_FLASH_ATTENTION", "OLLAMA_MULTIUSER_CACHE", "OLLAMA_NOPRUNE", "OLLAMA_SCHED_SPREAD"), switch
    ),
}


def plain(value: Any) -> str:
    """Refuse what cannot be an environment's value."""
    is_plain = isinstance(value, (str, int, float)) and "\n" not in str(value)
    return "" if is_plain else "text of one line, a number, true or false"


def setting_problems(settings: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with ollama_settings, a sentence each."""
    problems = []
    for name, value in settings.items():
        if re.fullmatch(r"OLLAMA_[A-Z0-9_]+", str(name)) is None:
            problems.append(f"ollama_settings: '{name}' is no setting of Ollama, whose names begin with OLLAMA_")
        elif wanted := JUDGES.get(name, plain)(value):
            problems.append(f"ollama_settings: {name} must be {wanted}; it is {value!r}")
    return problems


def environment(settings: Mapping[str, Any], folder: str) -> dict[str, str]:
    """Return the environment of the process: the settings as Ollama reads them, and the folders that it needs."""
    given = {"OLLAMA_HOST": f"127.0.0.1:{PORT}", "OLLAMA_MODELS": f"{folder}/models", **settings}
    return {"HOME": f"{folder}/home", **{name: text(value) for name, value in sorted(given.items())}}


def text(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def port(address: str) -> int:
    """Return the port of an OLLAMA_HOST."""
    found = ADDRESS.fullmatch(address)
    return int(found["port"] or PORT) if found else PORT


def url(address: str) -> str:
    """Return where the host itself reaches an OLLAMA_HOST."""
    found = ADDRESS.fullmatch(address)
    host = found["host"] if found else "127.0.0.1"
    own = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 every address of the host, as the setting has it
    return f"http://{own.get(host, host)}:{port(address)}"


def keg_version(keg: str) -> str:
    """Return the version that a keg of Homebrew has, whose name may end in the revision of its formula: 0.34.4_1."""
    return re.sub(r"_\d+$", "", keg)


def model_problems(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with ollama_models, a sentence each."""
    names = [str(model.get("name", "")) for model in models]
    problems = [
        f"ollama_models: {name} is declared more than once" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    for model in models:
        about = f"ollama_models: {model.get('name') or 'a model'}"
        if re.fullmatch(r"[A-Za-z0-9][^\s]*", str(model.get("name", ""))) is None or "://" in str(model["name"]):
            problems.append(f"{about}: the name must be as `ollama list` shows it, such as phi3:mini")
        problems += [
            f"{about}: the {key} must be the ID that `ollama list` shows; it is {model[key]!r}"
            for key in ("digest", "former_digest")
            if key in model and DIGEST.fullmatch(str(model[key])) is None
        ]
        if "keep_alive" not in model:
            continue
        if not is_duration(model["keep_alive"]) or str(model["keep_alive"]) == "0":
            problems.append(f"{about}: keep_alive must be {DURATION_WORDS}; it is {model['keep_alive']!r}")
        if not model.get("preload"):
            problems.append(f"{about}: keep_alive is of no effect without preload: true; OLLAMA_KEEP_ALIVE is for all")
    return problems


class FilterModule:
    """The filters of the role."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "ollama_environment": environment,
            "ollama_keg_version": keg_version,
            "ollama_model_problems": model_problems,
            "ollama_port": port,
            "ollama_setting_problems": setting_problems,
            "ollama_url": url,
        }
