"""Modules and plugins of the roles, imported from their files: they are in no package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def load(path: str) -> ModuleType:
    """Return the module of a file of the repository, by its path from the root.

    What several modules of a role share, in its module_utils, has to be loaded before them.
    """
    place = "ansible.module_utils." if Path(path).parent.name == "module_utils" else ""
    spec = importlib.util.spec_from_file_location(place + Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look themselves up
    spec.loader.exec_module(module)
    return module
