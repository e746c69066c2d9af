"""Whether backends are drained: what the metrics of the proxies say against it, without any I/O."""

from collections.abc import Collection, Iterator, Mapping

import msgspec
from prometheus_client.parser import text_string_to_metric_families

VERSION = "athena_configuration_version"
BUSY = ("athena_backend_in_use", "athena_backend_queued")


class Seen(msgspec.Struct, frozen=True):
    """A proxy at one moment: the registry that it routes by, and how many requests are at a backend, or wait for it."""

    version: int
    requests: Mapping[str, int]


def read(exposition: str) -> Seen:
    """Return what matters of a proxy's metrics. Raises ValueError where they are not a proxy's."""
    version: int | None = None
    requests: dict[str, int] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name == VERSION:
                version = int(sample.value)
            elif sample.name in BUSY:
                backend = sample.labels["backend_id"]
                requests[backend] = requests.get(backend, 0) + int(sample.value)
    if version is None:
        raise ValueError(f"it has no {VERSION}: is it a model proxy?")
    return Seen(version, requests)


def left(seen: Mapping[str, Seen | str], backends: Collection[int], version: int) -> list[str]:
    """Return why backends are not drained yet, a sentence each; nothing once they are.

    `seen` has of each proxy, by its address, what it said, or why it did not. One that does not route by `version` yet
    may still send a request there.
    """
    return [why for proxy, said in sorted(seen.items()) for why in _left_at(proxy, said, backends, version)]


def _left_at(proxy: str, said: Seen | str, backends: Collection[int], version: int) -> Iterator[str]:
    if isinstance(said, str):
        yield f"{proxy} does not say: {said}"
        return
    if said.version < version:
        yield f"{proxy} routes by version {said.version} of the registry, which is at {version}"
    count = sum(said.requests.get(str(backend), 0) for backend in backends)
    if count:
        yield f"{proxy} has {count} {'request' if count == 1 else 'requests'} there"
