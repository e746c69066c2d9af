"""What a person has after `./deploy.sh dev deploy`, seen from the outside."""

import json
from typing import Any

import pytest
from testinfra.host import Host

PORTS = {"admin": 8080, "proxy": 8100, "orchestrator": 8001, "mlx": 8081, "postgresql": 15432}
STATE = "/home/person/.local/state/athena/dev"


def fetch(host: Host, url: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """Return the status and the JSON of a request made on the host, with the only client it has: Python."""
    program = (
        "import json, sys, urllib.request, urllib.error\n"
        "url, body = json.load(sys.stdin)\n"
        "data = None if body is None else json.dumps(body).encode()\n"
        "request = urllib.request.Request(url, data, {'Content-Type': 'application/json'})\n"
        "try: reply = urllib.request.urlopen(request, timeout=60)\n"
        "except urllib.error.HTTPError as error: reply = error\n"
        "print(json.dumps([reply.status, json.load(reply)]))\n"
    )
    output = host.check_output("printf %%s %s | python3 -c %s", json.dumps([url, body]), program)
    status, answer = json.loads(output)
    return status, answer


@pytest.mark.parametrize("port", PORTS.values(), ids=PORTS.keys())
def test_every_part_listens_on_the_loopback_address_only(host: Host, port: int) -> None:
    listening = host.check_output(f"ss --no-header --listening --tcp --numeric 'sport = :{port}'")
    addresses = {line.split()[3] for line in listening.splitlines()}
    assert addresses == {f"127.0.0.1:{port}"}


def test_no_process_of_the_environment_belongs_to_root(host: Host) -> None:
    processes = [process for process in host.process.filter() if STATE in process.args or "athena" in process.args]
    assert processes
    assert {process.user for process in processes} == {"person"}


def test_a_folder_that_the_person_may_not_write_is_refused_with_the_remedy(host: Host) -> None:
    done = host.run("su - person -c 'athena/deploy.sh dev deploy -e athena_state_dir=/opt/athena'")
    assert done.rc == 1
    assert "/opt is not writable by this user" in done.stdout + done.stderr
    assert "athena_state_dir=FOLDER" in done.stdout + done.stderr
    assert not host.file("/opt/athena").exists


def test_nobody_else_can_look_into_the_state_folder(host: Host) -> None:
    assert host.file(STATE).mode & 0o066 == 0
    assert host.file(f"{STATE}/secrets").mode == 0o700


def test_no_file_with_a_secret_can_be_read_by_others(host: Host) -> None:
    assert host.check_output(f"find {STATE}/secrets {STATE}/supervisor/programs -type f -perm /077") == ""


@pytest.mark.parametrize("port", [PORTS["admin"], PORTS["proxy"], PORTS["orchestrator"]])
def test_every_service_says_that_it_is_healthy(host: Host, port: int) -> None:
    status, _ = fetch(host, f"http://127.0.0.1:{port}/health")
    assert status == 200


def test_a_question_gets_an_answer_from_the_orchestrator(host: Host) -> None:
    status, answer = fetch(
        host, f"http://127.0.0.1:{PORTS['orchestrator']}/query", {"query": "Why is the sky blue?", "mode": "owner"}
    )
    assert status == 200
    assert "mlx" in json.dumps(answer)


def test_an_openai_client_finds_the_model_and_gets_an_answer(host: Host) -> None:
    proxy = f"http://127.0.0.1:{PORTS['proxy']}/v1"
    _, models = fetch(host, f"{proxy}/models")
    model = models["data"][0]["id"]
    question = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    status, answer = fetch(host, f"{proxy}/chat/completions", question)
    assert status == 200
    assert answer["usage"]["completion_tokens"] > 0
