"""Several worker processes, and whichever of them Prometheus happens to meet."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from athena.observability.proxy_metrics import ProxyMetrics
from athena.observability.router_metrics import BackendReading
from athena.observability.sharing import SharedMetrics
from athena.router.types import Operation, Usage

PROGRAM = """
import asyncio, sys
from pathlib import Path
from athena.observability.proxy_metrics import ProxyMetrics
from athena.observability.sharing import SharedMetrics
from athena.router.types import Operation, Usage

async def main():
    index, count = int(sys.argv[2]), int(sys.argv[3])
    metrics = ProxyMetrics(SharedMetrics(Path(sys.argv[1]), index, count, every=0.01))
    loop = asyncio.get_running_loop()
    async with metrics:
        print(flush=True)
        while command := (await loop.run_in_executor(None, sys.stdin.readline)).split():
            if command[0] == "serve":
                usage = Usage(completion_tokens=3)
                for _ in range(int(command[1])):
                    metrics.replies.record(Operation.CHAT, "m", "mlx", 1, "", seconds=0.5, first_token=0.1, usage=usage)
                print(flush=True)
            elif command[0] == "accept":
                metrics.active.inc(int(command[1]))
                print(flush=True)
            elif command[0] == "read":
                text = metrics.exposition()
                print(len(text), flush=True)
                sys.stdout.buffer.write(text)
                sys.stdout.flush()

