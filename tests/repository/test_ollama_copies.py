"""How the role ollama copies a model from another host: by the real programs, over real connections."""

import fcntl
import hashlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from loading import ROOT, load
from serving import Answering, serving

PROGRAMS = [ROOT / "roles/mlx/files" / name for name in ("copy_model.py", "share_models.py")]
PROGRAMS += [ROOT / "roles/ollama/files" / name for name in ("copy_ollama.py", "share_ollama.py")]
NAME = "registry.example.internal:5000/team/phi3:mini"
BLOBS = [hashlib.shake_256(b"weights").digest(3 << 20), b"a template", b"{}"]

load("roles/ollama/module_utils/ollama_pulls.py")
copies = load("roles/ollama/module_utils/ollama_copies.py")
load("roles/ollama/module_utils/ollama_keeping.py")
model = load("roles/ollama/library/ollama_model.py")


def sum_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "config": {"digest": f"sha256:{sum_of(BLOBS[2])}", "size": len(BLOBS[2])},
        "layers": [{"digest": f"sha256:{sum_of(blob)}", "size": len(blob)} for blob in BLOBS[:2]],
    }
).encode()
DIGEST = sum_of(MANIFEST)
LARGE = f"sha256-{sum_of(BLOBS[0])}"


def stored(folder: Path) -> dict[str, bytes]:
    """Return what is in a folder of Ollama's."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def listed(folder: Path) -> dict[str, str]:
    """Return what an Ollama lists that keeps its models in a folder."""
    manifest = folder / "manifests" / NAME.replace(":mini", "/mini")
    return {NAME: sum_of(manifest.read_bytes())} if manifest.exists() else {}


WHOLE = {
    f"manifests/{NAME.replace(':mini', '/mini')}": MANIFEST,
    **{f"blobs/sha256-{sum_of(blob)}": blob for blob in BLOBS},
}


class Host:
    """Another host that has the model, and the program there that shares it."""

    def __init__(self, place: Path) -> None:
        self.tools, self.folder, self.said = place / "tools", place / "elsewhere", ""
        self.tools.mkdir()
        for program in PROGRAMS:
            shutil.copy(program, self.tools)
        for name, content in {**WHOLE, "blobs/sha256-" + "0" * 64: b"of no model", "id": b"a secret"}.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(content)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def begin(self) -> None:
        program = [sys.executable, str(self.tools / "share_ollama.py"), str(self.folder), "127.0.0.1", str(self.port)]
        self.process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 30
        while True:
            try:
                assert list(httpx.get(self.url).json()) == [DIGEST]
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                break

    def end(self) -> None:
        self.process.terminate()
        self.said += self.process.communicate()[1]

    def told(self, digest: str = DIGEST, url: str = "") -> dict[str, Any]:
        return {"url": url or self.url, "models": {NAME: digest}}

    def copied(
        self,
        folder: Path,
        *peers: dict[str, Any],
        digest: str = "",
        seconds: int = 60,
        so_far: dict[str, Any] | None = None,
    ) -> tuple[str, list[str]]:
        """Have the module copy the model into a folder; return where from, and why not from others."""
        folder.mkdir(exist_ok=True)
        given: dict[str, Any] = {
            "name": NAME,
            "digest": digest,
            "peers": list(peers),
            "folder": str(folder),
            "user": "",
        }
        given |= {"copier": str(self.tools / "copy_ollama.py"), "seconds": seconds, "so_far": so_far or {}}
        answer: tuple[str, list[str]] = copies.copied(lambda: listed(folder), given, lambda _: None)
        return answer


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    other = Host(tmp_path)
    other.begin()
    yield other
    other.end()


def test_a_model_that_another_host_has_is_copied_whole_and_nothing_else_is_left(host: Host, tmp_path: Path) -> None:
    assert host.copied(tmp_path / "models", host.told()) == (host.url, [])
    assert stored(tmp_path / "models") == WHOLE


def test_a_copy_that_was_cut_off_goes_on_where_it_was(host: Host, tmp_path: Path) -> None:
    begun = tmp_path / "models" / ".copied"
    begun.mkdir(parents=True)
    (begun / f"{LARGE}.part").write_bytes(BLOBS[0][:2000000])
    (tmp_path / "models" / "blobs").mkdir()
    (tmp_path / "models" / "blobs" / f"sha256-{sum_of(BLOBS[1])}").write_bytes(BLOBS[1])
    assert host.copied(tmp_path / "models", host.told()) == (host.url, [])
    assert stored(tmp_path / "models") == WHOLE
    host.end()
    asked = [line.split('"') for line in host.said.splitlines() if '"GET /' in line and '"GET / ' not in line]
    answers = {(line[1].split()[1], line[2].split()[0]) for line in asked}
    rest = {(f"/blobs/{LARGE}", "206"), (f"/blobs/sha256-{sum_of(BLOBS[2])}", "200")}
    assert answers == {(f"/manifests/{DIGEST}", "200"), *rest}
    host.begin()


def test_a_copy_that_takes_long_tells_how_far_it_is_and_goes_on_from_there(host: Host, tmp_path: Path) -> None:
    models, silent = tmp_path / "models", host.told(url="http://127.0.0.1:9")
    shares, so_far, refusals = list[int](), dict[str, Any](), list[str]()
    while True:
        try:  # a call brings one block at least, however little time it has
            source, refusals = host.copied(models, silent, host.told(), seconds=0, so_far=so_far)
            break
        except copies.CopyPausedError as pause:
            shares.append(int(pause.told["progress"].removeprefix(f"{NAME}: ").partition(" % of 3.0 MiB, ")[0]))
            so_far = json.loads(json.dumps(pause.told["so_far"]))
    assert shares == sorted(shares)
    assert shares[:4] == [0, 33, 66, 99]
    assert (source, len(refusals)) == (host.url, 1)
    assert so_far["seconds"] > 0
    assert stored(models) == WHOLE


def test_what_another_host_does_not_have_as_it_said_is_not_taken(host: Host, tmp_path: Path) -> None:
    (host.folder / "blobs" / LARGE).write_bytes(b"x" * len(BLOBS[0]))
    silent, other = host.told(url="http://127.0.0.1:9"), host.told(digest="0" * 64)
    source, refusals = host.copied(tmp_path / "models", silent, other, host.told(), {"url": host.url, "models": {}})
    assert source == ""
    assert "Copying from http://127.0.0.1:9 failed: ConnectionRefusedError" in refusals[0]
    assert "answers with 404" in refusals[1]
    assert refusals[2].endswith(f"/blobs/{LARGE} did not come as it is there, and was thrown away")
    assert len(refusals) == 3
    assert not list((tmp_path / "models").glob("manifests/**/mini"))
    assert not list((tmp_path / "models").glob(f"**/{LARGE}*"))


def test_a_model_with_another_digest_than_the_declared_one_is_not_copied(host: Host, tmp_path: Path) -> None:
    assert host.copied(tmp_path / "models", host.told(), digest="0123456789ab") == (
        "",
        [f"{host.url} has {DIGEST[:12]}, and ollama_models declares 0123456789ab"],
    )
    assert host.copied(tmp_path / "models", host.told(), digest=DIGEST[:12]) == (host.url, [])


def test_two_runs_do_not_copy_into_one_folder(host: Host, tmp_path: Path) -> None:
    (tmp_path / "models" / ".copied").mkdir(parents=True)
    with (tmp_path / "models" / ".copied" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _, (refusal,) = host.copied(tmp_path / "models", host.told())
    assert "another run copies" in refusal


def test_a_host_whose_ollama_lost_a_blob_gives_none_of_the_model(host: Host) -> None:
    (host.folder / "blobs" / LARGE).unlink()
    assert httpx.get(host.url).json() == {}
    assert httpx.get(f"{host.url}/manifests/{DIGEST}").status_code == httpx.codes.NOT_FOUND


class Pulling(Answering, BaseHTTPRequestHandler):
    """An Ollama that pulls whatever it is told to."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, b'{"status": "success"}\n')


