import json

import pytest

from tests.admin.test_hosts import ENGINE, put
from tests.support.admin import AdminApi
from tests.support.processes import athena


@pytest.mark.slow
def test_hosts_are_listed_with_their_engines_and_forgotten(admin_api: AdminApi) -> None:
    access = {"ADMIN_API_URL": admin_api.base_url, "ADMIN_API_TOKEN": admin_api.token}
    stuck = {**ENGINE, "name": "phi", "state": "hung", "given_up_at": "2026-01-05T10:00:00Z", "restarts_lately": 3}
    put(admin_api, engines=[ENGINE, stuck])
    listed = athena("hosts", "list", **access)
    assert listed.returncode == 0, listed.stderr
    header, llama, phi = listed.stdout.splitlines()
    assert header.split()[:4] == ["HOST", "REPORTED", "ENGINE", "STATE"]
    assert "healthy" in llama
    assert llama.split()[-5:] == ["no", "-", "-", "-", "-"]
    assert phi.split()[4:8] == ["phi", "hung", "3", "yes"]
    assert json.loads(athena("hosts", "list", "--json", **access).stdout)[0]["name"] == "mac-1"
    assert athena("hosts", "rm", "mac-1", **access).stdout == "forgot host mac-1\n"
    again = athena("hosts", "rm", "mac-1", **access)
    assert (again.returncode, again.stderr) == (1, "error: no host mac-1 has reported\n")
