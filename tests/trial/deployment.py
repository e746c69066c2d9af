"""What is deployed to a trial: deploy.sh as a person runs it, what it left, and what is changed in the copy of it."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
from callers import MODEL, Callers, Engine, meanwhile
from changes import add_migration
from scratch import Finished, wait_until
from trials import CACHE, Trial

GIT = ("git", "-c", "user.name=A test", "-c", "user.email=test@example.internal")
# In this order; the second cannot be taken back, and the code before it does not run on it.
A_TABLE, A_FINAL_TABLE = "0a1b2c3d4e5f", "1a1b2c3d4e5f"


# What callers ask in a second while something is done with the deployment; reached also on two cores with a load of 17.
RATE = 200


Interventions = Mapping[str, Callable[[], object]]


class Deployment:
    """A trial of a copy of this checkout, and what deploy.sh makes of it. See molecule/shared/trial-copy."""

    def __init__(self, name: str) -> None:
        self.clone = CACHE / "copies" / name
        self.trial = Trial(name, self.clone)
        self.state = Path(self.trial.variables["athena_state_dir"])

    @classmethod
    def of_the_scenario(cls) -> "Deployment":
        """Return the one that molecule has prepared."""
        return cls(os.environ["ATHENA_TRIAL"])

    # --- deploy.sh ----------------------------------------------------------------------------------------------------

    def start(self, action: str, *arguments: str) -> subprocess.Popen[str]:
        """Start deploy.sh in a session of its own."""
        return subprocess.Popen(
            [self.clone / "deploy.sh", self.trial.name, action, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def run(self, action: str, *arguments: str, at: Interventions | None = None) -> Finished:
        """Run deploy.sh to its end; `at` says what is done meanwhile, where it prints the words."""
        began = time.monotonic()
        with self.start(action, *arguments) as process:
            said = "".join(doing_meanwhile(process, at or {}))
        return Finished(process.returncode, said, time.monotonic() - began)

    def kill(
        self,
        process: subprocess.Popen[str],
        words: str,
        *,
        lines_more: int = 0,
        at: Interventions | None = None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> str:
        """Kill deploy.sh and all that it started where it prints the words, or some lines later; return what it said.

        It stands still for what is done `meanwhile`.
        """
        said = []
        with process:
            lines = doing_meanwhile(process, at or {})
            for line in lines:
                said.append(line)
                if words in line:
                    break
            said.extend(islice(lines, lines_more))
            os.killpg(process.pid, signal.SIGSTOP)
            try:
                meanwhile()
            finally:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, "".join(said)
        return "".join(said)

    def told(self, action: str, *arguments: str, code: int = 0) -> Any:
        """Return what an action says to programs."""
        done = self.run(action, "--json", *arguments)
        assert done.code == code, done.output
        return json.loads(next(line for line in done.output.splitlines() if line.startswith(('{"', "[{", "[]"))))

    # --- what it left -------------------------------------------------------------------------------------------------

    def releases(self) -> list[dict[str, Any]]:
        """Return the ledger's entries, oldest first."""
        entries = [json.loads(path.read_text()) for path in (self.state / "ledger").glob("*.json")]
        return sorted(entries, key=lambda entry: int(entry["id"].removeprefix("r")))

    def in_force(self) -> dict[str, Any]:
        """Return the ledger's entry of the release in force."""
        return next(release for release in reversed(self.releases()) if release["outcome"] == "in force")

    def proxy(self) -> str:
        """Return where callers outside of the cluster reach the model proxy."""
        port = self.trial.kubectl(
            *("get", "service", "athena-model-proxy", "--namespace", "athena"),
            *("--output", "jsonpath={.spec.ports[0].nodePort}"),
        )
        return f"http://{self.trial.variables['athena_node_address']}:{port}"

    def schema(self) -> str:
        """Return the revision of the database's schema."""
        return self.sql("select version_num from alembic_version")

    def sql(self, statement: str) -> str:
        """Return what the database says."""
        psql = ("sudo", "-u", "postgres", "psql", "--tuples-only", "--no-align", "--dbname", "athena", "--command")
        return self.trial.on("db", *psql, statement)

    def who_answers(self) -> str:
        """Return which kind of engine answers a caller's question."""
        reply = httpx.post(
            f"{self.proxy()}/api/chat",
            json={"model": "tiny", "messages": [{"role": "user", "content": "What is 2+2?"}], "stream": False},
            timeout=60,
        )
        assert reply.status_code == httpx.codes.OK, reply.text
        return reply.headers["x-athena-backend"]

    # --- the copy -----------------------------------------------------------------------------------------------------

    def commit(self, message: str) -> None:
        """Commit what was changed in the copy."""
        for command in (["add", "--all"], ["commit", "--quiet", "--message", message]):
            subprocess.run([*GIT, *command], cwd=self.clone, check=True)

    def add_migrations(self, last: str) -> None:
        """Have the migrations up to this one in the copy, those that are not there yet."""
        versions = self.clone / "service" / "migrations" / "versions"
        following = A_TABLE, A_FINAL_TABLE
        for number, revision in enumerate(following[: following.index(last) + 1]):
            if not list(versions.glob(f"{revision}_*")):
                is_final = revision == A_FINAL_TABLE
                after = following[number - 1] if number else self.schema()
                add_migration(self.clone, revision, after, reversible=not is_final, previous_code_runs=not is_final)
                self.commit("A table more")

    def configure(self, values: dict[str, Any]) -> None:
        """Have other values in the inventory."""
        group = self.trial.name.replace("-", "_")
        (self.trial.inventory / "group_vars" / group / "of_a_test.json").write_text(json.dumps(values))

    # --- callers ------------------------------------------------------------------------------------------------------

    @contextmanager
    def called(self, rate: int = RATE) -> Iterator[None]:
        """Have callers ask meanwhile, of whose prompts none may fail."""
        engine = Engine(self.trial.variables["athena_node_address"])
        callers = Callers(self.proxy(), rate)
        with self.let_out(engine.port), meanwhile(engine.answer):
            (backend,) = json.loads(self.backends("add", MODEL, "--type", "openai", "--url", engine.url, "--json"))
            try:
                wait_until(lambda: all(self.answers(MODEL) for _ in range(10)), 30)
                with meanwhile(callers.call):
                    yield
            finally:
                self.backends("rm", str(backend["id"]))
        callers.assert_that_all_were_answered()

    @contextmanager
    def let_out(self, port: int) -> Iterator[None]:
        """Have the pods of the namespace athena reach a port that no policy of the release lets them reach."""
        ours = {"matchLabels": {"app.kubernetes.io/part-of": "athena"}}
        egress = [{"ports": [{"port": port, "protocol": "TCP"}]}]
        self.trial.apply(
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": "of-a-test", "namespace": "athena"},
                "spec": {"podSelector": ours, "policyTypes": ["Egress"], "egress": egress},
            }
        )
        try:
            yield
        finally:
            self.trial.kubectl("delete", "networkpolicy", "of-a-test", "--namespace", "athena")

    def backends(self, *arguments: str) -> str:
        """Return what the command `athena backends` says in the cluster."""
        where = ("exec", "--namespace", "athena-admin", "deployment/athena-admin-backend", "--")
        return self.trial.kubectl(*where, "athena", "backends", *arguments)

    def answers(self, model: str) -> bool:
        """Return whether the proxy has an answer of a model."""
        asked = {"model": model, "prompt": "Are you there?", "max_tokens": 1}
        return httpx.post(f"{self.proxy()}/v1/completions", json=asked, timeout=60).status_code == httpx.codes.OK


def doing_meanwhile(process: subprocess.Popen[str], at: Interventions) -> Iterator[str]:
    """Return the lines of a process one by one, doing something where it prints certain words for the first time."""
    to_do = dict(at)
    assert process.stdout
    for line in process.stdout:
        for words in [words for words in to_do if words in line]:
            to_do.pop(words)()
        yield line


def secrets_in(text: str, state: Path, python: Path) -> list[str]:
    """Return which of an environment's secrets a text has in it."""
    view = (python.with_name("ansible-vault"), "view", "--vault-password-file")
    vault = subprocess.run(
        [*view, state / "vault-password", state / "vault.yml"], capture_output=True, text=True, check=True
    ).stdout
    values = {name: entry["value"] for name, entry in json.loads(vault).items()}
    assert values
    return [name for name, value in values.items() if re.search(re.escape(value), text)]
