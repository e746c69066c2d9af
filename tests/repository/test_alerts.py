"""The alerts: each fires when it should and not when it should not, says what to do, and reads what there is.

`promtool` compares all annotations of an alert. The tests are of its summary; the copy of the rules that they run
against has no other, so that a word in a description does not have to be written twice.
"""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from loading import ROOT
from rules import RULES, TESTS, alerts, expectations, metrics_of, rules

RUNBOOKS = (ROOT / "docs/runbooks.md").read_text()
KNOWN = yaml.safe_load((ROOT / "tests/repository/known_metrics.yml").read_text())


def promtool(*arguments: str | Path) -> str:
    """Run promtool, and return what it says; it must be content."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("file", sorted(RULES.glob("*.yml")), ids=lambda file: file.stem)
def test_rules_hold(file: Path) -> None:
    assert "SUCCESS" in promtool("check", "rules", "--lint-fatal", file)


@pytest.fixture(scope="session")
def summaries_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the tests, beside the rules with no annotation but the summary."""
    folder = tmp_path_factory.mktemp("alerts")
    for file in RULES.glob("*.yml"):
        content = yaml.safe_load(file.read_text())
        for group in content["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    rule["annotations"] = {"summary": rule["annotations"]["summary"]}
        (folder / file.name).write_text(yaml.safe_dump(content))
    (folder / "tests").mkdir()
    for file in TESTS.glob("*.yml"):
        content = yaml.safe_load(file.read_text())
        content["rule_files"] = [f"../{name}" for name in content["rule_files"]]
        (folder / "tests" / file.name).write_text(yaml.safe_dump(content))
    return folder / "tests"


@pytest.mark.parametrize("file", sorted(TESTS.glob("*.yml")), ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_not_when_they_should_not(file: Path, summaries_only: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", summaries_only / file.name)


@pytest.mark.parametrize("name", alerts())
def test_an_alert_is_tested_both_ways(name: str) -> None:
    of_it = [bool(one.get("exp_alerts")) for one in expectations() if one["alertname"] == name]
    assert set(of_it) == {True, False}


@pytest.mark.parametrize(("name", "rule"), alerts().items(), ids=alerts())
def test_an_alert_says_what_is_wrong_what_to_do_and_where_it_is_described(name: str, rule: dict[str, object]) -> None:
    assert rule["labels"] in ({"severity": "page"}, {"severity": "ticket"})
    annotations = rule["annotations"]
    assert isinstance(annotations, dict)
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert annotations["runbook_url"] == f"docs/runbooks.md#{name.lower()}"


@pytest.mark.parametrize(("name", "rule"), alerts().items(), ids=alerts())
def test_an_alert_names_only_labels_that_it_has(name: str, rule: dict[str, object]) -> None:
    named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    fired = [alert for one in expectations() if one["alertname"] == name for alert in one.get("exp_alerts", [])]
    for alert in fired:
        assert named <= set(alert["exp_labels"])


@pytest.mark.parametrize("name", alerts())
def test_an_alert_has_its_page_in_the_runbooks(name: str) -> None:
    pages = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", RUNBOOKS, re.MULTILINE | re.DOTALL))
    assert all(f"**{part}.**" in pages[name] for part in ("Means", "See", "Do")), pages[name]


def test_the_runbooks_have_pages_of_alerts_that_there_are() -> None:
    assert set(re.findall(r"^### (\w+)$", RUNBOOKS, re.MULTILINE)) == set(alerts())


def test_what_is_to_be_run_can_be_run() -> None:
    said = RUNBOOKS + "".join(str(rule["annotations"]) for rule in alerts().values())
    known = re.search(r'all_actions="([^"]+)"', (ROOT / "deploy.sh").read_text())
    assert known is not None
    assert set(re.findall(r"deploy\.sh ENVIRONMENT (\w+)", said)) <= set(known[1].split())
    for group, command in set(re.findall(r"`athena (backends|hosts) (\w+)", said)):
        commands = subprocess.run(["athena", group, "--help"], capture_output=True, text=True, check=True).stdout
        assert re.search(rf"^  {command}  ", commands, re.MULTILINE), command
    units = set(re.findall(r"(?:systemctl \w+|journalctl -u) ([a-z][\w-]+)", said))
    assert units == {
        "athena-backup",
        "athena-certificates",
        "athena-log-collector",
        "athena-loki",
        "athena-ollama",
        "postgresql",
        "prometheus",
        "prometheus-alertmanager",
    }


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_reads_only_metrics_that_somebody_has(rule: dict[str, str]) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert metrics_of(rule["expr"]) - recorded - {name for names in KNOWN.values() for name in names} == set()


def test_every_recorded_series_is_named_by_level_metric_and_operation() -> None:
    assert [rule["record"] for rule in rules() if "record" in rule and rule["record"].count(":") != 2] == []


def silences() -> list[tuple[str, str, list[str]]]:
    """Return which alert silences which other one, and which labels have to be the same, as Alertmanager is told."""
    template = (ROOT / "roles/alertmanager/templates/alertmanager.yml.j2").read_text()
    told = yaml.safe_load(template.partition("\ninhibit_rules:\n")[2].partition("\nreceivers:\n")[0])
    return [
        (source, target, rule.get("equal", []))
        for rule in told
        for source in names_in(rule["source_matchers"])
        for target in names_in(rule["target_matchers"])
    ]


def names_in(matchers: list[str]) -> list[str]:
    """Return the alerts that matchers name: by their names, and by nothing else."""
    (matcher,) = matchers
    label, _, names = matcher.partition("=")
    assert label == "alertname"
    return names.removeprefix("~").strip('"').split("|")


@pytest.mark.parametrize(("source", "target", "equal"), silences())
def test_an_alert_that_wakes_somebody_silences_its_milder_form_of_the_same_thing(
    source: str, target: str, equal: list[str]
) -> None:
    assert alerts()[source]["labels"]["severity"] == "page"
    assert alerts()[target]["labels"]["severity"] == "ticket"
    for name in (source, target):
        fired = [
            alert["exp_labels"]
            for one in expectations()
            for alert in one.get("exp_alerts", [])
            if one["alertname"] == name
        ]
        assert any(set(equal) <= set(labels) for labels in fired)
