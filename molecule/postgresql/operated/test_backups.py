"""Backups as the operator lives with them: what one leaves, what is refused, what a restoration brings back."""

import hashlib
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from testinfra.backend.base import CommandResult
from testinfra.host import Host

BACKUPS = "/var/backups/athena-postgresql"


@pytest.fixture
def said(host: Host) -> dict[str, Any]:
    """What the roles answered to the play before."""
    name = host.ansible.get_variables()["inventory_hostname"]
    file = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / name / "backup.json"
    answer: dict[str, Any] = json.loads(file.read_text())
    return answer


def backup(host: Host, *arguments: str) -> CommandResult:
    return host.run("runuser -u postgres -- athena-backup " + " ".join(arguments))


def databases(host: Host) -> set[str]:
    query = "SELECT datname FROM pg_database WHERE NOT datistemplate"
    return set(ask(host, query, "postgres").splitlines())


def closed(host: Host) -> set[str]:
    """Return the databases that let nobody in."""
    query = "SELECT datname FROM pg_database WHERE NOT datallowconn AND NOT datistemplate"
    return set(ask(host, query, "postgres").splitlines())


def close(host: Host, *names: str) -> None:
    """Have databases let nobody in, as a restoration leaves them that was cut off in its swap."""
    for name in names:
        ask(host, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false", "postgres")


def ask(host: Host, query: str, database: str = "athena") -> str:
    psql = "runuser -u postgres -- psql --no-align --tuples-only"
    output: str = host.check_output(f"{psql} --command %s %s", query, database)
    return output


def test_a_backup_is_what_was_said_and_nobody_elses_to_read(host: Host, said: dict[str, Any]) -> None:
    made = said["made"]
    file = host.file(made["path"])
    assert (file.user, file.mode, file.size) == ("postgres", 0o600, made["size"])
    assert hashlib.sha256(file.content).hexdigest() == made["sha256"]
    assert host.file(BACKUPS).mode == 0o700
    assert host.check_output(f"find {BACKUPS} -type f -perm /077") == ""


def test_the_proof_saw_every_table(host: Host, said: dict[str, Any]) -> None:
    tables = ask(host, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
    assert said["verified"]["tables"] == said["made"]["tables"] == int(tables)


def test_what_was_lost_is_back_with_its_rights(host: Host) -> None:
    assert ask(host, "SELECT model_name FROM llm_backends") == "phi3:mini"
    assert ask(host, "SELECT action FROM config_audit_log") == "create"
    assert ask(host, "SELECT has_table_privilege('athena_app', 'config_audit_log', 'INSERT')") == "t"
    assert "athena_app=arwd/athena_owner" in ask(host, "SELECT defaclacl FROM pg_default_acl WHERE defaclobjtype = 'r'")
    assert ask(host, "SELECT has_database_privilege('athena_app', 'athena', 'CONNECT')") == "t"
    public = "SELECT count(*) FROM pg_database, aclexplode(datacl) WHERE datname = 'athena' AND grantee = 0"
    assert ask(host, public) == "0"


def test_the_damaged_database_is_kept(host: Host, said: dict[str, Any]) -> None:
    assert databases(host) == {"athena", "postgres", said["restored"]["previous"]}
    assert ask(host, "SELECT count(*) FROM llm_backends", said["restored"]["previous"]) == "0"


def test_a_database_that_a_restoration_left_closed_is_open_after_the_next_deployment(host: Host) -> None:
    """The play before has closed it, and run the role."""
    assert closed(host) == set()
    assert ask(host, "SELECT model_name FROM llm_backends") == "phi3:mini"


def test_a_backup_that_is_not_there_is_refused(host: Host) -> None:
    before = databases(host)
    for action in ("verify", "restore"):
        refused = backup(host, action, "athena-20200101T000000Z")
        assert refused.rc == 1
        assert "has no backup athena-20200101T000000Z. There is: athena-2" in refused.stderr
    assert databases(host) == before


def test_a_damaged_backup_is_refused(host: Host) -> None:
    made = json.loads(backup(host, "make").stdout)
    host.check_output(f"printf x | dd conv=notrunc bs=1 seek=2000 of={made['path']}")
    before = databases(host)
    refused = backup(host, "restore", made["id"])
    assert refused.rc == 1
    assert "is damaged" in refused.stderr
    assert databases(host) == before
    host.check_output(f"rm {made['path']} {BACKUPS}/{made['id']}.json")


def test_a_backup_that_does_not_restore_to_what_it_was_made_of_is_refused(host: Host) -> None:
    made = json.loads(backup(host, "make").stdout)
    description = f"{BACKUPS}/{made['id']}.json"
    manifest = json.loads(host.file(description).content_string)
    manifest["tables"]["public.llm_backends"][0] += 1
    host.check_output("printf %%s %s >%s", json.dumps(manifest), description)
    before = databases(host)
    refused = backup(host, "restore", made["id"])
    assert refused.rc == 1
    assert "public.llm_backends is 1 rows" in refused.stderr
    assert databases(host) == before
    host.check_output(f"rm {made['path']} {description}")


def test_a_backup_is_proven_from_when_it_was_restored_and_is_what_it_was_made_of(host: Host) -> None:
    made = json.loads(backup(host, "make").stdout)
    assert made["proven_at"] is None
    proven = json.loads(backup(host, "verify", made["id"]).stdout)
    assert proven == {**made, "proven_at": proven["proven_at"]}
    assert datetime.fromisoformat(proven["proven_at"]) >= datetime.fromisoformat(made["made_at"])
    assert json.loads(backup(host, "list").stdout)[-1] == proven
    host.check_output(f"rm {made['path']} {BACKUPS}/{made['id']}.json")


def test_what_changed_since_a_backup_is_told_table_by_table(host: Host) -> None:
    made = json.loads(backup(host, "make").stdout)
    assert json.loads(backup(host, "since", made["id"]).stdout) == {**made, "since": {}}
    ask(host, "UPDATE llm_backends SET max_tokens = max_tokens + 1")
    ask(host, "CREATE TABLE of_a_test AS SELECT generate_series(1, 3)")
    told = json.loads(backup(host, "since", "latest").stdout)["since"]
    ask(host, "DROP TABLE of_a_test")
    ask(host, "UPDATE llm_backends SET max_tokens = max_tokens - 1")
    assert told == {"public.llm_backends": [1, 1], "public.of_a_test": [None, 3]}
    host.check_output(f"rm {made['path']} {BACKUPS}/{made['id']}.json")
    gone = backup(host, "since", made["id"])
    assert gone.rc == 1
    assert f"has no backup {made['id']}" in gone.stderr


def test_a_full_disk_is_refused_and_leaves_the_backups_as_they_are(host: Host) -> None:
    host.check_output(f"mount -t tmpfs -o size=1m,mode=0700,uid=$(id -u postgres) tmpfs {BACKUPS}")
    try:
        lacking = json.loads(backup(host, "room").stdout)
        refused = backup(host, "make")
        left = host.check_output(f"find {BACKUPS} -type f -not -name .lock")
    finally:
        host.check_output(f"umount {BACKUPS}")
    assert refused.rc == 1
    assert refused.stderr.strip() == f"athena-backup: {lacking[0]}"
    assert f"{BACKUPS} has" in lacking[0]
    assert json.loads(backup(host, "room").stdout) == []
    assert left == ""


def test_the_scheduled_run_makes_and_proves_one_and_keeps_no_more_than_told(host: Host) -> None:
    for _ in range(3):
        host.check_output("systemctl start athena-backup.service")
    kept = json.loads(backup(host, "list").stdout)
    assert len(kept) == 3
    assert len(host.file(BACKUPS).listdir()) == 2 * 3
    assert backup(host, "verify", "latest").rc == 0
    assert host.check_output("systemctl show --property Result --value athena-backup.service") == "success"


def test_a_backup_that_is_to_stay_stays_beside_those_that_come_and_go(host: Host) -> None:
    stays = json.loads(backup(host, "list").stdout)[0]["id"]
    assert [json.loads(backup(host, "keep", stays).stdout)["changed"] for _ in range(2)] == [True, False]
    for _ in range(4):
        assert backup(host, "make").rc == 0
        assert backup(host, "verify", "latest").rc == 0
    kept = [one["id"] for one in json.loads(backup(host, "list").stdout)]
    assert (kept[0], len(kept)) == (stays, 1 + 3)
    assert backup(host, "verify", stays).rc == 0
    host.check_output(f"rm {BACKUPS}/{stays}.dump {BACKUPS}/{stays}.json")


def test_the_newest_proven_backup_is_not_pushed_out_by_those_that_are_not(host: Host) -> None:
    there = json.loads(backup(host, "list").stdout)
    assert all(one["proven_at"] for one in there)
    made = [json.loads(backup(host, "make").stdout)["id"] for _ in range(5)]
    assert [one["id"] for one in json.loads(backup(host, "list").stdout)] == [there[-1]["id"], *made[-3:]]
    assert backup(host, "verify", made[-1]).rc == 0
    another = json.loads(backup(host, "make").stdout)["id"]
    assert [one["id"] for one in json.loads(backup(host, "list").stdout)] == [*made[-2:], another]


def test_the_oldest_backup_can_be_restored_though_one_is_made_before_it(host: Host) -> None:
    oldest = json.loads(backup(host, "list").stdout)[0]["id"]
    made = json.loads(backup(host, "make", "before", oldest).stdout)
    assert {oldest, made["id"]} < {kept["id"] for kept in json.loads(backup(host, "list").stdout)}
    assert backup(host, "verify", oldest).rc == 0
    unknown = backup(host, "make", "before", "athena-20200101T000000Z")
    assert unknown.rc == 1
    assert "has no backup" in unknown.stderr


def test_a_database_that_was_lost_is_brought_back(host: Host) -> None:
    wanted = json.loads(backup(host, "list").stdout)[-1]["id"]
    host.check_output("runuser -u postgres -- dropdb --force athena")
    assert json.loads(backup(host, "make", "before", wanted).stdout) == {"id": ""}
    restored = backup(host, "restore", wanted)
    assert restored.rc == 0, restored.stderr
    assert json.loads(restored.stdout)["previous"] == ""
    assert ask(host, "SELECT model_name FROM llm_backends") == "phi3:mini"


@pytest.mark.parametrize("action", ["make", "make before", "restore"])
def test_a_restoration_that_was_cut_off_in_its_swap_is_gone_on_from(host: Host, action: str) -> None:
    wanted, before = json.loads(backup(host, "list").stdout)[-1]["id"], "athena_before_20200101t000000z"
    host.check_output(f"runuser -u postgres -- createdb {before}")
    close(host, "athena", before)
    assert closed(host) == {"athena", before}
    again = backup(host, action, *([] if action == "make" else [wanted]))
    assert again.rc == 0, again.stderr
    assert "athena let nobody in" in again.stderr
    assert closed(host) == set()
    assert ask(host, "SELECT model_name FROM llm_backends") == "phi3:mini"
    host.check_output(f"runuser -u postgres -- dropdb {before}")


def test_a_database_that_somebody_else_closed_stays_closed(host: Host) -> None:
    host.check_output("runuser -u postgres -- createdb another")
    close(host, "another")
    assert backup(host, "make").rc == 0
    assert closed(host) == {"another"}
    host.check_output("runuser -u postgres -- dropdb another")
