"""The parts of a router, made from its settings and wired together: one bundle per event loop."""

from athena.router.dispatch import Dispatcher
from athena.router.figures import Figures
from athena.router.snapshot import Configuration
from athena.router.upstream import UpstreamClient
from athena.settings import RouterSettings


class RouterServices:
    """Builds and owns the parts. An async context manager: open while it is entered.

    `async with RouterServices(settings) as services: reply = await services.dispatcher.open(call)`
    """

    configuration: Configuration
    upstream: UpstreamClient
    figures: Figures
    dispatcher: Dispatcher

    def __init__(self, settings: RouterSettings) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> "RouterServices":
        raise NotImplementedError

    async def __aexit__(self, *_: object) -> None:
        raise NotImplementedError
