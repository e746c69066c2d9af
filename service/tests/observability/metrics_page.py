"""The tables of docs/metrics.md, made of the code. `python -m tests.observability.metrics_page` writes them anew."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from athena.admin.metrics import AdminMetrics
from athena.agent import commands, configuration
from athena.agent.host import this_host
from athena.agent.memory import Memory
from athena.agent.metrics import AgentMetrics
from athena.agent.watcher import Watcher
from athena.db.session import Database
from athena.observability import error_types
from athena.observability.families import Family, Kind
from athena.observability.proxy_metrics import ProxyMetrics
from athena.orchestrator.metrics import OrchestratorMetrics

PAGE = Path(__file__).parents[3] / "docs/metrics.md"
ORDER = ("proxy", "orchestrator", "admin", "agent")


def families() -> dict[str, Sequence[Family]]:
    """Return the families of each service."""
    proxy = ProxyMetrics()
    proxy.watch_server(connections=int, refusals=dict, tasks=int)
    agent = AgentMetrics()
    agent.watch(_watcher())
    return {
        "proxy": proxy.families,
        "orchestrator": OrchestratorMetrics().families,
        "admin": AdminMetrics(Database("postgresql://localhost/nothing")).families,
        "agent": agent.families,
    }


def shown(family: Family) -> str:
    """Return the name that Prometheus knows a family by; a histogram has three, which begin so."""
    return f"{family.name}_total" if family.kind is Kind.COUNTER else family.name


def tables() -> Mapping[str, str]:
    """Return the page's tables by their names."""
    return {"metrics": "".join(_families()), "errors": "".join(_errors())}


def page() -> str:
    """Return the page as it should be: its text, with the tables that the code makes."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables().items():
        start, end = f"<!-- {name}: made of the code -->\n", f"<!-- {name}: end -->"
        before, _, rest = text.partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"{PAGE} has no place for the table {name}: {start!r} and {end!r}")
        text = f"{before}{start}{table}{end}{after}"
    return text


def _families() -> Iterator[str]:
    yield "| metric | kind | labels | what it tells | of |\n| --- | --- | --- | --- | --- |\n"
    services: dict[str, list[str]] = {}
    found: dict[str, Family] = {}
    every = families()
    for service in ORDER:
        for family in every[service]:
            services.setdefault(shown(family), []).append(service)
            found[shown(family)] = family
    for name, family in sorted(found.items()):
        labels = ", ".join(f"`{label}`" for label in family.labels)
        of = "all" if len(services[name]) == len(ORDER) else ", ".join(services[name])
        yield f"| `{name}` | {family.kind} | {labels} | {family.documentation} | {of} |\n"


def _errors() -> Iterator[str]:
    yield "| `error_group` | `error_type` |\n| --- | --- |\n"
    for group in error_types.ErrorGroup:
        codes = sorted(code for code, its in error_types.GROUPS.items() if its is group)
        yield f"| `{group}` | {', '.join(f'`{code}`' for code in codes)} |\n"


def _watcher() -> Watcher:
    """Return a watcher of one engine that does not run."""
    engine = '{"name": "a", "kind": "mlx", "url": "http://127.0.0.1:1", "model": "m"}'
    config = configuration.parse(f'{{"host": "mac-1", "engines": [{engine}]}}')
    return Watcher(
        config,
        host=this_host(commands.run, config.disk),
        run=commands.run,
        memory=Memory(None),
        noted=lambda _, __: None,
        restarted=lambda _, __: None,
        replaced=lambda _: None,
        changed=lambda: None,
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
