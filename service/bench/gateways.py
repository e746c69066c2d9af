"""The gateways that are measured: how each is had, configured and started."""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import UnavailableError
from bench.traffic import MODEL, Engine

HERE = Path(__file__).parent
PYTHON = Path(sys.executable)
KEY = "bench-key-3f1c9a5e7d2b4860"


@dataclass(frozen=True)
class Start:
    """How a configured gateway is started, and what its callers send besides the prompt."""

    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    headers: Sequence[str] = ()
    path: str = "/v1/chat/completions"
    within: float = 20.0


class Gateway:
    """One of those that are measured.

    `translates`: the engines' dialects that it gives an OpenAI caller; `routes`: it takes several engines at once.
    """

    name: str
    translates: tuple[str, ...] = ()
    routes = True

    def obtain(self) -> str:
        """Install it if it is not there and return its version. Raises UnavailableError with the reason."""
        raise NotImplementedError

    def start(self, engines: Sequence[Engine], port: int, folder: Path) -> Start:
        """Write its configuration into a folder and return how it is started."""
        raise NotImplementedError


class Athena(Gateway):
    """The model proxy with everything on: API keys, breakers, queues, metrics, figures, a log line for each request."""

    name = "athena"
    translates = ("ollama", "mlx")

    def obtain(self) -> str:
        """Return what stands in the work tree."""
        return "this tree"

    def start(self, engines: Sequence[Engine], port: int, folder: Path) -> Start:
        """Give it the route as the configuration that it knew last; there is no Admin API."""
        route = [
            {
                "id": number,
                "model_name": MODEL,
                "backend_type": engine.dialect,
                "endpoint_url": engine.url,
                "max_concurrency": 1024,
                "first_token_seconds": 5,
            }
            for number, engine in enumerate(engines, 1)
        ]
        state = folder / "state.json"
        state.write_text(json.dumps({"version": 1, "complete": True, "routes": {MODEL: route}}), encoding="utf-8")
        keys = folder / "keys"
        keys.write_text(f"bench {hashlib.sha256(KEY.encode()).hexdigest()}\n", encoding="utf-8")
        keys.chmod(0o600)
        return Start(
            [str(PYTHON.with_name("athena")), "serve", "proxy", "--port", str(port)],
            {
                "ROUTER_STATE_FILE": str(state),
                "PROXY_API_KEYS_FILE": str(keys),
                "ADMIN_API_URL": "http://127.0.0.1:1",
                "LOG_LEVEL": "info",
            },
            [f"authorization: Bearer {KEY}"],
        )


class Naive(Gateway):
    """The obvious forwarder: FastAPI in front, httpx behind."""

    name = "FastAPI + httpx"
    routes = False

    def obtain(self) -> str:
        """Both are in the test environment."""
        from importlib.metadata import version  # noqa: PLC0415 - only here

        return f"{version('fastapi')}, {version('httpx')}"

    def start(self, engines: Sequence[Engine], port: int, folder: Path) -> Start:
        """One process of uvicorn."""
        app = ["naive:app", "--app-dir", str(HERE), "--no-access-log", "--port", str(port)]
        return Start([str(PYTHON), "-m", "uvicorn", *app], {"UPSTREAM": engines[0].url})


class Nginx(Gateway):
    """One worker that forwards, with connections kept to the engine; no log, no logic."""

    name = "nginx"

    def obtain(self) -> str:
        """Find Debian's."""
        import re  # noqa: PLC0415
        import subprocess  # noqa: PLC0415

        program = _nginx()
        found = re.search(
            r"nginx/(\S+)", subprocess.run([program, "-v"], check=True, capture_output=True, text=True).stderr
        )
        return found[1] if found else "?"

    def start(self, engines: Sequence[Engine], port: int, folder: Path) -> Start:
        """Write nginx.conf."""
        servers = "".join(f"server 127.0.0.1:{engine.port};" for engine in engines)
        configuration = folder / "nginx.conf"
        configuration.write_text(
            f"""daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_buffer_size 64k;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream engines {{ {servers} keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_read_timeout 5s; proxy_next_upstream error timeout non_idempotent;
    }}
  }}
}}
""",
            encoding="utf-8",
        )
        return Start([_nginx(), "-p", str(folder), "-c", str(configuration)])


def _nginx() -> str:
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        raise UnavailableError("nginx is missing (Debian package nginx-light)")
    return program


ALL: tuple[Gateway, ...] = (Athena(), Nginx(), Naive())
