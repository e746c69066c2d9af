#!/usr/bin/python3
"""Back up one PostgreSQL database, prove that a backup can be restored, and restore it.

usage: athena-backup make | make before ID | list | since ID | verify ID | keep ID | restore ID | room [RESERVE]
       (ID as `list` shows it, or `latest`; RESERVE in bytes in place of that of the settings)

Runs as the system user postgres on the database host. A backup is two files: ID.dump, of pg_dump's own format, and
ID.json, its manifest, which is written last: a dump without one is not a backup. The manifest says what every table
held in the very snapshot that was dumped, so that a restored database can be compared with it, not with the live one.
Answers are JSON; a refusal is a sentence on standard error and exit code 1, and then nothing was changed. Exit code 4:
the server went away while a restoration renamed the databases, and whether it did, nobody can tell.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql

SETTINGS_FILE = Path("/etc/athena-backup.json")
LOCK_SECONDS = 600
PART = ".part"
NOT_KNOWN = 4  # exit code
# Rows are compared as text, which must not depend on anybody's settings.
SESSION = "-c timezone=UTC -c datestyle=ISO,YMD -c intervalstyle=postgres -c extra_float_digits=1 -c bytea_output=hex"
TABLES = """
SELECT format('%I.%I', schema.nspname, relation.relname)
FROM pg_class AS relation JOIN pg_namespace AS schema ON schema.oid = relation.relnamespace
WHERE relation.relkind = 'r' AND schema.nspname <> 'information_schema' AND schema.nspname NOT LIKE 'pg\\_%'
ORDER BY 1
"""
# A sum does not depend on the order of the rows, and needs no memory.
CONTENT = """
SELECT count(*), coalesce(sum(('x' || left(md5(a_row::text), 16))::bit(64)::bigint::numeric), 0)::text
FROM ONLY {} AS a_row
"""
PROPERTIES = """
SELECT datname AS name, pg_get_userbyid(datdba) AS owner, pg_encoding_to_char(encoding) AS encoding,
    datcollate AS "collate", datctype AS ctype, pg_database_size(oid) AS bytes,
    current_setting('server_version') AS server_version,
    (SELECT json_agg(json_build_object('to', CASE grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(grantee) END,
        'privilege', privilege_type)) FROM aclexplode(coalesce(datacl, acldefault('d', datdba)))) AS grants
