"""What the role mlx decides: which declarations it refuses, which files it takes for a model, who has a port."""

import fcntl
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from loading import load

ROLE = Path(__file__).parents[2] / "roles" / "mlx"
TINY = {"name": "tiny", "port": 8080, "source": {"random": True}}
HUB = {"repository": "someone/model", "revision": "a" * 40}


declared = load("roles/mlx/filter_plugins/mlx_models.py")
load("roles/mlx/module_utils/mlx_files.py")
making = load("roles/mlx/module_utils/mlx_making.py")
files, host = load("roles/mlx/library/mlx_model.py"), load("roles/mlx/library/mlx_look.py")


# --- declarations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "models",
    [
        [TINY],
        [{**TINY, "name": "llama-3.1_8b"}, {"name": "two", "port": 8081, "source": HUB}],
        [{**TINY, "draft": "small", "draft_tokens": 3}, {"name": "small", "source": {"folder": "/srv/small"}}],
        [{**TINY, "quantise": {}}, {**TINY, "name": "b", "port": 65535, "quantise": {"mode": "mxfp4", "bits": 4}}],
        [],
    ],
)
def test_what_can_be_is_taken(models: list[dict[str, Any]]) -> None:
    assert declared.problems(models) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "tiny.log"}, "not with .log"),  # com.athena.mlx.tiny.log empties the log of com.athena.mlx.tiny
        ({"name": "-tiny"}, "begin and end with"),
        ({"name": "org/tiny"}, "name must be"),
        ({"name": 3}, "name must be"),
        ({"port": 8079}, "port is 8079"),
        ({"port": "8080"}, "port is 8080; it must be a whole number"),
        ({"port": True}, "port is True"),
        ({"decode_concurrency": 0}, "decode_concurrency is 0"),
        ({"memory_bytes": "24 GB"}, "memory_bytes is 24 GB"),
        ({"memory_bytes": 10, "prompt_cache_bytes": 10}, "leaves nothing of memory_bytes"),
        ({"sha256": "abc"}, "64 hexadecimal digits"),
        ({"source": None}, "source must be a mapping with one of"),
        ({"source": {"folder": "/a", "random": True}}, "source must be a mapping with one of"),
        ({"source": {"random": False}}, "source.random can only be true"),
        ({"source": {**HUB, "revision": "main"}}, "a branch moves"),
        ({"source": {**HUB, "repository": "model"}}, "OWNER/NAME"),
        ({"source": {**HUB, "branch": "main"}}, "source has no key 'branch'"),
        ({"source": {"folder": "models/tiny"}}, "must be an absolute path"),
        ({"quantise": {"bits": 7}}, "for affine, mlx knows 1, 2, 3, 4, 5, 6, 8"),
        ({"quantise": {"mode": "mxfp4", "group_size": 64}}, "for mxfp4, mlx knows 32"),
        ({"quantise": {"mode": "int8"}}, "mlx knows affine, mxfp4, mxfp8, nvfp4"),
        ({"quantise": {"bit": 4}}, "quantise has no key 'bit'"),
        ({"quantise": 4}, "must be a mapping such as"),
        ({"prompt_concurency": 4}, "there is no key 'prompt_concurency'"),
        ({"draft": "tiny"}, "the name of another of the models"),
        ({"draft_tokens": 2}, "says nothing without draft"),
    ],
)
def test_what_cannot_be_is_refused_with_the_key(change: dict[str, Any], words: str) -> None:
    (problem,) = declared.problems([{**TINY, **change}])
    assert words in problem


def test_models_need_names_and_ports_of_their_own() -> None:
    found = declared.problems([TINY, TINY])
    assert [problem.partition(";")[0] for problem in found] == [
        "mlx_models: 2 models have the name tiny",
        "mlx_models: 2 models have the port 8080",
    ]
    (problem,) = declared.problems([TINY, {"name": "other", "source": HUB}])
    assert "only a model that is the draft of another" in problem


# --- files ------------------------------------------------------------------------------------------------------------


class Module:
    check_mode = False


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The folder of a model, with a hidden file that is none of it."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name, content in {"config.json": "{}", "b.safetensors": "weights", "a b.txt": "text", ".x": "no"}.items():
        (folder / name).write_text(content)
    return folder


def model(source: Path, **more: Any) -> Any:
    params = {
        "folder": str(source.parent / "model"),
        "source": {"folder": str(source)},
        **dict.fromkeys(("version", "sha256", "user", "key"), ""),
        **{name: {} for name in ("quantise", "environment")},
        "memory_bytes": 0,
        "verify": False,
        "keep": 1,
        "peers": [],
        **more,
    }
    return making.Model(params)


