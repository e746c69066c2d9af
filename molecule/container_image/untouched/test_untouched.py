"""What is there after a check on a controller that has built nothing yet."""

import os
from pathlib import Path

from testinfra.host import Host


def test_the_registry_is_empty(host: Host) -> None:
    program = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:5000/v2/_catalog').read().decode())"
    assert host.check_output("python3 -c %s", program) == '{"repositories":[]}'


def test_there_are_no_records() -> None:
    assert not (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "records").exists()
