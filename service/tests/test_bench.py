"""The benchmark works: its load misses nothing, one command measures the proxy. How fast that is is not asked here."""

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from bench import loads, plot, run, traffic
from bench.gateways.base import Gateway, Start
from bench.machine import UnavailableError
from bench.table import rows

BENCH = Path(run.__file__).parent


@pytest.fixture(scope="module")
def _buildable() -> None:
    """What the benchmark needs is there, or the test is skipped: Linux and Go, which the service does without."""
    try:
        traffic.go()
    except UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.mark.slow
@pytest.mark.usefixtures("_buildable")
def test_the_load_reads_answers_however_they_are_cut() -> None:
    done = subprocess.run(
        [traffic.go(), "test", "./..."], cwd=traffic.SOURCE, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("_buildable")
def test_one_command_measures_the_proxy_under_every_load(tmp_path: Path) -> None:
    saved = tmp_path / "figures.json"
    done = subprocess.run(
        [BENCH / "run", "--quick", "--only", "athena,nginx", "--save", saved],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(saved.read_text(encoding="utf-8"))
    assert set(found["loads"]) == {load.name for load in loads.ALL}
    for load in loads.ALL:
        title = load.title
        assert title in done.stdout
        row = found["loads"][load.name]["athena"]
        assert row["sent"] > 0
        assert row["lost"] == 0, f"{title}: {row}"
        assert {column.figure for column in load.columns} <= {*row, "ratio"}
        assert "straight" in found["loads"][load.name] or load.engines > 1
    assert ("nginx" in found["versions"]) != ("nginx" in found["missing"])


@pytest.mark.slow
@pytest.mark.usefixtures("_buildable")
@pytest.mark.parametrize("preferred", [0, 1])
def test_the_engine_hangs_that_was_sent_most(tmp_path: Path, preferred: int) -> None:
    program = traffic.build()
    load = next(load for load in loads.ALL if load.engines > 1).quick()
    with traffic.engine(program, "openai") as one, traffic.engine(program, "openai") as other:
        engines = [one, other]
        url = f"{engines[preferred].url}/v1/chat/completions"
        target = loads.Target("straight", url, (), None, engines)
        assert loads.hang_preferred(program, load, target, tmp_path) is engines[preferred]
        assert httpx.get(engines[1 - preferred].url + "/v1/models").status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(engines[preferred].url + "/v1/models", timeout=httpx.Timeout(10.0, read=0.2))
        assert engines[preferred].met() == (0, 0, 0), "what it got before counts no more"


def test_a_gateway_that_cannot_be_had_is_named_and_the_others_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    found, missing = run.obtain([_Gateway("here", None), _Gateway("away", "it is not in the registry")])
    assert [gateway.name for gateway, _ in found] == ["here"]
    assert missing == {"away": "it is not in the registry"}
    assert "away: it is not in the registry" in capsys.readouterr().out


def test_figures_are_medians_and_set_against_nginx_and_the_straight_way() -> None:
    load = loads.Load(
        "some",
        "some load",
        traffic.Prompts(),
        lambda _, __: {},
        (
            loads.Column("rate", "requests/s"),
            loads.Column("ratio", "of nginx", 3),
            loads.Column("added_p50", "added", 1),
        ),
        ratio="rate",
    )
    passes = {
        "straight": [{"rate": 900.0, "p50": 1.0}],
        "nginx": [{"rate": rate, "p50": 2.0} for rate in (400.0, 100.0, 390.0)],
        "athena": [{"rate": rate, "p50": 3.5} for rate in (195.0, 2000.0, 20.0)],
    }
    assert rows(load, run.medians(load, passes)) == [
        ["", "requests/s", "of nginx", "added"],
        ["straight", "900", "2.308", ""],
        ["nginx", "390", "1.000", "1.0"],
        ["athena", "195", "0.500", "2.5"],
    ]


class _Gateway(Gateway):
    """One that can be had, or cannot for a reason."""

    def __init__(self, name: str, reason: str | None) -> None:
        self.name = name
        self._reason = reason

    def obtain(self) -> str:
        if self._reason:
            raise UnavailableError(self._reason)
        return "1.0"

    def start(self, engines: Sequence[traffic.Engine], port: int, folder: Path) -> Start:
        raise NotImplementedError


def test_the_docs_show_what_was_saved_and_keep_the_rest_of_their_page() -> None:
    figures = {
        "date": "2026-01-01",
        "machine": "a machine",
        "versions": {"athena": "this tree", "nginx": "1.0"},
        "missing": {"LiteLLM": "no registry"},
        "loads": {
            "whole": {
                "straight": {"rate": 9000.0, "p50": 0.5, "p99": 1.0},
                "nginx": {
                    "rate": 5000.0,
                    "ratio": 1.0,
                    "cpu": 20.0,
                    "p50": 1.0,
                    "p99": 2.0,
                    "memory": 19.0,
                    "growth": 0.0,
                },
                "athena": {
                    "rate": 2000.0,
                    "ratio": 0.4,
                    "cpu": 50.0,
                    "p50": 2.0,
                    "p99": 4.0,
                    "memory": 55.0,
                    "growth": 0.1,
                },
            }
        },
    }
    page = "before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n"
    shown = plot.filled(page, {"figures": plot.tables(figures)})
    assert shown.startswith("before\n")
    assert shown.endswith("after\n")
    assert "old" not in shown
    assert "| athena | 2000 | 0.400 | 50 | 2.000 | 4.000 | 55 | 0.1 |" in shown
    assert "LiteLLM (no registry)" in shown
    assert plot.filled(shown, {"figures": plot.tables(figures)}) == shown
    with pytest.raises(ValueError, match="no place for the profile"):
        plot.filled(page, {"profile": ""})


def test_tables_of_loads_that_were_not_measured_are_not_taken_from_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "figures.json").write_text(json.dumps({"loads": {"whole": {}}}))
    monkeypatch.setattr("sys.argv", ["plot", "--figures", str(tmp_path / "figures.json")])
    page = plot.PAGE.read_bytes()
    with pytest.raises(SystemExit, match=r"no figures of .*hang"):
        plot.main()
    assert plot.PAGE.read_bytes() == page


def test_the_picture_has_the_better_gateway_first_in_every_panel() -> None:
    measured = {
        "whole": {"straight": {"rate": 9.0}, "a": {"rate": 20.0, "cpu": 40.0}, "b": {"rate": 3000.0, "cpu": 20.0}}
    }
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", plot.picture(measured))
    assert [text for text in texts if text in {"a", "b", "straight"}] == ["b", "a", "b", "a"]
    assert {"20", "40", "3,000"} <= set(texts)
