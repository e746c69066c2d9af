"""The lock, the journal of the release under way, and the ledger of those before it, as one Ansible action.

It runs in Ansible's own process, on the controller, because that is where all three live:

    STATE/lock/journal.json   there while a release is under way: who, since when, which steps were begun
    STATE/ledger/r7.json      one file for each release, written once, whole or not at all

Operations (`op`): `read`, `refuse`, `problems`, `open`, `step`, `fail`, `record`, `close`, `leave`, `remove`, `unlock`.
Each answers with `releases` (oldest first) and `active`, the release that is in force, with what failed ones since then
left other than it was. A `verdict` is deploy.sh's exit code; it goes to a file in the folder `exchange`.

A run that was killed leaves its lock. Where it is certain that its processes are gone, a deployment (a rotation is
one) that is told to (`go_on`) takes the lock over and goes on, a rollback goes back from what a deployment, an update
or another rollback had begun, and `destroy` leaves nothing to go on with; any other action is refused until one of
them has ended well, and so is a deployment that is not told to. Which runs there were, and what mends what, is decided
in `release_runs.py`. Where the lock is removed instead, the ledger has what the run had begun: it may have brought the
database to a revision that its code alone knows. Things stand half done from then on, and whoever takes the lock next
goes on from there, as if it had not been removed. What does not mend that, a fleet or a scale after a deployment that
was killed, may be done, and leaves it known.
"""

import fcntl
import getpass
import importlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

# Modules have a role's module_utils beside them where they run; an action, which runs here, has to say where they are.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))
runs = importlib.import_module("ansible.module_utils.release_runs")
folders = importlib.import_module("ansible.module_utils.state_folder")

NOT_TAKEN_BACK, LOCKED = 4, 5


