"""The place of a backend in its model's route, and its running figures, in words. Pure."""

from collections.abc import Sequence

from athena.admin.schemas import Backend
from athena.router.judging.arms import MAIN


def place(backend: Backend, route: Sequence[Backend], *, arms: bool = False) -> list[str]:
    """Return when the router asks a backend, given all backends of its model, itself included.

    With `arms` its share is told where they are.
    """
    if not backend.enabled:
        return ["It is disabled: no request goes to it."]
    others = [other for other in route if other.enabled and other.id != backend.id]
    equals = [other for other in others if other.priority == backend.priority]
    words = [_share(backend, equals)] if others and not arms else []
    if arms:
        words = [f"It is compared with {_named(equals)} of its priority, as arm {backend.arm or MAIN}."]
    before = [other for other in others if other.priority < backend.priority]
    after = [other for other in others if other.priority > backend.priority]
    if before:
        words.append(f"It is asked where {_named(before)} cannot serve, which {_come(before)} first by priority.")
    if after:
        words.append(f"Where it cannot serve, {_named(after)} {_come(after)} next by priority.")
    if not others:
        words.append(f"It is the only enabled backend of {backend.model_name}: all requests go to it.")
    if backend.backend_type == "auto":
        words.append(
            "It is MLX at its endpoint and the default Ollama where that fails, or whichever of the two should be done "
            "sooner if the router measures (ROUTER_AUTO_POLICY)."
        )
    return words


def figures(backend: Backend) -> str:
    """Return what a backend has done so far."""
    if not backend.total_requests:
        return "Nothing was asked of it yet."
    failed = backend.total_errors / backend.total_requests
    words = f"It was asked {backend.total_requests} times, {backend.total_errors} of them in vain ({failed:.1%})"
    if backend.avg_latency_ms is not None:
        words += f"; a whole reply took {backend.avg_latency_ms / 1000:.2f} s on average"
    if backend.avg_tokens_per_sec is not None:
        words += f", at {backend.avg_tokens_per_sec:.1f} tokens/s"
    return f"{words}."


def _share(backend: Backend, equals: Sequence[Backend]) -> str:
    if not equals:
        return f"It has priority {backend.priority} to itself."
    if not backend.weight:
        return f"It has no share (weight 0): it is asked where {_named(equals)} of the same priority cannot serve."
    rivals = [other for other in equals if other.weight]
    if rivals and all(other.weight == backend.weight for other in rivals):
        return (
            f"It shares priority {backend.priority} with {_named(rivals)} of the same weight: each prompt goes where "
            f"it should be done first, or to each {1 / (len(rivals) + 1):.0%} if the router goes by weight "
            "(ROUTER_HOST_POLICY=weighted)."
        )
    total = backend.weight + sum(other.weight for other in rivals)
    return (
        f"It shares priority {backend.priority} with {_named(equals)}: by weight ({backend.weight} of {total}) it gets "
        f"{backend.weight / total:.0%}, unless the router sends each prompt where it should be done first "
        "(ROUTER_HOST_POLICY=warm)."
    )


def _named(backends: Sequence[Backend]) -> str:
    numbers = [str(backend.id) for backend in backends]
    if len(numbers) == 1:
        return f"backend {numbers[0]}"
    return f"backends {', '.join(numbers[:-1])} and {numbers[-1]}"


def _come(backends: Sequence[Backend]) -> str:
    return "comes" if len(backends) == 1 else "come"
