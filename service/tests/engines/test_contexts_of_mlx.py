"""How many contexts a server of MLX holds at once, which the memory of a Mac has to have room for."""

import subprocess
from pathlib import Path

import pytest
from loading import load

from tests.engines.fixtures import MLX_FILES, mlx_environment

AT_ONCE = Path(__file__).with_name("mlx_at_once.py")
memory = load("roles/mac_host/module_utils/mac_memory.py")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    subprocess.run([mlx_environment() / "bin" / "python", MLX_FILES / "tiny_mlx_model.py", folder], check=True)
    return folder


@pytest.mark.engine
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("completions", "prompts"), [(1, 1), (2, 8), (8, 4)])
def test_as_many_contexts_are_counted_as_a_full_batch_holds(model: Path, completions: int, prompts: int) -> None:
    python = mlx_environment() / "bin" / "python"
    command = [str(python), str(AT_ONCE), str(model), str(completions), str(prompts)]
    most = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    counted = memory.at_once({"decode_concurrency": completions, "prompt_concurrency": prompts})
    assert int(most) == sum(counted)
