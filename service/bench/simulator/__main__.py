"""Replay arrival traces over simulated engines with each policy, and print the tail times."""

import argparse
import logging
import time
from collections.abc import Mapping

import structlog

from bench.peers import REPOSITORY
from bench.plot import filled
from bench.simulator import picture, report
from bench.simulator.fleets import FLEETS, Fleet
from bench.simulator.policies import POLICIES
from bench.simulator.report import Figures
from bench.simulator.routing import Outcome, Simulation
from bench.simulator.traces import TRACES, trace

PAGE = REPOSITORY / "docs/routing.md"
PICTURE = REPOSITORY / "docs/routing.svg"


def main() -> None:
    """Print a table for each fleet and trace."""
    parser = argparse.ArgumentParser(prog="service/bench/simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first trace (%(default)s)")
    parser.add_argument("--prompts", type=int, default=500, help="in each trace (%(default)s)")
    parser.add_argument("--traces", type=int, default=2, help="of each kind, with seeds that follow (%(default)s)")
    parser.add_argument("--only", help="fleets and traces, as in auto,flood; all others are left out")
    parser.add_argument("--docs", action="store_true", help="put the tables and the plot into docs/routing.md")
    options = parser.parse_args()
    if options.docs and options.only:
        parser.error("--docs shows all fleets and traces: leave --only out")
    # The router's own lines would be about engines that do not exist.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    only = set(options.only.split(",")) if options.only else set()
    begun = time.monotonic()
    compared: dict[str, dict[str, Figures]] = {}
    for fleet in FLEETS:
        for kind in TRACES:
            if only and not only & {fleet.name, kind}:
                continue
            found = compare(fleet, kind, seed=options.seed, prompts=options.prompts, traces=options.traces)
            compared[f"{fleet.name}, {kind}"] = found
            print(f"\n{kind}: {fleet.title}\n{report.text(report.table(found))}", flush=True)
    print(f"\nSeconds. Prompts of one who floods are not counted. Took {time.monotonic() - begun:.0f} s.")
    if options.docs:
        PICTURE.write_text(picture.picture(compared), encoding="utf-8")
        asked = f"{options.traces} traces of {options.prompts} prompts each, seeds from {options.seed} on"
        text = filled(PAGE.read_text(encoding="utf-8"), {"figures": tables(compared, asked)})
        PAGE.write_text(text, encoding="utf-8")
        print(f"{PICTURE}\n{PAGE}")


def tables(compared: Mapping[str, Mapping[str, Figures]], asked: str) -> str:
    """Return all tables as Markdown, and what they are of."""
    parts = [f"Seconds; {asked}."]
    parts += [f"**{heading}**\n\n{report.markdown(report.table(found))}" for heading, found in compared.items()]
    return "\n\n".join(parts)


def compare(fleet: Fleet, kind: str, *, seed: int, prompts: int, traces: int) -> dict[str, Figures]:
    """Return the figures of each policy for the same traces."""
    asked = [
        trace(TRACES[kind], fleet.mix, rate=fleet.rate, count=prompts, seed=seed + number) for number in range(traces)
    ]
    found = {}
    for name, make in POLICIES.items():
        outcomes: list[Outcome] = []
        loads = 0
        for number, asks in enumerate(asked):
            simulation = Simulation(fleet, make, seed=seed + number)
            outcomes += simulation.run(asks)
            loads += simulation.loads
        found[name] = report.figures(outcomes, loads)
    return found


if __name__ == "__main__":
    main()