def have(source: Path, **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = files.have(Module, model(source, **more))
    return answer


def test_a_model_is_made_once(source: Path) -> None:
    first, second = have(source), have(source)
    assert first["changed"]
    assert second == {**first, "changed": False}
    assert sorted(path.name for path in Path(first["path"]).iterdir()) == ["a b.txt", "b.safetensors", "config.json"]


def test_its_sum_is_the_one_that_the_manual_computes(source: Path) -> None:
    recipe = (
        "find . -type f ! -path '*/.*' | cut -c3- | LC_ALL=C sort | tr '\\n' '\\0' | xargs -0 sha256sum | sha256sum"
    )
    said = subprocess.run(recipe, shell=True, cwd=source, capture_output=True, text=True, check=True).stdout  # noqa: S602
    assert have(source)["sha256"] == said.split()[0]
    assert recipe in (ROLE / "README.md").read_text()


def test_what_a_cut_off_run_left_is_not_taken_for_whole(source: Path) -> None:
    first = have(source)
    Path(f"{first['path']}.json").unlink()  # what is written last
    (Path(first["path"]) / "config.json").unlink()
    second = have(source)
    assert second["changed"]
    assert (Path(second["path"]) / "config.json").exists()
    assert [path.name for path in Path(second["path"]).parent.glob(".*")] == [".lock"]


def test_a_changed_source_is_made_beside_and_served_when_switched(source: Path) -> None:
    one = have(source)
    files.switch(Module, model(source))
    (source / "b.safetensors").write_text("other weights")
    two = have(source)
    assert two["key"] != one["key"] == two["current"]
    switched = files.switch(Module, model(source))
    assert switched["former"] == {"key": one["key"], "version": one["version"]}
    assert (Path(one["path"]).parent / "current").resolve() == Path(two["path"])


def test_former_ones_are_kept_up_to_their_number(source: Path) -> None:
    paths = []
    for content in ("one", "two", "three"):
        (source / "b.safetensors").write_text(content)
        paths.append(Path(have(source)["path"]))
        files.switch(Module, model(source))
    assert files.tidy(Module, model(source))["removed"] == [str(paths[0])]
    assert [path.exists() for path in paths] == [False, True, True]
    assert not files.tidy(Module, model(source))["changed"]


def test_damage_is_found_as_far_as_it_is_looked_for(source: Path) -> None:
    made = have(source)
    file = Path(made["path"]) / "b.safetensors"
    before = file.stat()
    file.write_text("Weights")
    touched = file.stat()
    assert have(source)["damaged"] == ["b.safetensors has another content than when it was made"]
    file.write_text("Weights")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    mended = have(source, verify=True)  # of the time of the one that was made anew, it has not
    assert mended["damaged"] != []
    assert mended["sha256"] == made["sha256"]
    assert mended["version"] != made["version"]
    assert touched.st_size == before.st_size


def test_a_touched_file_is_no_damage(source: Path) -> None:
    made = have(source)
    (Path(made["path"]) / "config.json").touch()
    assert not have(source)["changed"]


@pytest.mark.parametrize(
    ("more", "words"), [({"sha256": "0" * 64}, "sha256 is 0000"), ({"memory_bytes": 3}, "alone have")]
)
def test_what_is_not_as_declared_is_refused_and_not_there(source: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(making.ModelError, match=words):
        have(source, **more)
    assert not model(source).target.exists()


def test_two_runs_do_not_make_it_at_once(source: Path) -> None:
    folder = model(source).folder
    folder.mkdir()
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(making.ModelError, match="another run makes it"):
            have(source)


# --- ports ------------------------------------------------------------------------------------------------------------


def test_owners_of_ports_are_read_as_both_systems_print_them() -> None:
    ss = 'LISTEN 0 5 127.0.0.1:8080 0.0.0.0:* users:(("python",pid=12,fd=3))\nLISTEN 0 5 [::]:22 [::]:* \n'
    assert host.parse_ss(ss) == {8080: 12, 22: 0}
    assert host.parse_lsof("p12\nf3\nn127.0.0.1:8080\np7\nf4\nn*:22\nf5\nn[::1]:631\n") == {8080: 12, 22: 7, 631: 7}


def test_a_server_is_known_by_the_model_of_its_command_line() -> None:
    command = "/x/bin/python /x/current/bin/mlx_lm.server --model /x/models/a.b/current --port 8080"
    assert host.model_of(command, "/x/models") == "a.b"
    assert host.model_of(command, "/y/models") == ""
    assert host.model_of("vi --model /x/models/a.b/current", "/x/models") == ""


def test_only_servers_of_declared_models_and_of_jobs_are_ours() -> None:
    heard = [{"port": 8080, "pid": 12, "command": "python", "model": "old"}]
    assert list(host.foreign_ports([TINY], heard, {"tiny", "old"})) == []
    (problem,) = host.foreign_ports([TINY], heard, {"tiny"})
    assert "the port 8080 of tiny is taken by process 12 (python)" in problem
    assert host.in_the_way([TINY], heard) == ["old"]


@pytest.mark.parametrize("is_check", [True, False])
def test_a_folder_without_a_model_speaks_against_it_in_a_check_as_well(tmp_path: Path, is_check: bool) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "config.json").touch()
    models = [TINY, *({"name": name, "source": {"folder": f"{tmp_path}/{name}"}} for name in ("there", "gone"))]
    params = {"models": models, "memory_bytes": 0, "user": "nobody-here", "programs": {"mlx_uv": "/no/uv"}}
    told = host.against(params, [], set(), is_check=is_check)
    folder = f"mlx_models: gone: source.folder, {tmp_path}/gone, is not a folder with a model (config.json)"
    # Accounts and programs are made by other parts of a deployment, which a check has not done.
    assert told[0] == folder
    assert len(told) == (1 if is_check else 3)


def test_a_job_that_was_removed_halfway_is_still_found(tmp_path: Path) -> None:
    for name in ("com.athena.mlx.tiny", "com.athena.mlx.old.log", "com.athena.ollama"):
        (tmp_path / f"{name}.plist").touch()
    assert host.jobs_of(f"{tmp_path}/com.athena.mlx.*.plist") == ["old", "tiny"]
