"""Measure the gateways and print the table."""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import gateways, loads
from bench.gateways.base import Gateway
from bench.loads import Figures, Load, Target
from bench.machine import CACHE, GATEWAY_CORE, UnavailableError, description, free_port, running
from bench.table import print_table
from bench.traffic import Prompts, build, engine, send

SAVED = CACHE / "figures.json"
STRAIGHT = "straight"
STRAIGHT_SECONDS = 10.0


def main() -> None:
    """Measure what was chosen, print one table for each load, and save the figures."""
    options = _options()
    try:
        program = build()
    except UnavailableError as reason:
        raise SystemExit(str(reason)) from None
    chosen = [load.quick() if options.quick else load for load in loads.ALL if _is_chosen(load.name, options.load)]
    if options.seconds:
        chosen = [load.lasting(options.seconds) for load in chosen]
    found, missing = obtain([each for each in gateways.ALL if _is_chosen(each.name, options.only)])
    result: dict[str, Any] = {
        "machine": description(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": {gateway.name: version for gateway, version in found},
        "missing": missing,
        "loads": {},
    }
    for group in _by_engines(chosen):
        measured = _measure(program, group, [gateway for gateway, _ in found], options.passes, result["missing"])
        for load in group:
            figures = medians(load, measured[load.name])
            result["loads"][load.name] = figures
            print_table(load, figures)
        options.save.parent.mkdir(parents=True, exist_ok=True)
        options.save.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\nfigures: {options.save}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="service/bench/run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short loads and one pass")
    parser.add_argument("--only", help="gateways, by the beginnings of their names: athena,nginx")
    parser.add_argument("--load", help=f"loads: {', '.join(load.name for load in loads.ALL)}")
    parser.add_argument("--passes", type=int, default=0, help="how often each is measured (5; with --quick once)")
    parser.add_argument("--seconds", type=float, help="length of a load that is not counted in prompts (3)")
    parser.add_argument("--save", type=Path, default=SAVED, help="file for the figures (%(default)s)")
    options = parser.parse_args()
    options.passes = options.passes or (1 if options.quick else 5)
    return options


def _is_chosen(name: str, choice: str | None) -> bool:
    """Whether a comma-separated choice names it; no choice is all of them."""
    return choice is None or any(name.lower().startswith(each.strip().lower()) for each in choice.split(",") if each)


def obtain(wanted: Sequence[Gateway]) -> tuple[list[tuple[Gateway, str]], dict[str, str]]:
    """Return the gateways that can be had, with their versions, and why the others cannot."""
    found: list[tuple[Gateway, str]] = []
    missing: dict[str, str] = {}
    for gateway in wanted:
        try:
            found.append((gateway, gateway.obtain()))
        except UnavailableError as reason:
            _miss(missing, gateway.name, reason)
    return found, missing


def _miss(missing: dict[str, str], name: str, reason: UnavailableError) -> None:
    missing[name] = str(reason).strip().splitlines()[-1]
    print(f"not measured: {name}: {reason}")


def _by_engines(chosen: Sequence[Load]) -> list[list[Load]]:
    """Group the loads that are sent to the same engines: for those the gateways are started once."""
    groups: dict[tuple[str, int], list[Load]] = {}
    for load in chosen:
        groups.setdefault((load.dialect, load.engines), []).append(load)
    return list(groups.values())


def _measure(
    program: Path, group: Sequence[Load], wanted: Sequence[Gateway], passes: int, missing: dict[str, str]
) -> dict[str, dict[str, list[Figures]]]:
    """Send a group's loads to each gateway in turn, pass by pass; the figures of each pass by load and gateway."""
    dialect, count = group[0].dialect, group[0].engines
    figures: dict[str, dict[str, list[Figures]]] = {load.name: {} for load in group}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engines = [stack.enter_context(engine(program, dialect)) for _ in range(count)]
        targets = []
        if count == 1:
            targets.append(Target(STRAIGHT, f"{engines[0].url}/v1/chat/completions", (), None, engines))
        for gateway in wanted:
            if (dialect != "openai" and dialect not in gateway.translates) or (count > 1 and not gateway.routes):
                continue
            port = free_port()
            place = folder / gateway.name
            place.mkdir()
            start = gateway.start(engines, port, place)
            try:
                pid = stack.enter_context(
                    running(start.command, core=GATEWAY_CORE, port=port, within=start.within, env=start.env)
                )
                target = Target(gateway.name, f"http://127.0.0.1:{port}{start.path}", start.headers, pid, engines)
                _warm_up(program, target, folder)
            except UnavailableError as reason:
                _miss(missing, gateway.name, reason)
                continue
            targets.append(target)
        for load in group:
            times = 1 if load.only_once else passes
            for number in range(1, times + 1):
                print(f"{load.name}: pass {number} of {times} …", file=sys.stderr, flush=True)
                for target in targets:
                    # What is to be taken off needs no long look, however long a gateway is looked at.
                    lasting = load if target.pid else load.lasting(min(load.prompts.seconds, STRAIGHT_SECONDS))
                    try:
                        taken = loads.measure(program, lasting, target, folder)
                    except loads.WrongAnswersError as reason:
                        missing[f"{target.name}, {load.name}"] = str(reason)
                        print(f"not measured: {target.name}, {load.name}: {reason}")
                        continue
                    figures[load.name].setdefault(target.name, []).append(taken)
    return figures


def _warm_up(program: Path, target: Target, folder: Path) -> None:
    """Wait until a gateway answers prompts; some listen long before. Raises UnavailableError if it never does."""
    deadline = time.monotonic() + 30
    while True:
        for each in target.engines:
            each.set()
        outcome = send(program, target.url, Prompts(connections=4, requests=100, seconds=10), target.headers, folder)
        if not outcome.faults:
            return
        if time.monotonic() > deadline:
            raise UnavailableError(f"it does not answer: {outcome.faults}")
        time.sleep(0.5)


def medians(load: Load, passes: dict[str, list[Figures]]) -> dict[str, Figures]:
    """Return each gateway's medians, what it adds to the way straight to the engine, and its share of nginx's rate."""
    result = {
        name: {figure: statistics.median(each[figure] for each in taken) for figure in taken[0]}
        for name, taken in passes.items()
    }
    straight, nginx = result.get(STRAIGHT), result.get("nginx")
    for name, row in result.items():
        if straight is not None and name != STRAIGHT:
            row |= {f"added_{figure}": row[figure] - straight[figure] for figure in ("p50", "p99") if figure in row}
        if load.ratio and nginx:
            row["ratio"] = row[load.ratio] / nginx[load.ratio]
    return result


if __name__ == "__main__":
    main()
