"""What only forwards and knows nothing of models: nginx and HAProxy, the measure of all, and the obvious Python."""

import re
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from bench.gateways.base import TIME_OUT_SECONDS, Gateway, Start
from bench.machine import CACHE, UnavailableError
from bench.peers import output
from bench.traffic import Engine


class Nginx(Gateway):
    """Debian's. One worker, connections kept to the engine, no log."""

    name = "nginx"

    def obtain(self) -> str:
        """Find it."""
        return _version(r"nginx/(\S+)", output(_nginx(), "-v"))

    def start(self, engines: Sequence[Engine], port: int, folder: Path) -> Start:
        """Write nginx.conf."""
        servers = " ".join(f"server 127.0.0.1:{engine.port};" for engine in engines)
        temporary = " ".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration = folder / "nginx.conf"
        configuration.write_text(
            f"""daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/log;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_buffer_size 64k; {temporary}
  upstream engines {{ {servers} keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_read_timeout {TIME_OUT_SECONDS}s; proxy_next_upstream error timeout non_idempotent;
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


class Haproxy(Gateway):
    """Debian's, one thread. Where it is not installed its packages are unpacked into the cache."""

    name = "HAProxy"
    _packages = ("haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1")
    _unpacked = CACHE / "haproxy"

    def obtain(self) -> str:
        """Find it, or fetch it."""
        if not shutil.which("haproxy") and not (self._unpacked / "complete").exists():
            if not shutil.which("apt-get"):
                raise UnavailableError("HAProxy is missing")
            shutil.rmtree(self._unpacked, ignore_errors=True)
            self._unpacked.mkdir(parents=True)
            output("apt-get", "download", "-q", *self._packages, cwd=self._unpacked)
            for package in self._unpacked.glob("*.deb"):
                output("dpkg", "-x", package, self._unpacked)
            (self._unpacked / "complete").touch()
        return _version(r"version (\S+)", output(*self._program(), "-v"))

    def start(self, engines: Sequence[Engine], port: int, folder: Path) -> Start:
        """Write haproxy.cfg."""
        servers = "\n".join(f"  server s{engine.port} 127.0.0.1:{engine.port} maxconn 4096" for engine in engines)
        configuration = folder / "haproxy.cfg"
        configuration.write_text(
            f"""global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect {TIME_OUT_SECONDS}s
  timeout client 60s
  timeout server {TIME_OUT_SECONDS}s
  http-reuse always
  option http-no-delay
  option redispatch 1
  retries 3
  retry-on conn-failure empty-response response-timeout
listen gateway
  bind 127.0.0.1:{port} backlog 4096
  balance roundrobin
{servers}
""",
            encoding="utf-8",
        )
        return Start([*self._program(), "-db", "-f", str(configuration)])

    def _program(self) -> list[str]:
        installed = shutil.which("haproxy")
        if installed:
            return [installed]
        libraries = ":".join(str(folder) for folder in (self._unpacked / "usr/lib").glob("*-linux-gnu"))
        return ["env", f"LD_LIBRARY_PATH={libraries}", str(self._unpacked / "usr/sbin/haproxy")]


def _version(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else "unknown"


class Naive(Gateway):
    """FastAPI in front, httpx behind: see `naive.py`."""

    name = "FastAPI + httpx"
    routes = False

    def obtain(self) -> str:
        """Both are in the test environment."""
        return f"{version('fastapi')} + {version('httpx')}"

    def start(self, engines: Sequence[Engine], port: int, folder: Path) -> Start:
        """One process of uvicorn."""
        app = ["naive:app", "--app-dir", str(Path(__file__).parents[1]), "--no-access-log", "--port", str(port)]
        return Start([sys.executable, "-m", "uvicorn", *app], {"UPSTREAM": engines[0].url})
