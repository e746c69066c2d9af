"""What is left after `./deploy.sh dev destroy --data`: the clone with its tools."""

from testinfra.host import Host


def test_no_process_of_the_plain_user_is_left(host: Host) -> None:
    assert [process.args for process in host.process.filter(user="person")] == []


def test_nothing_listens(host: Host) -> None:
    listening = host.check_output("ss --no-header --listening --tcp --numeric")
    assert [line for line in listening.splitlines() if ":22" not in line] == []


def test_the_state_is_gone(host: Host) -> None:
    assert not host.file("/home/person/.local/state/athena/dev").exists
    assert host.check_output("find /home/person/.local/state -not -type d") == ""


def test_nothing_else_is_left_in_the_home_folder(host: Host) -> None:
    left = set(host.check_output("ls -A /home/person").split())
    assert left <= {"athena", ".ansible", ".bash_logout", ".bashrc", ".profile", ".local", ".cache"}
