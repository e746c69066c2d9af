"""Build and install the engines' programs: minutes on a new machine, which are no test's own time."""

import sys

import pytest

from tests.engines.fixtures import mlx_environment, ollama_binary

if __name__ == "__main__":
    try:
        sys.stdout.write(f"{ollama_binary()}\n{mlx_environment()}\n")
    except pytest.fail.Exception as failure:
        sys.exit(str(failure))