class ActionModule(ActionBase):
    """`release_journal: {op: …, state_dir: …, …}`."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Do the operation; see the module's description."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        if problem := folders.problem_of_name(self._task.args["state_dir"]):
            return {**result, **_refused(problem)}
        self._state = Path(self._task.args["state_dir"])
        operation = getattr(self, f"_op_{self._task.args['op']}")
        result.update({"changed": False, **operation(self._task.args)})
        if (verdict := result.pop("verdict", None)) is not None and self._task.args.get("exchange"):
            (Path(self._task.args["exchange"]) / "verdict").write_text(f"{verdict}\n")
        releases = self._releases()
        return {**result, "releases": releases, "active": runs.active(releases)}

    # --- operations -------------------------------------------------------------------------------------------------

    def _op_read(self, _: dict[str, Any]) -> dict[str, Any]:
        """Answer whose lock is there, each None or empty where there is none.

        `lock` is the journal of a run that may be under way, `left` that of one that is over without having ended, and
        `lock_told` says for people which it is and what to do. `half_told` says so of one that is over, also where its
        lock was removed. `runs` has all that may have changed something, see `runs_of`; `half_done` says that the last
        of them was a deployment that neither ended nor was taken back. `removed_told` says who removed the services, if
        they are. `seen`
        is for `open`, which lets nobody go on from what is not so any more.
        """
        journal, is_there = self._journal(), self._lock.exists()
        left = journal if journal is not None and not _is_alive(journal) else None
        releases = self._releases()
        return {
            "lock": None if left else (journal or {"action": "unknown"}) if is_there else None,
            "left": left,
            "lock_told": self._describe_lock() if is_there else "",
            "half_told": self._describe_lock() if left else "" if is_there else runs.describe_stopped(releases),
            "runs": runs.runs_of(releases, left),
            "half_done": runs.is_half_done(releases, left),
            "removed_told": runs.describe_removed(releases),
            "seen": self._seen(),
        }

    def _op_refuse(self, args: dict[str, Any]) -> dict[str, Any]:
        """Fail where an action may not have the lock, before anything is looked at for it."""
        return self._refusal(args)

    def _op_problems(self, args: dict[str, Any]) -> dict[str, Any]:
        """Fail where something speaks against an action, with all of it; `remark` is said at the end."""
        problems = [str(problem) for problem in args["problems"]]
        if not problems:
            return {}
        lines = ["Nothing was changed, because:", *(f"- {problem}" for problem in problems), args.get("remark") or ""]
        return {"failed": True, "problems": problems, "msg": "\n".join(lines).rstrip()}

    def _op_open(self, args: dict[str, Any]) -> dict[str, Any]:
        """Take the lock. From here on a run that ends without a word has failed and was not taken back.

        What it decided until now, it decided by the ledger and the lock that it read; `seen` says which, and where they
        are others by now, because another run came in between, it is refused and may look again.

        Answers `took_over`: the runs that were killed since the last one that ended, oldest first.
        """
        if problem := folders.problem_of_owner(self._state):
            return _refused(problem)
        if self._play_context.check_mode:
            return self._refusal(args) or self._overtaken(args.get("seen"))
        folders.claim(self._state)
        with self._alone():
            folders.finish_removal(self._state)
            if refusal := self._refusal(args) or self._overtaken(args.get("seen")):
                return refusal
            left = self._journal() or runs.stopped(self._releases())
            # Those that one took over which has come into force are in its entry.
            before = left.get("took_over", []) if left and left.get("outcome") != runs.IN_FORCE else []
            took_over = [*before, {"record": {}, **left, "took_over": None}] if left else []
            going_on = ""
            if left:
                mends = runs.mends(args["action"], left)
                way = "Going on where" if mends else "Half done, and not mended by this:"
                going_on = f"{way} the '{left['action']}' since {left['since']} stopped."
            self._lock.mkdir(exist_ok=True)
            self._write_journal(
                {
                    "action": args["action"],
                    "operand": args.get("operand") or "",
                    "owner": getpass.getuser(),
                    "host": socket.gethostname(),
                    "pid": int(args.get("owner_pid") or 0),
                    # deploy.sh and ansible-playbook: either may outlive the other.
                    "processes": {pid: _start_of(pid) for pid in (str(args.get("owner_pid") or 0), str(os.getppid()))},
                    "since": _now(),
                    # As it is now: what is deployed is read from here on, and somebody may go on working meanwhile.
                    "git": _git_state(Path.cwd()),
                    "steps": [],
                    "record": {},
                    "took_over": took_over,
                }
            )
        return {"verdict": NOT_TAKEN_BACK, "took_over": took_over, "msg": going_on}

    def _op_step(self, args: dict[str, Any]) -> dict[str, Any]:
        """Note that a step begins."""
        journal = self._journal()
        if journal is not None and not self._play_context.check_mode:  # it may be another run's
            _end_step(journal)
            journal["steps"].append({"step": args["step"], "at": _now()})
            journal["record"] = args.get("record") or {}
            journal["content"] = args.get("content") or {}
            self._write_journal(journal)
        return {"msg": args["message"], "begun": args["step"]}

    def _op_fail(self, args: dict[str, Any]) -> dict[str, Any]:
        """Note that the last step failed, and what it was to bring about: the way back makes other facts of both."""
        journal = self._journal()
        if journal is not None and not self._play_context.check_mode:
            if journal["steps"]:
                journal["steps"][-1]["failed"] = _now()
            journal["attempted"] = {"content": args["content"], "record": args.get("record") or {}}
            self._write_journal(journal)
        return {}

    def _op_close(self, args: dict[str, Any]) -> dict[str, Any]:
        """Write the ledger's entry, unless the release in force has the same content, and let go of the lock.

        Where it mends what a run left that stopped and whose lock was removed, there is one in any case: it says that
        nothing is half done. So is there where the services were removed, which are there again, and of a restoration,
        also of one that was killed and gone on from. `restores` then names the release that is in force as before.
        """
        journal = self._journal()
        if journal is None or self._play_context.check_mode:
            return {"recorded": None}
        recorded = journal["id"] if "id" in journal else self._enter(journal, args)
        shutil.rmtree(self._lock)
        return {"recorded": recorded, "changed": recorded is not None, "verdict": args["verdict"]}

    def _op_record(self, args: dict[str, Any]) -> dict[str, Any]:
        """Write the ledger's entry as `close` would, and keep the lock for what a release in force has still to do.

        A run that is killed then has left nothing half done but that: `close` writes no other entry.
        """
        journal = self._journal()
        if journal is None or self._play_context.check_mode:
            return {"recorded": None}
        recorded = self._enter(journal, args)
        self._write_journal({**journal, "id": recorded, "outcome": args["outcome"]})
        return {"recorded": recorded, "changed": recorded is not None}

    def _op_leave(self, args: dict[str, Any]) -> dict[str, Any]:
        """Let go of the lock without an entry in the ledger: what was done is in no release."""
        if self._journal() is None or self._play_context.check_mode:
            return {}
        shutil.rmtree(self._lock)
        return {"verdict": args["verdict"]}

    def _op_remove(self, args: dict[str, Any]) -> dict[str, Any]:
        """Remove the whole folder, ledger and lock included: nobody else has begun anything until it is gone."""
        is_there = self._state.exists()
        if is_there and not self._play_context.check_mode:
            folders.remove(self._state)
        return {"changed": is_there, "verdict": args["verdict"]}

    def _op_unlock(self, _: dict[str, Any]) -> dict[str, Any]:
        """Remove the lock; answers `lock`, what it said. Refuses while its owner's process lives on this host.

        That one of another host is over, only the person who unlocks can know. What it had begun stays known:
        `recorded` is the ledger's entry of it, None where it had not come so far that there is something to know, and
        `goes_back` says whether a rollback goes back from there to the release in force.
        """
        journal = self._journal()
        if not self._lock.exists():
            return {"lock": None}
        if journal is not None and (living := _living(journal)):
            told = f"{self._describe_lock()}\n{runs.describe_living(living)}"
            return {"failed": True, "verdict": LOCKED, "msg": told}
        recorded = None
        if not self._play_context.check_mode:
            if journal is not None and journal["steps"] and (of_this_run := runs.attempt_of(journal))["content"]:
                error = f"it stopped in its step '{journal['steps'][-1]['step']}'"
                recorded = self._record(journal, of_this_run, {"outcome": runs.STOPPED, "error": error})
            shutil.rmtree(self._lock)
        goes_back = (
            recorded is not None and runs.rolls_back(journal or {}) and runs.is_half_done(self._releases(), None)
        )
        return {"lock": journal or {}, "recorded": recorded, "goes_back": goes_back, "changed": True}

    # --- files ------------------------------------------------------------------------------------------------------

    @property
    def _lock(self) -> Path:
        return Path(self._state / folders.LOCK)

    def _describe_lock(self, command: str = "deploy") -> str:
        active = runs.active(self._releases())
        journal = self._journal()
        living = _living(journal) if journal is not None else None
        return str(runs.describe_lock(journal, self._lock, active["id"] if active else "", living, command))

    def _refusal(self, args: dict[str, Any]) -> dict[str, Any]:
        """Answer what an action that may not have the lock is told; nothing if it may.

        `go_on` says that it was told to go on from where a run stopped.
        """
        action, journal = args["action"], self._journal()
        is_over = journal is not None and not _is_alive(journal)
        goes_on = action not in runs.GOING_ON or boolean(args.get("go_on") or False)
        if not self._lock.exists() or (is_over and goes_on and runs.mends(action, journal)):
            return {}
        told = self._describe_lock(runs.command_onwards(action, args.get("operand") or ""))
        return {"failed": True, "verdict": LOCKED, "msg": f"{told}\nNothing was changed." if is_over else told}

    def _seen(self) -> str:
        """Return what stands for ledger and lock as they are: it is another one as soon as a run begins or ends."""
        last = next(iter(self._releases()[-1:]), {"id": "nothing"})
        journal = self._journal() or {"since": "nobody", "pid": 0}
        return f"{last['id']} {journal['since']} {journal['pid']}" if self._lock.exists() else str(last["id"])

    def _overtaken(self, seen: str | None) -> dict[str, Any]:
        """Answer what a run is told whose look at ledger and lock is out of date; nothing if it is not."""
        if seen is None or seen == self._seen():
            return {}
        last = next(iter(self._releases()[-1:]), None)
        entry = (
            "the ledger ends with {id} now, the '{action}' of {owner}@{host} until {until}"
            if last
            else "its lock is gone"
        )
        other = f"Another run was at work while this one was looking ({entry.format(**(last or {}))})."
        return {"failed": True, "verdict": LOCKED, "msg": f"{other} Nothing was changed; run it again."}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others who open the lock waiting."""
        with (self._state / folders.MARKER).open() as marker:
            fcntl.flock(marker, fcntl.LOCK_EX)
            yield

    def _journal(self) -> dict[str, Any] | None:
        path = self._lock / "journal.json"
        return json.loads(path.read_text()) if path.exists() else None

    def _write_journal(self, journal: dict[str, Any]) -> None:
        self._write(self._lock / "journal.json", journal)

    def _enter(self, journal: dict[str, Any], said: dict[str, Any]) -> str | None:
        """Write the ledger's entry of a run, where there is something to tell; return its id, or None."""
        releases = self._releases()
        active = runs.active(releases)
        is_in_force = said["outcome"] == runs.IN_FORCE
        of_this_run = {"content": said["content"], "record": said.get("record") or {}}
        if is_in_force:
            _end_step(journal)
        else:
            of_this_run = journal.get("attempted") or of_this_run
        is_another = not is_in_force or active is None or active["content"] != of_this_run["content"]
        stopped = runs.stopped(releases)
        mends = stopped and runs.mends(journal["action"], stopped)
        is_told = runs.is_always_told(journal) or runs.describe_removed(releases) != ""
        if not (is_another or mends or is_told):
            return None
        again = said.get("restores") or (None if is_another or not active else active["restores"] or active["id"])
        left = {} if is_in_force else said.get("left")
        return self._record(journal, of_this_run, {**said, "restores": again, "left": left})

    def _record(self, journal: dict[str, Any], of_this_run: dict[str, Any], said: dict[str, Any]) -> str:
        """Write the ledger's entry of a run: its content and record, and what is said of its end; return its id."""
        releases = self._releases()
        active = runs.active(releases)
        recorded = f"r{1 + max((runs.number(release) for release in releases), default=0)}"
        self._write(
            self._state / "ledger" / f"{recorded}.json",
            {
                "id": recorded,
                **{key: journal[key] for key in ("action", "owner", "host", "since", "steps", "took_over")},
                "operand": journal.get("operand") or "",
                "until": _now(),
                "git": journal.get("git") or _git_state(Path.cwd()),
                "outcome": said["outcome"],
                "error": said.get("error") or None,
                "replaces": active["id"] if active else None,
                "restores": said.get("restores") or None,
                **runs.first_recorded(
                    [*(run["record"] for run in runs.not_in_force(journal["took_over"])), of_this_run["record"]]
                ),
                "content": of_this_run["content"],
                "content_before": active["content"] if active else None,
                "left": said.get("left") or {},
            },
        )
        return recorded

    def _releases(self) -> list[dict[str, Any]]:
        entries = [json.loads(path.read_text()) for path in (self._state / "ledger").glob("r*.json")]
        return sorted(entries, key=runs.number)

    @staticmethod
    def _write(path: Path, content: dict[str, Any]) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(content, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
            _sync(path.parent)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _refused(problem: str) -> dict[str, Any]:
    """Answer what an action is told that something speaks against."""
    return {"failed": True, "problems": [problem], "msg": f"{problem} Nothing was changed."}


def _sync(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _end_step(journal: dict[str, Any]) -> None:
    """Note when the last step was completed: one without that is where a run stopped, or failed."""
    if journal["steps"] and "failed" not in journal["steps"][-1]:
        journal["steps"][-1].setdefault("done", _now())


def _is_alive(journal: dict[str, Any]) -> bool:
    """Return whether a process of the lock's owner may be running: always, where that cannot be known from here."""
    return _living(journal) != []


def _living(journal: dict[str, Any]) -> list[str] | None:
    """Return the numbers of the processes of the lock's owner that are running; None where another host has them."""
    if journal["host"] != socket.gethostname():
        return None
    # A lock of a version before has the number of one process alone.
    processes = journal.get("processes") or {str(journal["pid"]): _start_of(str(journal["pid"]))}
    return [pid for pid, started in processes.items() if started and _start_of(pid) == started]


def _start_of(pid: str) -> str:
    """Return when a process was started, because its number may be used again; nothing if it is over."""
    if Path("/proc/self/stat").exists():
        try:
            state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return "" if state in "ZX" else numbers[18]
    asked = subprocess.run(["ps", "-o", "lstart=", "-p", pid], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git_state(folder: Path) -> dict[str, Any]:
    """Return the revision of the checkout and whether it has changes of its own; nothing for a folder without git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"revision": None, "dirty": None}
