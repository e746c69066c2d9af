"""What the vault of an environment holds after a deployment, and after a rotation."""

from types import ModuleType
from typing import Any

import pytest
from loading import load


@pytest.fixture(scope="module")
def vault() -> ModuleType:
    return load("roles/release/action_plugins/environment_vault.py")


def kept(value: str, version: int = 1) -> dict[str, Any]:
    return {"value": value, "version": version, "since": "2026-01-01T00:00:00+00:00"}


def test_what_is_missing_is_made_once(vault: ModuleType) -> None:
    first = vault.renewed({}, ["a", "b"], {}, [])
    assert len(first["a"]["value"]) == 48
    assert first["a"]["value"] != first["b"]["value"]
    assert vault.renewed(first, ["a", "b"], {}, []) == first


def test_what_the_environment_has_already_is_taken_over_and_never_replaces_what_is_kept(vault: ModuleType) -> None:
    before = {"a": kept("old")}
    after = vault.renewed(before, ["a", "b"], {"a": "elsewhere", "b": "known"}, [])
    assert after["a"] == before["a"]
    assert after["b"]["value"] == "known"


def test_a_rotation_makes_a_new_value_of_those_it_names_and_counts_them(vault: ModuleType) -> None:
    before = {"a": kept("old", 3), "b": kept("other")}
    after = vault.renewed(before, ["a", "b"], {}, ["a"])
    assert after["a"]["value"] != "old"
    assert after["a"]["version"] == 4
    assert after["b"] == before["b"]


def test_a_secret_that_is_rotated_and_was_never_made_is_made(vault: ModuleType) -> None:
    assert vault.renewed({}, ["a"], {}, ["a"])["a"]["version"] == 1


def test_what_is_no_longer_needed_is_not_thrown_away(vault: ModuleType) -> None:
    assert vault.renewed({"gone": kept("old")}, ["a"], {}, [])["gone"] == kept("old")