asyncio.run(main())
"""

Values = dict[str, float]


def values(text: bytes) -> Values:
    """Return every sample by its name and labels."""
    return {
        sample.name + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


class Worker:
    """One worker process that does as it is told."""

    def __init__(self, directory: Path, index: int, count: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(directory), str(index), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._orders, self._answers = self.process.stdin, self.process.stdout
        self._answers.readline()

    def serve(self, requests: int) -> None:
        self._order(f"serve {requests}")

    def accept(self, requests: int) -> None:
        """Begin requests that do not end."""
        self._order(f"accept {requests}")

    def read(self) -> Values:
        return values(self._answers.read(int(self._order("read"))))

    def end(self) -> None:
        """Let it end properly."""
        self._orders.close()
        assert self.process.wait(20) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def _order(self, what: str) -> bytes:
        self._orders.write(f"{what}\n".encode())
        self._orders.flush()
        return self._answers.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._answers.close()
        if not self._orders.closed:
            self._orders.close()


REPLIES = "backend_id=1 {}gen_ai_operation_name=chat gen_ai_provider_name=mlx gen_ai_request_model=m"
REQUESTS = "gen_ai_server_request_duration_seconds_count " + REPLIES.format("error_group= error_type= ")
ACTIVE = "http_server_active_requests"


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Worker(tmp_path, index, 3)) for index in range(3)]


def read_until(worker: Worker, name: str, value: float) -> Values:
    """Read a worker until it tells this value: what others publish takes a moment."""
    while (found := worker.read()).get(name) != value:
        assert found.get(name, 0) < value, found.get(name)
    return found


def test_whichever_worker_is_asked_tells_of_all(workers: list[Worker]) -> None:
    for requests, worker in enumerate(workers, start=1):
        worker.serve(requests)
        worker.accept(10 * requests)
    for worker in workers:
        found = read_until(worker, REQUESTS, 6)
        read_until(worker, ACTIVE, 60)
        assert found[REQUESTS.replace("_count", "_sum")] == 3.0
        tokens = "gen_ai_client_token_usage_sum " + REPLIES.format("")
        assert found[f"{tokens} gen_ai_token_type=output"] == 18
        if sys.platform == "linux":
            assert {name for name in found if name.startswith("process_open_fds")} == {
                f"process_open_fds worker={index}" for index in range(3)
            }


def test_no_counter_goes_backwards_when_a_worker_is_killed_and_replaced(workers: list[Worker], tmp_path: Path) -> None:
    first, second, _ = workers
    second.accept(4)
    first.accept(1)
    second.serve(100)
    seen = second.read()[REQUESTS]
    second.kill()
    assert seen == 100
    after = first.read()
    assert after[REQUESTS] == 100
    assert after[ACTIVE] == 1  # nobody serves the requests of a dead worker
    assert "process_open_fds worker=1" not in after
    with Worker(tmp_path, 1, 3) as replaced:
        assert replaced.read()[REQUESTS] == 100
        replaced.serve(11)
        assert replaced.read()[REQUESTS] == 111
        assert first.read()[REQUESTS] == 111


def test_a_worker_that_ends_leaves_all_that_it_counted(workers: list[Worker]) -> None:
    first, second, _ = workers
    second.accept(4)
    second.serve(7)
    second.end()
    found = first.read()
    assert found[REQUESTS] == 7
    assert found[ACTIVE] == 0


def test_a_single_worker_writes_nothing(tmp_path: Path) -> None:
    async def serve() -> Values:
        async with ProxyMetrics(SharedMetrics(tmp_path, 0, 1, every=0.001)) as metrics:
            metrics.replies.record(Operation.CHAT, "m", "mlx", 1, "", seconds=0.5, first_token=None, usage=None)
            await asyncio.sleep(0.01)
            return values(metrics.exposition())

    assert asyncio.run(serve())[REQUESTS] == 1
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_read_or_written_is_told_and_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "metrics-1.msgpack").write_bytes(b"half a fi")
    (tmp_path / "metrics-0.new").mkdir()  # where the file would be written
    with capture_logs() as told:
        metrics = ProxyMetrics(SharedMetrics(tmp_path, 0, 2))
        metrics.replies.record(Operation.CHAT, "m", "mlx", 1, "", seconds=0.5, first_token=None, usage=Usage())
        assert values(metrics.exposition())[REQUESTS] == 1
        metrics.publish()
        metrics.publish()
    events = [line["event"] for line in told]
    assert "metrics_not_read" in events
    assert events.count("metrics_not_shared") == 1


def test_series_of_another_release_are_left_out(tmp_path: Path) -> None:
    other = SharedMetrics(tmp_path, 1, 2)
    old = ProxyMetrics()
    old.router.waited(0.5)
    (wait,) = next(family for family in old.router.families if family.name == "athena_queue_wait_seconds").series()
    wait.counts.append(7)
    other.publish({"athena_queue_wait_seconds": [wait], "of_old": [wait]}, {})
    assert values(ProxyMetrics(SharedMetrics(tmp_path, 0, 2)).exposition())["athena_queue_wait_seconds_count"] == 0
    assert values(ProxyMetrics(SharedMetrics(tmp_path, 1, 2)).exposition())["athena_queue_wait_seconds_count"] == 0


def test_what_all_workers_share_is_not_added_up(tmp_path: Path) -> None:
    mine, theirs = (ProxyMetrics(SharedMetrics(tmp_path, index, 2)) for index in range(2))
    here = BackendReading("1", "m", "mlx", "open", in_use=2, limit=8, queued=3, trips=4)
    there = BackendReading("2", "m", "ollama", "closed", in_use=1, limit=1, queued=0, trips=0)
    mine.router.watch_backends(lambda: [here])
    theirs.router.watch_backends(lambda: [here, there])
    theirs.router.watch_configuration(lambda: (6, True))
    mine.router.watch_configuration(lambda: (7, True))
    theirs.publish()
    found = values(mine.exposition())
    assert found["athena_backend_in_use backend_id=1 model=m provider=mlx"] == 2
    assert found["athena_backend_trips_total backend_id=1 model=m provider=mlx"] == 4
    assert found["athena_backend_limit backend_id=2 model=m provider=ollama"] == 1
    assert found["athena_configuration_version"] == 6
    restarted = ProxyMetrics(SharedMetrics(tmp_path, 1, 2))
    restarted.router.watch_backends(lambda: [here])
    assert values(restarted.exposition())["athena_backend_trips_total backend_id=1 model=m provider=mlx"] == 4


def test_the_files_are_replaced_in_one_step(tmp_path: Path) -> None:
    metrics = ProxyMetrics(SharedMetrics(tmp_path, 0, 2))
    metrics.publish()
    (file,) = tmp_path.iterdir()
    first = file.stat()
    metrics.publish()
    assert file.stat().st_ino == first.st_ino  # nothing has changed
    metrics.caller_left()
    metrics.publish()
    (file,) = tmp_path.iterdir()
    assert file.stat().st_ino != first.st_ino
