"""The system under traffic, and the Prometheus that has watched it; both are there for all tests of a session.

`filled_prometheus` is for whoever has queries to try: dashboards, rules.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.monitoring.exporters import running_exporters
from tests.monitoring.prometheus import Jobs, Prometheus, running_prometheus
from tests.monitoring.system import System, running_system
from tests.monitoring.traffic import Callers, Tally, read_admin, settled
from tests.support.postgres import PostgresServer

RULES = Path(__file__).parents[3] / "roles/prometheus/files/rules"


@pytest.fixture(scope="session")
def system(
    database_server: PostgresServer, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """All services, on a database of their own."""
    name = database_server.create_database(migrated_template)
    with running_system(tmp_path_factory.mktemp("system"), database_server.url(name)) as system:
        yield system
    database_server.drop_database(name)


@pytest.fixture(scope="session")
def exporters(
    system: System, database_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Jobs]:
    """What tells of hosts, database, Redis and addresses."""
    with running_exporters(tmp_path_factory.mktemp("exporters"), system, database_server.url()) as jobs:
        yield jobs


@pytest.fixture(scope="session")
def watching(system: System, exporters: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes all of it, with the role's rules."""
    rules, jobs = sorted(RULES.glob("*.yml")), {**system.jobs(), **exporters}
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), jobs, rules=rules) as prometheus:
        yield prometheus


@pytest.fixture(scope="session")
def traffic(system: System, watching: Prometheus) -> Tally:
    """What callers got, in two rounds, so that every series has grown while it was watched."""
    watching.scrape()
    callers = Callers(system)
    for _ in range(2):
        callers.everything()
        assert list(read_admin(system)) == [200, 404, 200, 200, 404]
        settled(system, callers.tally)
        watching.scrape()
    callers.close()
    watching.hold()  # tests may do what they like with the system afterwards
    return callers.tally


@pytest.fixture(scope="session")
def filled_prometheus(watching: Prometheus, traffic: Tally) -> Prometheus:
    """A Prometheus that has seen traffic of several models, engines, errors, streams and fallbacks.

    It answers as of the end of that traffic.
    """
    assert traffic.replies
    return watching
