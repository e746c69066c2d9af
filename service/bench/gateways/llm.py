"""Gateways and routers for language models. They are installed into the cache on first use."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from bench import peers
from bench.gateways.base import TIME_OUT_SECONDS, Gateway, Start
from bench.machine import CACHE, UnavailableError, free_port
from bench.peers import output
from bench.traffic import MODEL, Engine

_KEY = "sk-8d1f0c6b2e7a49535d1f0c6b2e7a4953"


class _Locked(Gateway):
    """A Python package of `locks/bench.txt`, which holds all of them: one environment apart from the service's."""

    package: str

    def obtain(self) -> str:
        """Make the environment and return the package's version in it."""
        peers.install()
        program = f"from importlib.metadata import version; print(version({self.package!r}))"
        return output(peers.FOLDER / "bin/python", "-c", program).strip()


class _RustRouter(_Locked):
    """vllm-router and sglang-router have one ancestor and the same options."""

    command: tuple[str, ...]

    def start(self, engines: Sequence[Engine], port: int, folder: Path) -> Start:
        """Take turns, log warnings, let many streams be open."""
        options = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())]
        options += ["--policy", "round_robin", "--max-concurrent-requests", "4096"]
        options += ["--log-dir", str(folder)]
        if len(engines) > 1:  # it bounds the whole answer: with one engine long streams must not be cut
            options += ["--request-timeout-secs", str(TIME_OUT_SECONDS)]
        workers = ["--worker-urls", *(engine.url for engine in engines)]
        return Start([str(peers.FOLDER / "bin" / self.command[0]), *self.command[1:], *options, *workers], within=60)


class VllmRouter(_RustRouter):
    """The router of vLLM's production stack."""

    name = package = "vllm-router"
    command = ("vllm-router",)


class SglangRouter(_RustRouter):
    """The router of SGLang."""

    name = package = "sglang-router"
    command = ("sglang-router", "launch")


class LiteLlm(_Locked):
    """The proxy of LiteLLM, one worker."""

    name = "LiteLLM"
    package = "litellm"

    def start(self, engines: Sequence[Engine], port: int, folder: Path) -> Start:
        """Write config.yaml (JSON is YAML)."""
        deployments = [
            {
                "model_name": MODEL,
                "litellm_params": {"model": f"openai/{MODEL}", "api_base": f"{each.url}/v1", "api_key": "x"},
            }
            for each in engines
        ]
        settings = {"num_retries": 2, "timeout": TIME_OUT_SECONDS if len(engines) > 1 else 60}
        configuration = folder / "config.yaml"
        configuration.write_text(json.dumps({"model_list": deployments, "router_settings": settings}), encoding="utf-8")
        options = ["--config", str(configuration), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
        return Start(
            [str(peers.FOLDER / "bin/litellm"), *options, "--telemetry", "False"],
            {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": _KEY},
            [f"authorization: Bearer {_KEY}"],
            within=120,
        )


class Portkey(Gateway):
    """Portkey's gateway on Node. Where to send a prompt is in the prompt's headers."""

    name = "Portkey"
    _version = "1.15.2"
    _folder = CACHE / f"portkey-{_version}"
    # With later ones of Hono's server, which its own range admits, every stream is answered 500.
    _package = (
        f'{{"dependencies": {{"@portkey-ai/gateway": "{_version}"}}, "overrides": {{"@hono/node-server": "1.13.8"}}}}'
    )

    def obtain(self) -> str:
        """Install it with npm."""
        complete = self._folder / "complete"
        if not complete.exists() or complete.read_text(encoding="utf-8") != self._package:
            if not (shutil.which("npm") and shutil.which("node")):
                raise UnavailableError("Node and npm are missing (Debian packages nodejs, npm)")
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            (self._folder / "package.json").write_text(self._package, encoding="utf-8")
            output("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", self._folder)
            complete.write_text(self._package, encoding="utf-8")
        return self._version

    def start(self, engines: Sequence[Engine], port: int, folder: Path) -> Start:
        """Without its console."""
        targets: list[dict[str, object]] = [
            {"provider": "openai", "api_key": "x", "custom_host": f"{engine.url}/v1"} for engine in engines
        ]
        configuration = targets[0]
        if len(engines) > 1:  # take turns, and try the others where one does not answer
            turns = [targets[at:] + targets[:at] for at in range(len(targets))]
            fallbacks = [{"strategy": {"mode": "fallback"}, "targets": each} for each in turns]
            configuration = {
                "strategy": {"mode": "loadbalance"},
                "targets": fallbacks,
                "request_timeout": TIME_OUT_SECONDS * 1000,
            }
        program = self._folder / "node_modules/@portkey-ai/gateway/build/start-server.js"
        node = shutil.which("node") or "node"
        return Start(
            [node, str(program), "--headless", f"--port={port}"],
            {"NODE_ENV": "production"},
            [f"x-portkey-config: {json.dumps(configuration)}"],
        )