def brought(models: Path) -> tuple[dict[str, Any], list[str]]:
    """Have the module bring a model that the other host has another of; return what it tells, and its log."""
    log: list[str] = []
    with serving(Pulling) as address:
        given = {"name": NAME, "digest": "0123456789ab", "folder": str(models), "insecure": False, "stall_seconds": 60}
        given |= {"attempts": 1, "seconds": 30, "so_far": {}}
        given |= {"peers": [{"url": "http://mac-1.example.internal:8096", "models": {NAME: DIGEST}}]}
        told: dict[str, Any] = model.bring(model.Ollama(f"http://{address}"), given, log.append)
    return told, log


def test_what_came_of_copies_goes_once_the_model_was_pulled(tmp_path: Path) -> None:
    (tmp_path / ".copied").mkdir()
    (tmp_path / ".copied" / f"{LARGE}.part").write_bytes(b"a part")
    told, log = brought(tmp_path)
    refusal = f"http://mac-1.example.internal:8096 has {DIGEST[:12]}, and ollama_models declares 0123456789ab"
    assert (told["copied_from"], told["not_copied"]) == ("", [refusal])
    assert log == [f"{NAME}: {refusal}"]
    assert not (tmp_path / ".copied").exists()


def test_a_model_was_pulled_although_what_came_of_copies_cannot_be_removed_which_is_told(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".copied").symlink_to(tmp_path / "elsewhere")  # which nobody's rights let it remove as a folder
    told, log = brought(tmp_path)
    assert told["copied_from"] == ""
    assert len(log) == 2
    assert log[1].startswith(f"{tmp_path / '.copied'} is of no use any more, and could not be removed: ")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("phi3", "manifests/registry.ollama.ai/library/phi3/latest"),
        ("team/phi3:mini", "manifests/registry.ollama.ai/team/phi3/mini"),
        ("127.0.0.1:5000/team/phi3", "manifests/127.0.0.1:5000/team/phi3/latest"),
        ("hf.co/Someone/Model-GGUF:Q4_K_M", "manifests/hf.co/Someone/Model-GGUF/Q4_K_M"),
    ],
)
def test_the_manifest_is_where_ollama_looks_for_it(name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "roles/mlx/files")
    assert load("roles/ollama/files/copy_ollama.py").manifest_path(name) == Path(path)


@pytest.mark.parametrize("name", ["../../etc", "a/b/c/d", "a/../b", "/etc/passwd", "a b", ""])
def test_no_name_leads_out_of_the_folder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "roles/mlx/files")
    program = load("roles/ollama/files/copy_ollama.py")
    with pytest.raises(program.NotTakenError, match="is not known"):
        program.manifest_path(name)


@pytest.mark.parametrize(
    "path",
    [
        *("/id", "/blobs", "/blobs/", "/manifests/", f"/blobs/sha256-{'0' * 64}", "/blobs/../id", "/manifests/../id"),
        *("/blobs/%2e%2e/id", "//etc/passwd", f"/manifests/{LARGE}"),
    ],
)
def test_what_is_of_no_model_is_not_given(host: Host, path: str) -> None:
    with socket.create_connection(("127.0.0.1", host.port), timeout=30) as raw:
        raw.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        assert raw.recv(100).split()[1] == b"404"
