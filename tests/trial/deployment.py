"""What is deployed to a trial: deploy.sh as a person runs it, and programs that send prompts meanwhile."""

import json
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from scratch import Finished
from trials import Trial

GIT = ("git", "-c", "user.name=A test", "-c", "user.email=test@example.internal")


class Deployment:
    """A trial and what deploy.sh makes of it."""

    def __init__(self, started: Trial) -> None:
        self.trial = started
        self.clone = started.root
        self.state = Path(started.variables["athena_state_dir"])
        subprocess.run(["git", "init", "--quiet"], cwd=self.clone, check=True)
        self.commit("As it is")

    def commit(self, message: str) -> None:
        """Commit what was changed in the copy."""
        for command in (["add", "--all"], ["commit", "--quiet", "--message", message]):
            subprocess.run([*GIT, *command], cwd=self.clone, check=True)

    def run(self, action: str, *arguments: str) -> Finished:
        """Run deploy.sh to its end."""
        began = time.monotonic()
        command: list[str | Path] = [self.clone / "deploy.sh", self.trial.name, action, *arguments]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        return Finished(done.returncode, done.stdout.decode(errors="replace"), time.monotonic() - began)

    def told(self, action: str, *arguments: str, code: int = 0) -> Any:
        """Return what an action says to programs."""
        done = self.run(action, "--json", *arguments)
        assert done.code == code, done.output
        return json.loads(next(line for line in done.output.splitlines() if line.startswith(('{"', "[{", "[]"))))

    def releases(self) -> list[dict[str, Any]]:
        """Return the ledger's entries, oldest first."""
        entries = [json.loads(path.read_text()) for path in (self.state / "ledger").glob("*.json")]
        return sorted(entries, key=lambda entry: int(entry["id"].removeprefix("r")))

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


class Callers:
    """Programs that ask without a pause, a third of the prompts as streams, each on a connection of its own."""

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self._ended = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._call, args=(number,), daemon=True) for number in range(count)]

    def _call(self, number: int) -> None:
        asked = number
        while not self._ended.is_set():
            asked += 1
            try:
                self.outcomes[self._ask(stream=asked % 3 == 0)] += 1
            except httpx.HTTPError as error:
                self.outcomes[repr(error)] += 1

    def _ask(self, *, stream: bool) -> str:
        body = {"model": "tiny", "prompt": "What is 2+2?", "max_tokens": 4, "stream": stream}
        reply = httpx.post(f"{self._url}/v1/completions", json=body, timeout=60)
        if reply.status_code != httpx.codes.OK:
            return f"{reply.status_code} {reply.text[:200]}"
        if stream and not reply.text.rstrip().endswith("data: [DONE]"):
            return f"a stream without its end: {reply.text[-100:]!r}"
        return "answered"

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Ask for as long as the block runs."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in self._threads:
                thread.join()


def secrets_in(text: str, state: Path, python: Path) -> list[str]:
    """Return which of an environment's secrets a text has in it."""
    view = (python.with_name("ansible-vault"), "view", "--vault-password-file")
    vault = subprocess.run(
        [*view, state / "vault-password", state / "vault.yml"], capture_output=True, text=True, check=True
    ).stdout
    values = {name: entry["value"] for name, entry in json.loads(vault).items()}
    assert values
    return [name for name, value in values.items() if re.search(re.escape(value), text)]
