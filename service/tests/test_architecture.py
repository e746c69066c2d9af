"""The rules of the package's structure that hold the parts apart."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import athena


def modules_loaded_by(module: str) -> set[str]:
    """Return what a fresh interpreter has loaded after importing `module`."""
    script = f"import sys, {module}; print('\\n'.join(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(ran.stdout.split())


@pytest.mark.parametrize("module", ["athena.router.services", "athena.proxy.app", "shared.llm_router"])
def test_routing_prompts_needs_neither_the_admin_api_nor_a_database_library(module: str) -> None:
    loaded = modules_loaded_by(module)
    assert not {"sqlalchemy", "psycopg", "alembic", "athena.db", "athena.admin"} & loaded


@pytest.mark.parametrize("module", ["athena.proxy.app", "shared.llm_router"])
def test_the_path_of_a_prompt_is_free_of_web_frameworks(module: str) -> None:
    assert not {"fastapi", "starlette", "httpx"} & modules_loaded_by(module)


def test_the_database_layer_knows_nothing_of_those_who_use_it() -> None:
    loaded = modules_loaded_by("athena.db.session")
    assert not {name for name in loaded if name.startswith(("athena.admin", "athena.router", "athena.proxy"))}


def test_the_agent_of_a_host_needs_neither_the_admin_api_nor_a_database_library() -> None:
    loaded = modules_loaded_by("athena.agent.app")
    assert not {"sqlalchemy", "psycopg", "alembic", "athena.db", "athena.admin", "athena.proxy"} & loaded


def test_what_decides_in_the_agent_knows_no_network_and_no_processes() -> None:
    loaded = modules_loaded_by("athena.agent.judging, athena.agent.restarting")
    assert not {"athena.router.upstream", "athena.agent.commands", "athena.agent.probe", "httpx"} & loaded


_ROUTERS_WORDS = ("athena.router.errors", "athena.router.types")
_PURE = {"collections", "enum", "hashlib", "http", "math", "msgspec", "re", "typing"}


def test_what_judges_in_the_router_knows_no_network_no_clock_and_no_chance() -> None:
    for file in Path(athena.__file__).parent.joinpath("router/judging").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                pure = name.partition(".")[0] in _PURE or name in {"athena.errors", *_ROUTERS_WORDS}
                assert pure or name.startswith("athena.router.judging"), f"{file.name} imports {name}"
