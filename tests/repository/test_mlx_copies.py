"""How the role mlx copies a model from another host: by the real programs, over real connections."""

import hashlib
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from loading import load

ROLE = Path(__file__).parents[2] / "roles" / "mlx"
# Nobody answers as a hub here: what is there was copied.
HUB = {"repository": "someone/model", "revision": "a" * 40}
FILES = {"config.json": b"{}", "b.safetensors": hashlib.shake_256(b"weights").digest(3 << 20), "a b.txt": b"text"}

load("roles/mlx/module_utils/mlx_files.py")
making = load("roles/mlx/module_utils/mlx_making.py")
module, copying = load("roles/mlx/library/mlx_model.py"), load("roles/mlx/files/copy_model.py")


class Run:
    """A run of the module that is none of a check."""

    check_mode = False


def model(folder: Path, *peers: dict[str, Any]) -> Any:
    """Return the model as declared, with the hosts that may have it."""
    params = {
        "folder": str(folder),
        "source": HUB,
        "peers": list(peers),
        "python": sys.executable,
        "tools": str(ROLE / "files"),
        "environment": {"HF_ENDPOINT": "http://127.0.0.1:9"},
        "quantise": {},
        "memory_bytes": 0,
        "verify": False,
        "keep": 1,
        **dict.fromkeys(("version", "sha256", "user", "key"), ""),
    }
    return making.Model(params)


def have(folder: Path, *peers: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = module.have(Run, model(folder, *peers))
    return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Host:
    """Another host that has the model, and the program there that shares it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.said = folder, free_port(), ""
        made = model(folder / "model")
        fetched = made.fetched / "model"
        fetched.mkdir(parents=True)
        for name, content in FILES.items():
            (fetched / name).write_bytes(content)
        whole = module.have(Run, made)
        self.told = {"url": f"http://127.0.0.1:{self.port}", "key": whole["key"], "sha256": whole["sha256"]}

    def begin(self) -> None:
        program = [
            sys.executable,
            str(ROLE / "files" / "share_models.py"),
            str(self.folder),
            "127.0.0.1",
            str(self.port),
        ]
        self.process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 10
        while True:
            try:
                assert httpx.get(self.told["url"]).json() == {"model": [self.told["key"]]}
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                break

    def end(self) -> None:
        self.process.terminate()
        self.said += self.process.communicate()[1]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    other = Host(tmp_path / "elsewhere")
    other.begin()
    yield other
    other.end()


def test_a_model_that_another_host_has_is_copied_and_whole(host: Host, tmp_path: Path) -> None:
    copied = have(tmp_path / "model", host.told)
    assert (copied["changed"], copied["copied_from"], copied["not_copied"]) == (True, host.told["url"], [])
    assert copied["sha256"] == host.told["sha256"]
    assert {path.name: path.read_bytes() for path in Path(copied["path"]).iterdir()} == FILES
    assert not list((tmp_path / "model").glob(".*.part"))
    assert have(tmp_path / "model", host.told) == {**copied, "changed": False, "copied_from": ""}


def test_a_model_is_copied_without_the_proxy_that_downloads_need(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert have(tmp_path / "model", host.told)["copied_from"] == host.told["url"]


def test_a_copy_that_was_cut_off_goes_on_where_it_was(host: Host, tmp_path: Path) -> None:
    begun = model(tmp_path / "model").copying()
    begun.mkdir(parents=True)
    (begun / "b.safetensors.part").write_bytes(FILES["b.safetensors"][:2000000])
    (begun / "a b.txt").write_bytes(FILES["a b.txt"])
    assert have(tmp_path / "model", host.told)["sha256"] == host.told["sha256"]
    host.end()
    asked = [line.split('"') for line in host.said.splitlines() if "GET /model/" in line]
    answers = [(line[1].split()[1].rpartition("/")[2], line[2].split()[0]) for line in asked]
    assert answers == [(f"{host.told['key']}.json", "200"), ("b.safetensors", "206"), ("config.json", "200")]
    host.begin()


def test_a_host_that_goes_away_meanwhile_and_comes_back_holds_nothing_up(host: Host, tmp_path: Path) -> None:
    host.end()
    back = threading.Timer(1.5, host.begin)
    back.start()
    copying.copy(
        f"{host.told['url']}/model/{host.told['key']}/b.safetensors", tmp_path / "b", len(FILES["b.safetensors"])
    )
    back.join()
    assert (tmp_path / "b").read_bytes() == FILES["b.safetensors"]


def test_what_another_host_does_not_have_as_it_said_is_not_taken(host: Host, tmp_path: Path) -> None:
    (host.folder / "model" / host.told["key"] / "b.safetensors").write_bytes(b"x" * len(FILES["b.safetensors"]))
    away = {**host.told, "url": f"http://127.0.0.1:{free_port()}"}
    tried = model(
        tmp_path / "model", {**host.told, "sha256": "0" * 64}, away, {**host.told, "key": "another"}, host.told
    )
    tried.staging.mkdir(parents=True)
    with (tried.folder / ".lock").open("w") as lock:
        assert tried.from_peers(lock) is None
    other, silent, damaged = tried.refusals
    assert other.endswith(".json is another model than that host has")
    assert f"{away['url']}/model/" in silent
    assert "does not tell what there is" in silent
    assert damaged.endswith("did not come as it is there, and was thrown away")
    shutil.rmtree(tried.staging)
    # The source is next, and where that fails too, both are told, each with its own words.
    with pytest.raises(making.ModelError, match="Fetching someone/model failed") as failed:
        have(tmp_path / "model", host.told)
    _, copying_it = str(failed.value).split(" Nor could it be copied from another host: ")
    assert copying_it.endswith("did not come as it is there, and was thrown away")


def test_after_a_copy_that_was_thrown_away_the_model_comes_from_its_source(host: Host, tmp_path: Path) -> None:
    (host.folder / "model" / host.told["key"] / "b.safetensors").write_bytes(b"x" * len(FILES["b.safetensors"]))
    fetched = model(tmp_path / "model").fetched / "model"
    fetched.mkdir(parents=True)
    for name, content in FILES.items():
        (fetched / name).write_bytes(content)
    made = have(tmp_path / "model", host.told)
    assert (made["copied_from"], len(made["not_copied"])) == ("", 1)
    assert {path.name: path.read_bytes() for path in Path(made["path"]).iterdir()} == FILES


@pytest.mark.parametrize("path", ["/", "/model/KEY.json", "/model/KEY/config.json", "/model/KEY/a%20b.txt"])
def test_what_is_of_a_model_is_given(host: Host, path: str) -> None:
    assert httpx.get(host.told["url"] + path.replace("KEY", host.told["key"])).status_code == httpx.codes.OK


@pytest.mark.parametrize(
    "path",
    [
        *("/model", "/model/", "/model/KEY", "/model/KEY/", "/model/KEY/.x", "/model/.lock", "/model/another.json"),
        *("/model/KEY/../KEY.json", "/model/KEY/%2e%2e/KEY.json", "/../elsewhere/model/.lock", "/%2e%2e/model/.lock"),
        *("/model/KEY/%2fetc/passwd", "//etc/passwd"),
    ],
)
def test_nothing_else_is_given(host: Host, path: str) -> None:
    with socket.create_connection(("127.0.0.1", host.port), timeout=5) as raw:
        raw.sendall(f"GET {path.replace('KEY', host.told['key'])} HTTP/1.0\r\n\r\n".encode())
        assert raw.recv(100).split()[1] == b"404"
