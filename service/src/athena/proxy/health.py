"""Whether the proxy can serve, and on what configuration."""

from athena.proxy.http import Answer, json_answer
from athena.proxy.models import Models
from athena.router.gates import Gates
from athena.router.models import is_served
from athena.router.snapshot import Configuration

HEALTHY, DEGRADED, UNHEALTHY = "healthy", "degraded", "unhealthy"


async def health(configuration: Configuration, models: Models, gates: Gates) -> Answer:
    """Return the answer of /health: 503 only if there is nothing at all to serve from.

    `backends` says of each that was asked for or probed since the start whether requests go to it, and if not, why.
    """
    snapshot = configuration.snapshot
    enabled = sum(is_served(snapshot, model) for model in snapshot.routes)
    if configuration.reachable:
        registry = HEALTHY
        detail = f"The registry is at version {snapshot.version}; {enabled} models can be served from it."
    elif snapshot.routes:
        registry = DEGRADED
        detail = f"The Admin API is out of reach; serving on the last known configuration, version {snapshot.version}."
    else:
        registry = DEGRADED
        detail = "The Admin API is out of reach and no configuration is known; "
        detail += "the default Ollama serves every model." if models.has_default else "there is no default Ollama."
    router = HEALTHY
    if not enabled and (snapshot.complete or not configuration.reachable) and await models.of_ollama() is None:
        router = UNHEALTHY
        answer = "the default Ollama does not answer" if models.has_default else "there is no default Ollama"
        detail += f" No backend is enabled, and {answer}."
    status = UNHEALTHY if router == UNHEALTHY else registry
    return json_answer(
        {
            "status": status,
            "components": {"configuration": registry, "llm_router": router},
            "detail": detail,
            "configuration": {
                "version": snapshot.version,
                "reachable": configuration.reachable,
                "complete": snapshot.complete,
            },
            "backends": gates.states(),
        },
        status=503 if status == UNHEALTHY else 200,
    )
