"""The model proxy of this repository."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.gateways.base import TIME_OUT_SECONDS, Gateway, Start
from bench.machine import CACHE
from bench.peers import REPOSITORY, output
from bench.traffic import MODEL, Engine

SYSTEM_PYTHON = Path("/usr/bin/python3")  # built with optimisations by its distribution, unlike many built by hand
FOLDER = CACHE / "athena"
_TOOLS = CACHE / "athena-compile"
_COMPILED = CACHE / "athena-compiled"
_VERSION = "import platform; print(platform.python_version())"
_KEY = "bench-key-3f1c9a5e7d2b4860"


class Athena(Gateway):
    """With everything on: API keys, breakers, queues, metrics, figures, a log line for each request."""

    name = "athena"
    translates = ("ollama", "mlx")

    def obtain(self) -> str:
        """Install what stands in the work tree as a host has it: on the system's Python, from the service's lock."""
        output(
            REPOSITORY / "bootstrap/venv",
            FOLDER,
            REPOSITORY / "service/requirements.txt",
            REPOSITORY / "service",
            env={"PYTHON": str(SYSTEM_PYTHON)} if SYSTEM_PYTHON.exists() else {},
        )
        return f"this tree on Python {output(FOLDER / 'bin/python', '-c', _VERSION).strip()}"

    def start(self, engines: Sequence[Engine], port: int, folder: Path) -> Start:
        """Give it the route as the configuration that it knew last; there is no Admin API."""
        route = [
            {
                "id": number,
                "model_name": MODEL,
                "backend_type": engine.dialect,
                "endpoint_url": engine.url,
                "max_concurrency": 1024,
                "first_token_seconds": TIME_OUT_SECONDS,
            }
            for number, engine in enumerate(engines, 1)
        ]
        state = folder / "state.json"
        state.write_text(json.dumps({"version": 1, "complete": True, "routes": {MODEL: route}}), encoding="utf-8")
        keys = folder / "keys"
        keys.write_text(f"bench {hashlib.sha256(_KEY.encode()).hexdigest()}\n", encoding="utf-8")
        keys.chmod(0o600)
        return Start(
            [str(FOLDER / "bin/athena"), "serve", "proxy", "--port", str(port)],
            {
                "ROUTER_STATE_FILE": str(state),
                "PROXY_API_KEYS_FILE": str(keys),
                "ADMIN_API_URL": "http://127.0.0.1:1",
                "ADMIN_API_TOKEN": "bench-token",  # or no figures would be collected
                "LOG_LEVEL": "info",
            },
            [f"authorization: Bearer {_KEY}"],
        )


class CompiledAthena(Athena):
    """The same with the modules compiled that every request goes through, as an image has them that is built so."""

    name = "compiled athena"

    def obtain(self) -> str:
        """Compile a copy of the package, which then comes before the one that is installed."""
        obtained = super().obtain()
        system = {"PYTHON": str(SYSTEM_PYTHON)} if SYSTEM_PYTHON.exists() else {}
        output(REPOSITORY / "bootstrap/venv", _TOOLS, REPOSITORY / "service/requirements-compile.txt", env=system)
        if _COMPILED.exists():
            shutil.rmtree(_COMPILED)
        shutil.copytree(REPOSITORY / "service/src", _COMPILED)
        output(_TOOLS / "bin/python", REPOSITORY / "service/compile.py", _COMPILED)
        return f"{obtained}, compiled"

    def start(self, engines: Sequence[Engine], port: int, folder: Path) -> Start:
        """Start it on the compiled copy."""
        start = super().start(engines, port, folder)
        return replace(start, env={**start.env, "PYTHONPATH": str(_COMPILED)})
