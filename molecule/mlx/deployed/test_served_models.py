"""The models as a host's operator finds them: whole, whose process, with which arguments, back when killed."""

import hashlib
import json
import time
from typing import Any

import pytest
from testinfra.host import Host

MLX = "/opt/athena/mlx"
TINY = f"{MLX}/models/tiny"


def ask(host: Host, port: int = 8080) -> dict[str, Any]:
    """Return the server's answer of two tokens; {} while it gives none."""
    body = '{"model": "default_model", "prompt": "Hello", "max_tokens": 2}'
    program = (
        "import sys, urllib.request as r; print(r.urlopen(r.Request(sys.argv[1], sys.argv[2].encode(),"
        " {'Content-Type': 'application/json'})).read().decode())"
    )
    ended = host.run("python3 -c %s %s %s", program, f"http://127.0.0.1:{port}/v1/completions", body)
    answer: dict[str, Any] = json.loads(ended.stdout) if ended.rc == 0 else {}
    return answer


def server(host: Host) -> int:
    return int(host.check_output("pgrep -U _athena -f mlx_lm.server"))


def test_the_model_is_what_its_manifest_says(host: Host) -> None:
    key = host.file(f"{TINY}/current").linked_to.rpartition("/")[2]
    manifest = json.loads(host.file(f"{TINY}/{key}.json").content_string)
    sums = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    program = "$(command -v sha256sum || echo shasum -a 256)"
    assert host.check_output(
        f"cd {TINY}/current/ && find . -type f | cut -c3- | LC_ALL=C sort | xargs {program}"
    ) == "\n".join(f"{value}  {name}" for name, value in sums.items())
    listing = "".join(f"{value}  {name}\n" for name, value in sums.items())
    assert manifest["sha256"] == hashlib.sha256(listing.encode()).hexdigest()
    assert manifest["identity"]["mlx_lm"] == "0.32.2"


def test_it_is_quantised_as_declared(host: Host) -> None:
    config = json.loads(host.file(f"{TINY}/current/config.json").content_string)
    assert config["quantization"] == {"group_size": 32, "bits": 4, "mode": "affine"}


def test_the_server_cannot_change_its_own_model(host: Host) -> None:
    assert host.check_output(f"find {MLX}/models {MLX}/venvs -maxdepth 3 -user _athena") == ""
    assert host.check_output(f"ps -o user= -p {server(host)}").strip() == "_athena"


def test_it_runs_from_the_current_environment_with_the_declared_arguments(host: Host) -> None:
    command = host.check_output(f"ps -ww -o command= -p {server(host)}")
    assert command.split(f"{MLX}/current/bin/mlx_lm.server ")[1] == (
        f"--model {TINY}/current --host 127.0.0.1 --port 8080 --allowed-origins none"
        " --decode-concurrency 2 --prompt-cache-bytes 100000000 --max-tokens 16"
    )
    assert host.file(f"{MLX}/current").linked_to.startswith(f"{MLX}/venvs/")


def test_nothing_that_was_needed_on_the_way_is_left(host: Host) -> None:
    assert host.check_output(f"find {TINY} -mindepth 1 -maxdepth 1 -name '.*' -type d") == ""


@pytest.mark.timeout(90)
def test_a_server_that_is_killed_comes_back_and_answers(host: Host) -> None:
    before = server(host)
    host.check_output(f"kill -9 {before}")
    while not (answer := ask(host)):
        time.sleep(0.5)
    assert answer["usage"]["completion_tokens"] == 2
    assert server(host) != before
