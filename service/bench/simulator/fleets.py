"""The fleets that are simulated: a registry's rows, the machines behind them, and what is asked of and befalls them."""

import msgspec

from athena.router.types import Backend, BackendType
from bench.simulator import machines
from bench.simulator.machines import Machine
from bench.simulator.traces import Mix


class Mishap(msgspec.Struct, frozen=True):
    """From one share of the trace's time to another a machine keeps only a part of its pace; 0: it hangs."""

    machine: str
    begins: float
    ends: float
    pace: float


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """`rate` is prompts a second. `ollama` names the machine that is the default Ollama of `auto`."""

    name: str
    title: str
    machines: tuple[Machine, ...]
    rows: tuple[Backend, ...]
    mix: Mix
    rate: float
    ollama: str
    mishaps: tuple[Mishap, ...] = ()


def _row(number: int, model: str, engine: BackendType, machine: Machine) -> Backend:
    return Backend(
        id=number, model_name=model, backend_type=engine, endpoint_url=machine.url, timeout_seconds=120, weight=1
    )


def _pair() -> tuple[Machine, ...]:
    return (
        machines.mlx("mlx", {"chat": machines.MINI_MLX_4B}),
        machines.ollama("ollama", {"chat": machines.MINI_OLLAMA_4B}),
    )


def _auto(name: str, title: str, *, rate: float, mishaps: tuple[Mishap, ...] = ()) -> Fleet:
    pair = _pair()
    return Fleet(
        name=name,
        title=title,
        machines=pair,
        rows=(_row(1, "chat", BackendType.AUTO, pair[0]),),
        mix=Mix(models={"chat": 1.0}),
        rate=rate,
        ollama="ollama",
        mishaps=mishaps,
    )


def _hosts() -> Fleet:
    """Return three hosts of unequal speed for three models, of which each Mac mini holds one or two at a time."""
    small, large = machines.MINI_OLLAMA_3B, machines.MINI_OLLAMA_8B
    mini = {"small": small, "large": large, "coder": large}
    ultra = {"small": machines.ULTRA_OLLAMA_3B, "large": machines.ULTRA_OLLAMA_8B, "coder": machines.ULTRA_OLLAMA_8B}
    found = (
        machines.ollama("mini1", mini, memory=7.5e9),
        machines.ollama("mini2", mini, memory=7.5e9),
        machines.ollama("ultra", ultra, memory=7.5e9),
    )
    rows = [
        _row(3 * number + place, model, BackendType.OLLAMA, machine)
        for number, machine in enumerate(found)
        for place, model in enumerate(mini, start=1)
    ]
    return Fleet(
        name="hosts",
        title="three models on two Mac minis and an M2 Ultra (Ollama), each with memory for one or two of them",
        machines=found,
        rows=tuple(rows),
        mix=Mix(models={"small": 3.0, "large": 2.0, "coder": 1.0}),
        rate=0.3,
        ollama="mini1",
    )


FLEETS = (
    _auto("auto", "one `auto` backend: MLX on one Mac mini, the default Ollama on another", rate=0.1),
    _hosts(),
    _auto(
        "trouble",
        "the same `auto` backend; MLX is four times slower for a quarter of the time and hangs for a tenth",
        rate=0.06,
        mishaps=(Mishap("mlx", 0.25, 0.5, 0.25), Mishap("mlx", 0.7, 0.8, 0.0)),
    ),
)
