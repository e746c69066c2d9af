"""Build and install the engines' programs, and the clients that have an environment of their own.

Minutes on a new machine, which are no test's own time.
"""

import sys

import pytest

from tests.engines.fixtures import integrations_environment, mlx_environment, ollama_binary

if __name__ == "__main__":
    try:
        sys.stdout.write(f"{ollama_binary()}\n{mlx_environment()}\n{integrations_environment()}\n")
    except pytest.fail.Exception as failure:
        sys.exit(str(failure))
