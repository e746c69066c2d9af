"""What tells Prometheus of the rest: real exporters, files that are left to them, a Mac as its agent tells of it."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from athena.agent.host.figures import HostFigures
from athena.agent.metrics import AgentMetrics
from athena.agent.watcher import Watcher
from tests.monitoring.prometheus import Jobs, Target
from tests.monitoring.system import System
from tests.support.http_server import serving
from tests.support.ports import quiet_port
from tests.support.redis_server import RedisServer

READY_WITHIN_SECONDS = 20.0
# As the role exporters has it.
PROBES = (
    "modules: {health: {prober: http, timeout: 5s, http: {preferred_ip_protocol: ip4, valid_status_codes: [200]}}}\n"
)
# What the kernel of a machine with sensors has in /sys, which the machine of a test need not be.
SENSORS = {
    "class/thermal/thermal_zone0/type": "x86_pkg_temp",
    "class/thermal/thermal_zone0/policy": "step_wise",
    "class/thermal/thermal_zone0/temp": "61000",
    "class/hwmon/hwmon0/name": "k10temp",
    "class/hwmon/hwmon0/temp1_input": "63000",
}
# What no Linux tells, as a Mac with 64 GB does: the GPU may pin 48 GB of it. Degrees it does not tell.
MAC = HostFigures(
    memory_total=64 << 30,
    memory_available=14 << 30,
    memory_wired=45 << 30,
    memory_wired_limit=48 << 30,
    disk_total=1 << 40,
    disk_free=1 << 39,
    uptime=86400.0,
    speed_limit=80.0,
    thermal_warning=1,
    thermal_pressure=2,
    gpu_percent=97.0,
)


@contextmanager
def running_exporters(folder: Path, system: System, database_url: str) -> Iterator[Jobs]:
    """Run the exporters of a host, of the database, of a Redis and of addresses; gives the jobs for Prometheus."""
    files = folder / "textfiles"
    files.mkdir(parents=True)
    (files / "athena.prom").write_text(left_by_others(time.time()))
    probes = folder / "blackbox.yml"
    probes.write_text(PROBES)
    redis = RedisServer(folder)
    redis.start()
    with ExitStack() as stack:
        stack.callback(redis.stop)

        def run(name: str, *arguments: str, log: str = "", **variables: str) -> str:
            return stack.enter_context(_exporter(folder / f"{log or name}.log", name, *arguments, **variables))

        node = run("node", f"--collector.textfile.directory={files}")
        sensors = run("node", *_only_sensors(folder / "sys"), log="sensors")
        postgres = run("postgres", DATA_SOURCE_NAME=f"{database_url}?sslmode=disable")
        of_redis = run("redis", f"--redis.addr={redis.url}")
        blackbox = run("blackbox", f"--config.file={probes}")
        mac = stack.enter_context(serving(Starlette(routes=[Route("/metrics", _mac)]))).removeprefix("http://")
        yield {
            "node": [Target(node, {"instance": "host-1:9100"}), Target(sensors, {"instance": "host-2:9100"})],
            "postgres": [Target(postgres, {"instance": "host-1:9187"})],
            "redis": [Target(of_redis, {"instance": "host-1:9121"})],
            "mac": [Target(mac, {"instance": "mac-2:8110", "job": "agent", "service": "agent"})],
            "health": [
                Target(
                    blackbox,
                    {"instance": f"{server.url}/health", "service": name},
                    "/probe",
                    {"target": [f"{server.url}/health"], "module": ["health"]},
                )
                for name, server in system.services().items()
            ],
        }


def left_by_others(now: float) -> str:
    """Return what `status`, a release and a backup leave to the exporter of their host."""
    return f"""\
athena_drift{{service="admin"}} 0
athena_drift{{service="proxy"}} 1
athena_replicas_wanted{{service="admin"}} 2
athena_replicas_ready{{service="admin"}} 2
athena_replicas_wanted{{service="proxy"}} 3
athena_replicas_ready{{service="proxy"}} 2
athena_release_info{{release="r7",revision="0123456789ab"}} 1
athena_release_timestamp_seconds {now - 600}
athena_release_schema_info{{revision="0123456789ab"}} 1
athena_release_replicas{{service="proxy"}} 3
athena_release_version_info{{service="proxy",version="0.0.0"}} 1
athena_status_timestamp_seconds {now - 27 * 3600}
athena_backup_timestamp_seconds {now - 7200}
athena_backup_size_bytes 123456
"""


def _only_sensors(folder: Path) -> list[str]:
    """Return the arguments of a node exporter that tells of sensors alone."""
    for name, content in SENSORS.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")
    only = ("--collector.disable-defaults", "--collector.thermal_zone", "--collector.hwmon")
    return [*only, f"--path.sysfs={folder}"]


async def _mac(_: object) -> Response:
    metrics = AgentMetrics()
    metrics.watch(cast("Watcher", SimpleNamespace(engines=(), figures=MAC)))
    return Response(metrics.exposition(), media_type="text/plain")


@contextmanager
def _exporter(log: Path, name: str, *arguments: str, **variables: str) -> Iterator[str]:
    """Run a Debian package's exporter; gives its address."""
    program = shutil.which(f"prometheus-{name}-exporter")
    assert program is not None, f"apt-get install prometheus-{name}-exporter"
    address = f"127.0.0.1:{quiet_port()}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, f"--web.listen-address={address}", *arguments],
            stdout=output,
            stderr=output,
            env={**os.environ, **variables},
        )
    try:
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while not _answers(f"http://{address}/"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