FROM pg_database WHERE datname = current_database()
"""
# A restoration closes the database while it renames it; a host that went down in between has it closed still.
CLOSED = """
SELECT datname FROM pg_database WHERE NOT datallowconn AND (datname = %s OR starts_with(datname, %s)) ORDER BY 1
"""
PLACE = "SELECT current_setting('data_directory'), pg_database_size(oid) FROM pg_database WHERE datname = %s"
END_SESSIONS = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"


class RefusedError(Exception):
    """Something that was asked for cannot be done; the message says why, and what to do."""


class NotKnownError(Exception):
    """The server went away while databases were renamed; the message says what may be so, and what to do."""


class NoRoomError(RefusedError):
    """A disk would be full."""


@dataclass(frozen=True)
class Settings:
    """What the deployment wrote to the settings file."""

    database: str
    port: int
    socket_dir: str
    folder: Path
    keep: int
    reserve_bytes: int
    # Where the host's exporter reads figures, if it is there.
    metrics_folder: Path | None = None

    @classmethod
    def load(cls) -> "Settings":
        """Read the settings file."""
        values = json.loads(SETTINGS_FILE.read_text())
        folders = {key: Path(values[key]) for key in ("folder", "metrics_folder") if key in values}
        return cls(**{**values, **folders})

    def with_reserve(self, told: list[str]) -> "Settings":
        """Return these with the reserve that the command line tells, if it does."""
        if not told:
            return self
        if len(told) > 1 or not told[0].isdecimal():
            raise RefusedError(f"{' '.join(told)} is not a number of bytes")
        return replace(self, reserve_bytes=int(told[0]))


@dataclass(frozen=True)
class Manifest:
    """What a backup is, and what the database held."""

    id: str
    made_at: str
    size: int
    sha256: str
    properties: dict[str, Any]
    tables: dict[str, list[Any]]
    # The revision of the migrations; None too for a backup that was made before this was noted.
    schema: str | None = None
    # Whether it stays however old: until somebody removes its two files.
    kept: bool = False
    # When it was last restored and was what it says here; None: never.
    proven_at: str | None = None


def read_manifest(path: Path) -> Manifest:
    """Read what `make` wrote."""
    try:
        return Manifest(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise RefusedError(f"{path} is not a manifest ({error}); move it away, its backup is of no use.") from None


class Backups:
    """The backups of one database."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def manifests(self) -> list[Manifest]:
        """Return the manifests of all complete backups, oldest first."""
        read = [read_manifest(path) for path in self._settings.folder.glob("*.json")]
        return sorted((one for one in read if self.path(one).exists()), key=lambda one: (one.made_at, one.id))

    def path(self, manifest: Manifest) -> Path:
        """Return the file of a backup."""
        return self._settings.folder / f"{manifest.id}.dump"

    def find(self, wanted: str) -> Manifest:
        """Return the manifest of a backup whose file is whole; refuse any other."""
        there = self.manifests()
        found = there[-1:] if wanted == "latest" else [one for one in there if one.id == wanted]
        if not found:
            known = ", ".join(one.id for one in there) or "none"
            raise RefusedError(f"{self._settings.folder} has no backup {wanted}. There is: {known}.")
        manifest, path = found[0], self.path(found[0])
        if path.stat().st_size != manifest.size or digest(path) != manifest.sha256:
            raise RefusedError(
                f"{path} is damaged: it is not what was written at {manifest.made_at}. "
                "Take another (athena-backup list), or bring this one back from a copy."
            )
        return manifest

    def open_again(self) -> None:
        """Let the database, and those before it, be entered again where a restoration was cut off in its swap."""
        database = self._settings.database
        with self._server() as cursor:
            cursor.execute(CLOSED, (database, f"{database}_before_"))
            for (closed,) in cursor.fetchall():
                self._open(cursor, closed)
                print(f"{closed} let nobody in, since a restoration that was cut off; it does again", file=sys.stderr)

    def room(self) -> list[str]:
        """Say where there is no room for a backup or for its proof, as either would refuse it; waits for nobody."""
        with connection(self._settings, "postgres") as server:
            cursor = server.cursor()
            cursor.execute(PLACE, (self._settings.database,))
            folders = {self._settings.folder.stat().st_dev: self._settings.folder}
            sizes = [0]
            for data, size in cursor.fetchall():
                folders.setdefault(Path(data).stat().st_dev, Path(data))
                sizes.append(size)
        return [lack for folder in folders.values() if (lack := lack_of_space(folder, max(sizes), self._settings))]

    def make_before(self, wanted: str) -> dict[str, Any]:
        """Make a backup before another is restored, which stays however old; nothing where there is no database.

        Nor where the database cannot be read: to be replaced is what it waits for, and it stays under another name.
        `why` says so then. A disk without room is refused: that can be mended first.
        """
        found = self.find(wanted)
        if not self._is_there():
            return {"id": ""}
        try:
            return self.make(spared=found.id)
        except NoRoomError:
            raise
        except (RefusedError, psycopg2.Error) as error:
            return {"id": "", "why": one_line(error)}

    def _is_there(self) -> bool:
        with self._server() as cursor:
            return oid(cursor, self._settings.database) is not None

    def make(self, spared: str = "") -> dict[str, Any]:
        """Dump the database, and write down what it held in the same snapshot."""
        folder = self._settings.folder
        for left_over in folder.glob(f"*{PART}"):
            left_over.unlink()
        with connection(self._settings, self._settings.database) as database:
            database.set_session(isolation_level="REPEATABLE READ", readonly=True)
            cursor = database.cursor()
            properties = one_row(cursor, PROPERTIES)
            # A dump is compressed, and has no indexes: it never needs as much as this.
            need_space(folder, properties["bytes"], self._settings)
            name, now = self._unused_id()
            part = folder / f"{name}.dump{PART}"
            snapshot = one_row(cursor, "SELECT pg_export_snapshot() AS id")["id"]
            try:
                self._run("pg_dump", "--format=custom", f"--snapshot={snapshot}", f"--file={part}", properties["name"])
                tables = contents(cursor)
                sync(part)
                manifest = Manifest(name, now, part.stat().st_size, digest(part), properties, tables, revision(cursor))
                self._complete(part, manifest)
            finally:
                part.unlink(missing_ok=True)
        self._prune(spared)
        return self._described(manifest)

    def _unused_id(self) -> tuple[str, str]:
        while True:
            now = datetime.now(UTC)
            name = f"{self._settings.database}-{now:%Y%m%dT%H%M%SZ}"
            if not (self._settings.folder / f"{name}.dump").exists():
                return name, now.isoformat(timespec="seconds")
            time.sleep(0.1)

    def _complete(self, part: Path, manifest: Manifest) -> None:
        part.rename(self.path(manifest))
        self._describe(manifest)

    def _describe(self, manifest: Manifest) -> None:
        description = self._settings.folder / f"{manifest.id}.json"
        unfinished = description.with_name(description.name + PART)
        unfinished.write_text(json.dumps(asdict(manifest), indent=1) + "\n")
        sync(unfinished)
        unfinished.rename(description)
        sync(self._settings.folder)

    def _prune(self, spared: str) -> None:
        """Remove the oldest beyond what is kept, but never the newest that was proven: those since may be of no use."""
        there = self.manifests()
        newest_proven = [one.id for one in there if one.proven_at][-1:]
        for manifest in [one for one in there if not one.kept][: -self._settings.keep]:
            if manifest.id in (spared, *newest_proven):
                continue
            (self._settings.folder / f"{manifest.id}.json").unlink()
            self.path(manifest).unlink()

    def _described(self, manifest: Manifest) -> dict[str, Any]:
        return {
            "id": manifest.id,
            "path": str(self.path(manifest)),
            "made_at": manifest.made_at,
            "size": manifest.size,
            "sha256": manifest.sha256,
            "proven_at": manifest.proven_at,
            "schema": manifest.schema,
            "tables": len(manifest.tables),
            "rows": sum(rows for rows, _ in manifest.tables.values()),
        }

    def listing(self) -> list[dict[str, Any]]:
        """Describe every backup, oldest first."""
        return [self._described(manifest) for manifest in self.manifests()]

    def since(self, wanted: str) -> dict[str, Any]:
        """Describe a backup, and of each table that is another now, how many rows it had then and has now."""
        manifest = self.find(wanted)
        with connection(self._settings, self._settings.database) as database:
            database.set_session(isolation_level="REPEATABLE READ", readonly=True)
            return {**self._described(manifest), "since": changed(manifest.tables, contents(database.cursor()))}

    def verify(self, wanted: str) -> dict[str, Any]:
        """Restore a backup beside the live database, compare it with its manifest, and drop it again."""
        manifest = self.find(wanted)
        with self._restored(manifest):
            proven = replace(manifest, proven_at=datetime.now(UTC).isoformat(timespec="seconds"))
            self._describe(proven)
            self._tell()
            return self._described(proven)

    def _tell(self) -> None:
        """Leave the figures of the newest backup that was proven, for Prometheus."""
        folder = self._settings.metrics_folder
        if folder is not None and folder.is_dir():
            proven = [one for one in self.manifests() if one.proven_at][-1]
            file = folder / "athena_backup.prom"
            unfinished = file.with_name(file.name + PART)
            try:
                unfinished.write_text(figures(proven))
                unfinished.chmod(0o644)  # for the exporter's account
                unfinished.rename(file)
            except OSError as error:  # the backup is as good as before; that its age is not told is an alert's to say
                print(f"{file} was not written: {error}", file=sys.stderr)

    def keep(self, wanted: str) -> dict[str, Any]:
        """Have a backup stay, however many there will be; answers whether that is new."""
        manifest = self.find(wanted)
        if not manifest.kept:
            self._describe(replace(manifest, kept=True))
        return {**self._described(manifest), "changed": not manifest.kept}

    def restore(self, wanted: str) -> dict[str, Any]:
        """Put a backup in the place of the live database, which stays under another name.

        Once they are renamed nothing is refused any more. Raises NotKnownError where that cannot be told.
        """
        manifest = self.find(wanted)
        with self._restored(manifest) as scratch:
            previous = f"{self._settings.database}_before_{datetime.now(UTC):%Y%m%dt%H%M%Sz}"
            replaced = self._swap(scratch, previous, manifest)
        return {**self._described(manifest), "previous": previous if replaced else ""}

    @contextmanager
    def _restored(self, manifest: Manifest) -> Iterator[str]:
        """Have the backup restored and compared in a database of its own, which is dropped unless it was renamed."""
        scratch = f"{self._settings.database}_scratch"
        with self._server() as cursor:
            folder = Path(one_row(cursor, "SELECT current_setting('data_directory') AS path")["path"])
            need_space(folder, manifest.properties["bytes"], self._settings)
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(scratch))
            cursor.execute(drop)  # what a killed run left
            create(cursor, scratch, manifest)
            try:
                path = str(self.path(manifest))
                self._run("pg_restore", "--exit-on-error", "--single-transaction", f"--dbname={scratch}", path)
                with connection(self._settings, scratch) as restored:
                    compare(manifest, contents(restored.cursor()))
                yield scratch
            finally:
                try:
                    cursor.execute(drop)
                except psycopg2.Error as error:  # what was done is done; it goes with the next proof
                    print(f"{scratch} was not dropped: {one_line(error)}", file=sys.stderr)

    @contextmanager
    def _server(self) -> Iterator[Any]:
        """Have a cursor for statements about databases, each a transaction of its own."""
        with connection(self._settings, "postgres") as server:
            server.autocommit = True
            yield server.cursor()

    @staticmethod
    def _open(cursor: Any, database: str) -> None:
        command(cursor, "ALTER DATABASE {} ALLOW_CONNECTIONS true", database)

    def _swap(self, scratch: str, previous: str, manifest: Manifest) -> bool:
        """Rename the live database away and the scratch one to its name; return whether there was a live one."""
        live = self._settings.database
        failure: BaseException | None = None
        with self._server() as cursor:
            exists, restored = oid(cursor, live) is not None, oid(cursor, scratch)
            grant(cursor, scratch, manifest)
            try:
                self._rename(cursor, scratch, previous if exists else "")
            except (psycopg2.Error, KeyboardInterrupt) as error:
                failure = error  # which may have come when all was done
        try:
            with self._server() as cursor:
                is_done = oid(cursor, live) == restored
                if exists:
                    self._open(cursor, previous if is_done else live)
        except psycopg2.Error as error:
            if failure is not None:
                raise NotKnownError(self._doubt(failure, previous)) from error
            is_done = True
            if exists:
                told = (
                    f"The backup is in place. {previous} lets nobody in until the next one is made: {one_line(error)}"
                )
                print(told, file=sys.stderr)
        if failure is not None and not is_done:
            raise failure
        return exists

    def _rename(self, cursor: Any, scratch: str, previous: str) -> None:
        """Rename both databases, or neither; without a name for the live one there is none."""
        live = self._settings.database
        if previous:
            command(cursor, "ALTER DATABASE {} ALLOW_CONNECTIONS false", live)
            cursor.execute(END_SESSIONS, (live,))
        cursor.execute("BEGIN")
        if previous:
            command(cursor, "ALTER DATABASE {} RENAME TO {}", live, previous)
        command(cursor, "ALTER DATABASE {} RENAME TO {}", scratch, live)
        cursor.execute("COMMIT")

    def _doubt(self, failure: BaseException, previous: str) -> str:
        live = self._settings.database
        return (
            f"the server went away while the databases were renamed ({one_line(failure)}). If there is a database "
            f"{previous}, the backup is in place; if not, {live} is as it was, and lets nobody in. "
            "Restore it again once the server answers."
        )

    def _run(self, program: str, *arguments: str) -> None:
        where = [f"--host={self._settings.socket_dir}", f"--port={self._settings.port}", "--no-password"]
        done = subprocess.run([program, *where, *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RefusedError(f"{program} failed: {done.stderr.strip()}")


# --- the database -----------------------------------------------------------------------------------------------------


@contextmanager
def connection(settings: Settings, database: str) -> Iterator[Any]:
    """Connect to a database as its superuser, over the socket."""
    opened = psycopg2.connect(
        host=settings.socket_dir,
        port=settings.port,
        dbname=database,
        user="postgres",
        application_name="athena-backup",
        options=SESSION,
    )
    try:
        yield opened
    finally:
        opened.close()


def one_row(cursor: Any, query: str) -> dict[str, Any]:
    """Return the one row of a query, by column."""
    cursor.execute(query)
    return dict(zip((column.name for column in cursor.description), cursor.fetchone(), strict=True))


def oid(cursor: Any, database: str) -> int | None:
    """Return what a database is known by whatever it is called; None where there is none of that name."""
    cursor.execute("SELECT oid FROM pg_database WHERE datname = %s", (database,))
    found = cursor.fetchone()
    return found[0] if found else None


def revision(cursor: Any) -> str | None:
    """Return the revision of the migrations that made the tables; None where none was applied yet."""
    cursor.execute("SELECT to_regclass('public.alembic_version') IS NOT NULL")
    if not cursor.fetchone()[0]:
        return None
    cursor.execute("SELECT version_num FROM public.alembic_version")
    row = cursor.fetchone()
    return str(row[0]) if row else None


def one_line(error: BaseException) -> str:
    """Return what an error says, in a line that goes on."""
    return " ".join(str(error).split()).rstrip(".;") or type(error).__name__


def command(cursor: Any, text: str, *names: str) -> None:
    """Execute a statement that takes names."""
    cursor.execute(sql.SQL(text).format(*map(sql.Identifier, names)))


def contents(cursor: Any) -> dict[str, list[Any]]:
    """Return the number of rows of each table, and a checksum over them."""
    cursor.execute(TABLES)
    found = {}
    for (table,) in cursor.fetchall():
        cursor.execute(CONTENT.format(table))
        found[table] = list(cursor.fetchone())
    return found


def changed(then: dict[str, list[Any]], now: dict[str, list[Any]]) -> dict[str, list[int | None]]:
    """Return the rows then and now of each table that is not the same; None where there is no such table."""
    return {
        table: [content[table][0] if table in content else None for content in (then, now)]
        for table in sorted({*then, *now})
        if then.get(table) != now.get(table)
    }


def compare(manifest: Manifest, found: dict[str, list[Any]]) -> None:
    """Refuse a restored database that is not what the manifest says."""
    differences = [
        f"{table} is {describe(found.get(table))}, not {describe(manifest.tables.get(table))}"
        for table in sorted({*found, *manifest.tables})
        if found.get(table) != manifest.tables.get(table)
    ]
    if differences:
        raise RefusedError(f"{manifest.id} does not restore to what it was made of: {'; '.join(differences)}.")


def describe(content: list[Any] | None) -> str:
    """Say what a table holds."""
    return "not there" if content is None else f"{content[0]} rows with checksum {content[1]}"


def create(cursor: Any, name: str, manifest: Manifest) -> None:
    """Make an empty database that is like the one of the backup, and that nobody else can enter."""
    made_like = manifest.properties
    cursor.execute(
        sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(
            sql.Identifier(name),
            sql.Identifier(made_like["owner"]),
            *(sql.Literal(made_like[key]) for key in ("encoding", "collate", "ctype")),
        )
    )
    command(cursor, "REVOKE ALL ON DATABASE {} FROM PUBLIC", name)


def grant(cursor: Any, name: str, manifest: Manifest) -> None:
    """Let into a database whom the backup's one let in."""
    for entry in manifest.properties["grants"]:
        to = sql.SQL("PUBLIC") if entry["to"] is None else sql.Identifier(entry["to"])
        statement = sql.SQL("GRANT {} ON DATABASE {} TO {}")
        cursor.execute(statement.format(sql.SQL(entry["privilege"]), sql.Identifier(name), to))


# --- Prometheus -------------------------------------------------------------------------------------------------------


def figures(proven: Manifest) -> str:
    """Return what Prometheus is told of the last backup that was restored once: when it was made, and its size."""
    made = datetime.fromisoformat(proven.made_at).timestamp()
    return (
        "# HELP athena_backup_timestamp_seconds When the last backup was made that was restored once.\n"
        "# TYPE athena_backup_timestamp_seconds gauge\n"
        f"athena_backup_timestamp_seconds {made:.0f}\n"
        "# HELP athena_backup_size_bytes Its size.\n"
        "# TYPE athena_backup_size_bytes gauge\n"
        f"athena_backup_size_bytes {proven.size}\n"
    )


# --- files ------------------------------------------------------------------------------------------------------------


def need_space(folder: Path, size: int, settings: Settings) -> None:
    """Refuse what would fill a disk."""
    if lack := lack_of_space(folder, size, settings):
        raise NoRoomError(lack)


def lack_of_space(folder: Path, size: int, settings: Settings) -> str:
    """Say what is missing where so many bytes would fill a disk; nothing where they would not."""
    free, needed = shutil.disk_usage(folder).free, size + settings.reserve_bytes
    if free >= needed:
        return ""
    return (
        f"{folder} has {free >> 20} MiB free, {needed >> 20} are needed, with backup_reserve_bytes. "
        "Make room there, or keep fewer backups (backup_keep)."
    )


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Hold the lock of the backups, after whoever is at work."""
    if not settings.folder.is_dir():
        raise RefusedError(f"{settings.folder} is not there; deploy the role backup again.")
    with (settings.folder / ".lock").open("w") as lock:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RefusedError(f"another athena-backup is at work, for {LOCK_SECONDS} s already") from None
                time.sleep(0.2)
        yield


def main(arguments: list[str]) -> None:
    """Do what the command line says."""
    os.umask(0o077)
    try:
        settings = Settings.load()
        backups = Backups(settings)
        match arguments:
            case ["list"]:
                answer: Any = backups.listing()
            case ["since", wanted]:
                answer = backups.since(wanted)
            case ["room", *reserve]:
                answer = Backups(settings.with_reserve(reserve)).room()
            case ["make"]:
                with alone(settings):
                    backups.open_again()
                    answer = backups.make()
            case ["make", "before", wanted]:
                with alone(settings):
                    backups.open_again()
                    answer = backups.make_before(wanted)
            case ["verify", wanted]:
                with alone(settings):
                    answer = backups.verify(wanted)
            case ["keep", wanted]:
                with alone(settings):
                    answer = backups.keep(wanted)
            case ["restore", wanted]:
                with alone(settings):
                    backups.open_again()
                    answer = backups.restore(wanted)
            case _:
                sys.exit(__doc__)
    except (RefusedError, NotKnownError, OSError, psycopg2.Error) as error:
        print(f"athena-backup: {str(error).strip()}", file=sys.stderr)
        sys.exit(NOT_KNOWN if isinstance(error, NotKnownError) else 1)
    print(json.dumps(answer, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
