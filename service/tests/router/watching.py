"""What a test needs of a router that watches its engines: quick periods, an engine to command, a look at gates."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from athena.router.gate import Gate
from athena.router.periods import Periods
from athena.router.services import RouterServices
from tests.router.standin import Asked, StandIn, serve

Watched = Callable[..., Awaitable[RouterServices]]
QUICK = Periods(
    tick=0.01,
    suspect_after=0.05,
    suspect_again=0.2,
    silent_after=0.15,
    reads_after=0.05,
    check_every=0.1,
    check_within=0.08,
    generate_every=0.15,
    generate_within=0.12,
    trial_every=0.05,
    load=0.6,
    fresh=0.1,
)
PATIENCE = 0.4  # seconds that an engine may think about a prompt, where the periods are the quick ones


class Engine:
    """A behaviour that can be told what to do with prompts and with the cheap questions; it counts the probes."""

    def __init__(self) -> None:
        self.answers = True
        self.generates = True
        self.thinks = 0.0
        self.loaded: list[dict[str, object]] = []
        self.probes: list[Asked] = []
        self.prompts: list[str] = []
        self._free = asyncio.Lock()

    async def __call__(self, asked: Asked) -> None:
        """Answer one request; prompts one after the other, as an engine without parallelism does."""
        if not self.answers:
            await asked.until_left()
        elif asked.method == "GET":
            await asked.answer(200, json.dumps({"models": self.loaded}).encode())
        else:
            if asked.prompt == "Hi":
                self.probes.append(asked)
            else:
                self.prompts.append(asked.prompt)
            if not self.generates:
                await asked.until_left()
                return
            async with self._free:
                await asyncio.sleep(self.thinks)
                await serve(asked)


def gate_of(services: RouterServices, engine: StandIn) -> Gate:
    """Return the gate of an engine."""
    return next(gate for gate in services.gates if gate.endpoint_url == engine.url)


def state_of(services: RouterServices, engine: StandIn) -> str:
    """Return the state of an engine's breaker."""
    return next((one.state for one in services.gates.states() if one.endpoint == engine.url), "unknown")


def prompts_at(engine: StandIn) -> int:
    """Return how many prompts an engine has met."""
    return len([asked for asked in engine.asked if asked.method == "POST"])
