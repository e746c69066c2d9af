"""A real Prometheus that scrapes what a test has started."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from tests.support.ports import quiet_port

READY_WITHIN_SECONDS = 20.0
SCRAPED_WITHIN_SECONDS = 60.0  # how long a busy machine may take
SCRAPE_SECONDS = 1


class Target(NamedTuple):
    """What to scrape: an address without a scheme, the labels that all of it gets, where the metrics are, and with
    which parameters they are asked for.
    """

    address: str
    labels: Mapping[str, str]
    path: str = "/metrics"
    parameters: Mapping[str, Sequence[str]] = {}


Jobs = Mapping[str, Sequence[Target]]
Sample = tuple[dict[str, str], float]


def program(name: str) -> str:
    """Return where Prometheus or one of its tools is."""
    found = shutil.which(name)
    assert found is not None, f"there is no {name}: apt-get install prometheus"
    return found


class Prometheus:
    """A running Prometheus; `url` has no trailing slash. Queries are of now, or of when `hold` was called."""

    def __init__(self, url: str, jobs: Jobs) -> None:
        self.url = url
        self.jobs = jobs
        self._moment: float | None = None
        self._client = httpx.Client(base_url=f"{url}/api/v1", timeout=30)

    def query(self, expression: str) -> list[Sample]:
        """Return the series of an instant query: the labels of each, and its value; fails where it is no query."""
        moment = {} if self._moment is None else {"time": str(self._moment)}
        answer = self._client.post("/query", data={"query": expression, **moment}).json()
        assert answer["status"] == "success", (expression, answer)
        data = answer["data"]
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(one["metric"], float(one["value"][1])) for one in data["result"]]

    def value(self, expression: str) -> float:
        """Return the value of a query that has one."""
        ((_, value),) = self.query(expression)
        return value

    def names(self, job: str) -> set[str]:
        """Return the names of all metrics of a job."""
        return set(self._get("label/__name__/values", **{"match[]": f'{{job="{job}"}}'}))

    def targets(self) -> list[dict[str, Any]]:
        """Return what is scraped, and how that went."""
        found: list[dict[str, Any]] = self._get("targets")["activeTargets"]
        return found

    def rule_errors(self) -> list[str]:
        """Return what went wrong when rules were evaluated."""
        groups = self._get("rules")["groups"]
        return [
            f"{rule['name']}: {rule['lastError']}" for group in groups for rule in group["rules"] if "lastError" in rule
        ]

    def scrape(self) -> None:
        """Return once everything was scraped that is there now, and the rules have judged by it."""
        wanted = sum(len(targets) for targets in self.jobs.values())  # it comes to know them after some seconds

        def scraped(since: str) -> bool:
            return len([one for one in self.targets() if one["health"] == "up" and one["lastScrape"] > since]) == wanted

        def told() -> object:
            return [(one["scrapeUrl"], one["lastError"], one["lastScrape"]) for one in self.targets()]

        began = _now()
        _until(lambda: scraped(began), SCRAPED_WITHIN_SECONDS, told)
        # What is told of a scrape is told before it can be asked for; by the next one it can.
        there = _now()
        _until(lambda: scraped(there), SCRAPED_WITHIN_SECONDS, told)
        there = _now()
        _until(
            lambda: all(group["lastEvaluation"] > there for group in self._get("rules")["groups"]),
            SCRAPED_WITHIN_SECONDS,
            lambda: self._get("rules")["groups"],
        )

    def hold(self) -> None:
        """Answer all queries as of now, whatever happens later."""
        self._moment = time.time()

    def close(self) -> None:
        """Ask nothing any more."""
        self._client.close()

    def _get(self, path: str, **parameters: str) -> Any:
        return self._client.get(f"/{path}", params=parameters).raise_for_status().json()["data"]


@contextmanager
def running_prometheus(folder: Path, jobs: Jobs, *, rules: Sequence[Path] = ()) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes these jobs every second, and evaluates these rules as often."""
    folder.mkdir(exist_ok=True)
    port = quiet_port()
    config = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"},
        "rule_files": [str(rule) for rule in _hurried(folder, rules)],
        "scrape_configs": [
            {
                "job_name": job if position == 0 else f"{job} {position}",
                "metrics_path": target.path,
                "params": {name: list(values) for name, values in target.parameters.items()},
                "static_configs": [{"targets": [target.address], "labels": {"job": job, **target.labels}}],
            }
            for job, targets in jobs.items()
            for position, target in enumerate(targets)
        ],
    }
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(config))
    arguments = (f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}")
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program("prometheus"), *arguments, f"--web.listen-address=127.0.0.1:{port}"], stdout=output, stderr=output
        )
    prometheus = Prometheus(f"http://127.0.0.1:{port}", jobs)
    try:
        _until(lambda: _is_ready(prometheus.url, process), READY_WITHIN_SECONDS, log.read_text)
        yield prometheus
    finally:
        prometheus.close()
        process.kill()
        process.wait()


def check_metrics(text: bytes) -> str:
    """Return what promtool has to say of an exposition; nothing where it is well."""
    ran = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, check=False)
    return (ran.stdout + ran.stderr).decode()


def _hurried(folder: Path, rules: Sequence[Path]) -> Iterator[Path]:
    """Yield copies of rules that are all evaluated as often as Prometheus does it unless told otherwise."""
    for rule in rules:
        content = yaml.safe_load(rule.read_text())
        for group in content["groups"]:
            group.pop("interval", None)
        copy = folder / rule.name
        copy.write_text(yaml.safe_dump(content))
        yield copy


def _now() -> str:
    """Return the time as Prometheus writes it."""
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e9):09d}Z"


def _is_ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "Prometheus has ended"
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def _until(holds: Callable[[], bool], seconds: float, told: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, told()
        time.sleep(0.05)
