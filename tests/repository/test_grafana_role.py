"""What the role grafana writes, rendered by Ansible, against what Grafana documents."""

import configparser
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import ROOT

ROLE = ROOT / "roles/grafana"
# https://grafana.com/docs/grafana/v11.6/administration/provisioning/
DATASOURCE = {
    "access": str,
    "editable": bool,
    "isDefault": bool,
    "jsonData": dict,
    "name": str,
    "orgId": int,
    "type": str,
    "uid": str,
    "url": str,
}
PROVIDER = {
    "allowUiUpdates": bool,
    "disableDeletion": bool,
    "folder": str,
    "folderUid": str,
    "name": str,
    "options": dict,
    "orgId": int,
    "type": str,
    "updateIntervalSeconds": int,
}
# https://grafana.com/docs/grafana/v11.6/setup-grafana/configure-grafana/
SETTINGS = {
    "analytics": {"check_for_plugin_updates", "check_for_updates", "feedback_links_enabled", "reporting_enabled"},
    "auth.anonymous": {"enabled"},
    "dashboards": {"default_home_dashboard_path", "min_refresh_interval"},
    "log": {"level", "mode"},
    "log.console": {"format"},
    "news": {"news_feed_enabled"},
    "plugins": {"plugin_admin_enabled", "preinstall_disabled"},
    "public_dashboards": {"enabled"},
    "security": {"admin_password", "admin_user", "disable_gravatar", "secret_key"},
    "server": {"http_addr", "http_port", "root_url"},
    "snapshots": {"enabled", "external_enabled"},
    "users": {"allow_org_create", "allow_sign_up"},
}


def play(folder: Path, tasks: list[dict[str, Any]], variables: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run tasks on this machine, with the defaults and variables of the role."""
    file = folder / "play.yml"
    values = {"ansible_python_interpreter": "{{ ansible_playbook_python }}", **variables}
    file.write_text(
        yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "vars": values, "tasks": tasks}], sort_keys=False)
    )
    settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "default"}
    return subprocess.run(
        ["ansible-playbook", "--inventory", "localhost,", "--connection", "local", file],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the role renders for an environment."""
    folder = tmp_path_factory.mktemp("grafana")
    names = [file.stem for file in (ROLE / "templates").glob("*.j2")]
    tasks: list[dict[str, Any]] = [
        {"ansible.builtin.include_vars": {"file": str(ROLE / part / "main.yml")}} for part in ("defaults", "vars")
    ]
    tasks += [
        {"ansible.builtin.template": {"src": str(ROLE / "templates" / f"{name}.j2"), "dest": str(folder / name)}}
        for name in names
    ]
    more = {"name": "Others", "type": "prometheus", "uid": "others", "url": "http://192.0.2.9:9090"}
    # Set by a task after the defaults, as an inventory's values would be.
    tasks.insert(1, {"ansible.builtin.set_fact": {"grafana_environment": "production", "grafana_datasources": [more]}})
    done = play(folder, tasks, {"role_path": str(ROLE)})
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_setting_is_one_that_grafana_documents(written: Path) -> None:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(written / "grafana.ini")
    for section in settings.sections():
        assert set(settings[section]) <= SETTINGS[section]


def test_nobody_signs_up_and_nothing_is_told_to_the_makers(written: Path) -> None:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(written / "grafana.ini")
    assert settings.getint("server", "http_port") == 3002
    assert not settings.getboolean("users", "allow_sign_up")
    assert not settings.getboolean("auth.anonymous", "enabled")
    assert not settings.getboolean("analytics", "reporting_enabled")
    assert not settings.getboolean("analytics", "check_for_updates")
    # From a file of the host, and so in no file that is copied about.
    assert settings["security"]["admin_password"] == "$__file{/etc/grafana/secrets/admin-password}"
    assert settings["security"]["secret_key"] == "$__file{/etc/grafana/secrets/secret-key}"


def test_the_page_that_one_sees_first_is_a_dashboard_that_is_there(written: Path) -> None:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(written / "grafana.ini")
    home = Path(settings["dashboards"]["default_home_dashboard_path"])
    assert (ROLE / "files/dashboards" / home.name).is_file()
    provider = yaml.safe_load((written / "dashboards.yaml").read_text())["providers"][0]
    assert str(home.parent) == provider["options"]["path"]


def test_sources_of_data_are_as_provisioning_has_them(written: Path) -> None:
    content = yaml.safe_load((written / "datasources.yaml").read_text())
    assert content["apiVersion"] == 1
    assert [one["uid"] for one in content["datasources"]] == ["prometheus", "loki", "alertmanager", "others"]
    for one in content["datasources"]:
        assert {name: type(value) for name, value in one.items()} == {name: DATASOURCE[name] for name in one}
    assert [one["name"] for one in content["datasources"] if one.get("isDefault")] == ["Prometheus"]


def test_dashboards_are_provided_from_their_folder(written: Path) -> None:
    content = yaml.safe_load((written / "dashboards.yaml").read_text())
    (provider,) = content["providers"]
    assert {name: type(value) for name, value in provider.items()} == PROVIDER
    assert provider["folder"] == "Athena production"


def test_a_line_leads_to_the_lines_of_its_request(written: Path) -> None:
    loki = next(
        one for one in yaml.safe_load((written / "datasources.yaml").read_text())["datasources"] if one["uid"] == "loki"
    )
    (link,) = loki["jsonData"]["derivedFields"]
    errors = json.loads((ROLE / "files/dashboards/errors.json").read_text())
    assert link["url"] == f"/d/{errors['uid']}?var-request_id=$${{__value.raw}}"
    assert "request_id" in {variable["name"] for variable in errors["templating"]["list"]}


@pytest.mark.parametrize("sha256", ["", "latest", "0" * 63])
def test_without_a_checksum_nothing_is_installed(sha256: str, tmp_path: Path) -> None:
    tasks = [{"ansible.builtin.include_role": {"name": "grafana"}}]
    done = play(tmp_path, tasks, {"grafana_package_sha256": sha256})
    assert done.returncode != 0
    assert "grafana_package_sha256 must be the SHA-256 of https://dl.grafana.com/oss/release/grafana_" in done.stdout
    assert "Have the package" not in done.stdout
