#!/usr/bin/python
"""Have one job of launchd as declared: its plist, launchd's knowledge of it, its process."""

import os
import plistlib
import pwd
import re
import subprocess
import tempfile
import time
from difflib import get_close_matches
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: launchd_job
short_description: Declare, restart, remove or look at one job of launchd
description: >-
  A plist that changed is put in place while its job is away: the job is booted out, has ended, is enabled and
  bootstrapped. So what is loaded is what the plist says, also after a run that was killed. If only what the job runs
  changed, it is started anew. If neither changed, it is loaded and enabled where somebody changed that, and otherwise
  left alone.
options:
  label: {description: The job's label., type: str, required: true}
  kind: {description: Where it runs., type: str, choices: [daemon, agent], default: daemon}
  user: {description: Whose desktop an agent belongs to., type: str, default: ''}
  keys: {description: What the plist says beside the label; nothing of what is empty., type: dict, default: {}}
  version: {description: What the job runs, as far as the plist does not say it., type: str, default: ''}
  versions: {description: The folder that remembers versions., type: path, required: true}
  state:
    description: What is to be; `judged` refuses what cannot be, and changes nothing.
    type: str
    choices: [present, absent, judged, look]
    default: present
  patience: {description: "How long launchd may take for a step beyond the time that the job has to end, in seconds.",
             type: int, default: 30}
"""
INPUT_OUTPUT, NO_PROCESS, IN_PROGRESS, NO_DOMAIN, NO_SERVICE, NOT_SUPPORTED = 5, 3, 36, 112, 113, 125
EXIT_TIMEOUT = 20
MODE = 0o644  # launchd refuses what others may write
LOOK_SECONDS = 0.25
ON_DEMAND_SECONDS = 2
# As launchd.plist(5) has them and we may write them.
KEYS = (
    *("EnvironmentVariables", "ExitTimeOut", "GroupName", "HardResourceLimits", "KeepAlive", "Nice", "ProcessType"),
    *("ProgramArguments", "RunAtLoad", "SoftResourceLimits", "StandardErrorPath", "StandardOutPath", "StartInterval"),
    *("ThrottleInterval", "Umask", "UserName", "WorkingDirectory"),
)


class JobError(Exception):
    """What went wrong, in words for a person."""


class Job:
    """A job with its files, and launchd's view of it."""

    def __init__(self, module):
        self.module = module
        given = module.params
        self.label, self.patience = given["label"], given["patience"]
        self.launchctl_path = module.get_bin_path("launchctl", required=True, opt_dirs=["/bin"])
        self.version_file = Path(given["versions"]) / self.label
        # Whoever has to look at a job of a user who is not there yet, in a check, finds nothing.
        self.user = None
        if given["kind"] == "agent":
            self.user = find_user(given["user"])
            folder = Path(self.user.pw_dir if self.user else "/nonexistent") / "Library" / "LaunchAgents"
            self.domain = f"gui/{self.user.pw_uid}" if self.user else ""
        else:
            folder = Path("/Library/LaunchDaemons")
            self.domain = "system"
        self.path = folder / f"{self.label}.plist"
        self.done = []

    @property
    def target(self):
        return f"{self.domain}/{self.label}"

    # --- launchd ------------------------------------------------------------------------------------------------------

    def launchctl(self, *arguments, expected=(0,)):
        """Run launchctl; fail if it ends with another code than expected."""
        command = [self.launchctl_path, *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode not in expected:
            said = (ended.stderr + ended.stdout).strip()
            raise JobError(
                f"`{' '.join(command)}` ended with {ended.returncode}: {said}.{self.remedy(ended.returncode)}"
            )
        return ended

    def remedy(self, code):
        if code == INPUT_OUTPUT:
            return (
                " launchd gives this code for nearly everything; on the Mac, `log show --last 5m --predicate"
                " 'process == \"launchd\"'` says more."
            )
        return " Become root for this role." if code == 1 else ""

    def look(self):
        """Return what launchd knows of the job."""
        seen = {
            "label": self.label,
            "domain": self.domain,
            "has_domain": bool(self.domain),
            "path": str(self.path),
            "loaded": False,
            "enabled": True,
            "state": "",
            "running": False,
            "pid": 0,
            "runs": 0,
            "last_exit_code": None,
            "last_signal": "",
        }
        if not self.domain:
            return seen
        printed = self.launchctl("print", self.target, expected=(0, NO_DOMAIN, NO_SERVICE, NOT_SUPPORTED))
        if printed.returncode == 0:
            seen.update(parse(printed.stdout), loaded=True)
        seen["has_domain"] = printed.returncode in (0, NO_SERVICE)
        if seen["has_domain"]:
            disabled = self.launchctl("print-disabled", self.domain).stdout
            # Older versions say `true` for disabled.
            seen["enabled"] = (
                re.search(rf'"{re.escape(self.label)}" => (disabled|true)$', disabled, re.MULTILINE) is None
            )
        return seen

    def is_leaving(self, seen):
        """Return whether somebody told it to end: booted out, or about to be started again."""
        return seen["state"] in ("SIGTERMed", "SIGKILLed")

    def wait(self, until, seconds, problem):
        """Look until it is so, and return what was seen."""
        deadline = time.monotonic() + seconds
        while not until(seen := self.look()):
            if time.monotonic() > deadline:
                raise JobError(problem(seen))
            time.sleep(LOOK_SECONDS)
        return seen

    def settle(self):
        """Return what launchd knows of the job, once nothing is about to change that."""
        return self.wait(
            lambda seen: not self.is_leaving(seen),
            self.stop_seconds() + self.patience,
            lambda seen: f"{self.target} was told to end before, and its process {seen['pid']} does not: kill it.",
        )

    def stop_seconds(self):
        """Return how long the job that is there may take to end."""
        old = self.old_keys()
        return old.get("ExitTimeOut", EXIT_TIMEOUT)

    def bootout(self):
        self.done.append("bootout")
        self.launchctl("bootout", self.target, expected=(0, NO_PROCESS, IN_PROGRESS))
        self.wait(
            lambda seen: not seen["loaded"],
            self.stop_seconds() + self.patience,
            lambda seen: (
                f"{self.target} was booted out, and its process {seen['pid']} does not end: kill it and run again."
            ),
        )

    def bootstrap(self):
        """Load the job. It may be that launchd no longer shows the one before, and refuses a new one all the same."""
        self.done.append("bootstrap")
        self.launchctl("enable", self.target)
        deadline = time.monotonic() + self.patience
        while True:
            late = time.monotonic() > deadline
            expected = (0,) if late else (0, INPUT_OUTPUT)
            if self.launchctl("bootstrap", self.domain, str(self.path), expected=expected).returncode == 0:
                return
            time.sleep(2 * LOOK_SECONDS)

    def await_start(self, keys):
        """Wait for the process of a job that is to run at once."""
        if not (keys.get("RunAtLoad") or keys.get("KeepAlive")):
            return
        if self.user:
            self.start_pending()
        pids = [0]

        def has_stayed(seen):
            """Return whether two looks on end met it: one alone may meet what ends at once."""
            pids.append(seen["pid"])
            return has_started(seen) and (not seen["running"] or pids[-1] == pids[-2])

        self.wait(has_stayed, self.patience, self.explain)

    def start_pending(self):
        """Start an agent that waits: launchd does not start by itself what was loaded from outside of the desktop."""
        deadline = time.monotonic() + ON_DEMAND_SECONDS
        while not has_started(self.look()):
            if time.monotonic() > deadline:
                self.launchctl("kickstart", self.target)
                return
            time.sleep(LOOK_SECONDS)

    def explain(self, seen):
        ended = seen["last_signal"] or f"exit code {seen['last_exit_code']}"
        words = f"{self.target} does not run: {seen['state'] or 'not loaded'}, it ended with {ended}."
        if seen["last_exit_code"] == os.EX_CONFIG:
            words += (
                " That is launchd's code for what it cannot start: look at the user, the folder, the program, and"
                " whether the user may write the log."
            )
        log = self.old_keys().get("StandardErrorPath")
        if log and Path(log).exists():
            words += f"\nThe end of {log}:\n" + "".join(Path(log).read_text(errors="replace").splitlines(True)[-15:])
        return words

    # --- files --------------------------------------------------------------------------------------------------------

    def old_text(self):
        return self.path.read_bytes() if self.path.exists() else b""

    def old_keys(self):
        """Return what the plist that is there says, nothing if that is not a plist."""
        try:
            return plistlib.loads(self.old_text())
        except Exception:  # whatever the parsers make of what is not a plist
            return {}

    def owner(self):
        return (self.user.pw_uid, self.user.pw_gid) if self.user else (0, 0)

    def file_differs(self, text):
        """Return whether the plist has another content, or owner and mode with which launchd refuses it."""
        if self.old_text() != text:
            return True
        seen = self.path.lstat()
        return seen.st_uid != self.owner()[0] or seen.st_mode & 0o777 != MODE

    def write(self, text):
        folder = self.path.parent
        for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
            missing.mkdir(mode=0o755)  # of a user who never had an agent
            os.chown(missing, *self.owner(), follow_symlinks=False)
        # By its descriptor and not its name: where the folder is a user's, root must not be led elsewhere.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{self.label}.", delete=False) as part:
            part.write(text)
            os.fchown(part.fileno(), *self.owner())
            os.fchmod(part.fileno(), MODE)
        try:
            self.lint(part.name)
            Path(part.name).replace(self.path)
        finally:
            Path(part.name).unlink(missing_ok=True)

    def lint(self, path):
        """Have the system's own parser read it."""
        plutil = self.module.get_bin_path("plutil", opt_dirs=["/usr/bin"])
        if plutil:
            ended = subprocess.run([plutil, "-lint", path], capture_output=True, text=True, check=False)
            if ended.returncode:
                raise JobError(f"plutil does not take the plist: {ended.stdout}{ended.stderr}")

    def old_version(self):
        return self.version_file.read_text().strip() if self.version_file.exists() else ""

    def remember(self, version):
        if version == self.old_version():
            return
        if not version:
            self.version_file.unlink()
            return
        self.version_file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.version_file.write_text(f"{version}\n")


def find_user(name):
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def parse(printed):
    """Return the figures of `launchctl print`. Only lines of the first level are the job's own."""
    pairs = dict(re.findall(r"^\t([a-z ]+?) = (.*)$", printed, re.MULTILINE))
    exited = re.match(r"\d+", pairs.get("last exit code", ""))
    return {
        "path": pairs.get("path", ""),
        "state": pairs.get("state", ""),
        "running": pairs.get("state") == "running" and "pid" in pairs,
        "pid": int(pairs.get("pid", 0)),
        "runs": int(pairs.get("runs", 0)),
        "last_exit_code": int(exited[0]) if exited else None,
        "last_signal": pairs.get("last terminating signal", ""),
    }


def has_started(seen):
    """Return whether it runs, or ran to its end."""
    return seen["running"] or (seen["runs"] > 0 and seen["state"] == "not running" and seen["last_exit_code"] == 0)


def render(label, keys):
    """Return the plist, and refuse what launchd would not understand."""
    unknown = sorted(set(keys) - set(KEYS))
    if unknown:
        near = get_close_matches(unknown[0], KEYS, 1)
        raise JobError(f"A job has no {unknown[0]}{f', but {near[0]}' if near else ''}.")
    stated = {name: value for name, value in keys.items() if value not in (None, "", {}, [])}
    text = plistlib.dumps({"Label": label, **stated})
    if plistlib.loads(text) != {"Label": label, **stated}:
        raise JobError("The plist does not say what it was made of.")
    return text


def must_run(keys):
    """Refuse what launchd could not start. Not in a check, which did not take the steps that make user and program."""
    user, program, folder = keys.get("UserName"), Path(keys["ProgramArguments"][0]), keys.get("WorkingDirectory")
    if user and not find_user(user):
        raise JobError(
            f"launchd_job_user: there is no user {user}. Nothing was changed: make it first, or name another."
        )
    if not (program.is_file() and os.access(program, os.X_OK)):
        raise JobError(
            f"launchd_job_command: {program} is not a program that can be run. Nothing was changed: install it."
        )
    if folder and not Path(folder).is_dir():
        raise JobError(f"launchd_job_working_dir: there is no folder {folder}. Nothing was changed: make it first.")


def judge(job, keys, is_check):
    """Return the plist, or refuse what cannot be, before anything is changed."""
    text = render(job.label, keys)
    if not is_check:
        must_run(keys)
        if not job.domain:
            raise JobError("launchd_job_user: there is no such user. Nothing was changed: make it, or name another.")
    if job.domain and not job.look()["has_domain"]:
        raise JobError(
            f"{job.user.pw_name} has no desktop session, and an agent needs one. Nothing was changed: log in on the"
            " Mac, or set launchd_job_kind to daemon."
        )
    return text


def have(job, keys, version, is_check):
    """Have the job as declared; return whether that changed anything, and the difference."""
    text = judge(job, keys, is_check)
    seen = job.look() if is_check else job.settle()
    old, old_version = job.old_text(), job.old_version()
    difference = {
        "before_header": str(job.path),
        "after_header": str(job.path),
        "before": f"{old.decode(errors='replace')}{f'<!-- runs {old_version} -->' if old_version else ''}\n",
        "after": f"{text.decode()}{f'<!-- runs {version} -->' if version else ''}\n",
    }
    is_elsewhere = seen["loaded"] and Path(seen["path"]).resolve() != job.path.resolve()
    is_new = is_elsewhere or job.file_differs(text)
    is_changed = is_new or not seen["loaded"] or not seen["enabled"] or version != old_version
    if not is_changed or is_check:
        return is_changed, difference
    job.remember("")  # until it has started, also where that fails, so that the way back starts it anew
    if is_new or not seen["loaded"]:
        replace(job, seen, text if is_new else b"", old)
        job.await_start(keys)
    else:
        if not seen["enabled"]:
            job.done.append("enable")
            job.launchctl("enable", job.target)
        if version not in ("", old_version):
            job.done.append("kickstart")
            job.launchctl("kickstart", "-k", job.target)
            job.await_start(keys)
    job.remember(version)
    return True, difference


def replace(job, seen, text, old):
    """Load the job anew, with a new plist if there is a text; if launchd does not take that, the old one runs again."""
    if seen["loaded"]:
        job.bootout()
    if text:
        job.write(text)
    try:
        job.bootstrap()
    except JobError as error:
        if not text or not old:
            raise
        job.write(old)
        if seen["loaded"]:
            job.bootstrap()
        raise JobError(f"{error} The plist of before is back{' and loaded' if seen['loaded'] else ''}.") from None


def remove(job, is_check):
    """Have the job no longer; return whether that changed anything, and the difference."""
    seen = job.look()
    files = [path for path in (job.path, job.version_file) if path.exists()]
    before = job.old_text().decode(errors="replace")
    is_changed = bool(seen["loaded"] or files)
    if is_changed and not is_check:
        if seen["loaded"]:
            job.bootout()
        for path in files:
            path.unlink()
    return is_changed, {"before_header": str(job.path), "after_header": "absent", "before": before, "after": ""}


def main():
    module = AnsibleModule(
        argument_spec={
            "label": {"type": "str", "required": True},
            "kind": {"type": "str", "choices": ["daemon", "agent"], "default": "daemon"},
            "user": {"type": "str", "default": ""},
            "keys": {"type": "dict", "default": {}, "no_log": False},
            "version": {"type": "str", "default": ""},
            "versions": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent", "judged", "look"], "default": "present"},
            "patience": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    job = Job(module)
    try:
        if module.params["state"] == "look":
            module.exit_json(changed=False, job=job.look(), version=job.old_version())
        if module.params["state"] == "judged":
            judge(job, module.params["keys"], module.check_mode)
            module.exit_json(changed=False)
        if module.params["state"] == "absent":
            changed, difference = remove(job, module.check_mode)
        else:
            changed, difference = have(job, module.params["keys"], module.params["version"], module.check_mode)
    except JobError as error:
        module.fail_json(msg=f"{job.label}: {error}", done=job.done)
    module.exit_json(changed=changed, diff=difference if changed else {}, done=job.done)


if __name__ == "__main__":
    main()
