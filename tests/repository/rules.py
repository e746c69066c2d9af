"""The rules of Prometheus as they are in the repository, and their tests."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from loading import ROOT

RULES = ROOT / "roles/prometheus/files/rules"
TESTS = Path(__file__).parent / "alerts"

Rule = dict[str, Any]


@cache
def rules() -> list[Rule]:
    """Return every rule of every file."""
    files = sorted(RULES.glob("*.yml"))
    return [rule for file in files for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


@cache
def alerts() -> dict[str, Rule]:
    """Return the rules that alert, by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


@cache
def expectations() -> list[dict[str, Any]]:
    """Return what the tests of the alerts expect, evaluation by evaluation."""
    files = [yaml.safe_load(file.read_text()) for file in sorted(TESTS.glob("*.yml"))]
    return [expected for file in files for test in file["tests"] for expected in test.get("alert_rule_test", [])]


def metrics_of(expression: str) -> set[str]:
    """Return the names of the metrics that an expression reads. Enough for ours: no metric is named like a function."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    named = set(re.findall(r'__name__=~"([^"]+)"', expression))
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", bare)
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    words = re.findall(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?!\s*\()(?![\w:])", bare)
    return named | {word for word in words if word not in {"and", "or", "unless", "offset", "bool"}}
