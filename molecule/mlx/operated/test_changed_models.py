"""After changes, accidents and refusals: what is declared is served, and nothing else is left."""

import json

from testinfra.host import Host

MLX = "/opt/athena/mlx"
TINY = f"{MLX}/models/tiny"


def is_mac(host: Host) -> bool:
    return bool(host.file("/Library/LaunchDaemons").exists)


def test_the_model_is_the_one_declared_last(host: Host) -> None:
    config = json.loads(host.file(f"{TINY}/current/config.json").content_string)
    assert config["quantization"]["bits"] == (6 if is_mac(host) else 8)


def test_one_server_runs_with_the_declared_arguments(host: Host) -> None:
    commands = host.check_output("ps -A -ww -o command=").splitlines()
    served = [command for command in commands if "mlx_lm.server" in command]
    assert len(served) == 1
    assert "--port 8090 --allowed-origins none --decode-concurrency 3" in served[0]


def test_jobs_that_are_no_longer_declared_have_no_files(host: Host) -> None:
    if is_mac(host):
        listed = host.check_output("ls /Library/LaunchDaemons /var/db/athena/launchd /etc/newsyslog.d")
    else:
        listed = host.check_output(f"ls /etc/systemd/system {MLX}/served")
    assert "tiny" in listed
    assert "second" not in listed


def test_files_of_others_go_only_when_that_was_asked_for(host: Host) -> None:
    assert host.check_output(f"ls {MLX}/models").split() == (
        ["tiny"] if is_mac(host) else ["drafter", "second", "tiny"]
    )


def test_one_former_environment_is_kept(host: Host) -> None:
    environments = host.check_output(f"ls {MLX}/venvs").split()
    assert len(environments) == 2
    assert "oldest" not in environments


def test_one_former_version_is_kept_and_nothing_that_was_cut_off(host: Host) -> None:
    assert len(host.check_output(f"ls {TINY}/*.json").splitlines()) == (3 if is_mac(host) else 2)
