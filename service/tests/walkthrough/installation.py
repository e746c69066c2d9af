"""What a reader of the manual has at hand: an Admin API, an Ollama and an MLX server, and a Python of their own."""

import subprocess
import sys
from typing import Any

import httpx

from tests.engines.server import EngineServer
from tests.support.processes import Server, environment

SMALL, LARGE, CODE = "smollm:135m", "mistral-small:24b", "starcoder:3b"
BACKENDS = "/api/llm-backends"


class Installation:
    """The started parts, and the few things that the manual's examples do with them."""

    def __init__(self, admin: Server, token: str, ollama: EngineServer, mlx: EngineServer) -> None:
        self.admin = admin
        self.token = token
        self.ollama = ollama
        self.mlx = mlx
        self.anonymous = httpx.Client(base_url=admin.url, timeout=30)
        self.http = httpx.Client(base_url=admin.url, timeout=30, headers={"Authorization": f"Bearer {token}"})

    def backends(self, *, enabled_only: bool = False) -> list[dict[str, Any]]:
        """Return the registry's rows."""
        answer = self.http.get(BACKENDS, params={"enabled_only": "true"} if enabled_only else {})
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()
        return rows

    def create(self, model: str, backend_type: str, endpoint_url: str, **more: Any) -> dict[str, Any]:
        """Register a backend with short replies, unless the test says otherwise."""
        fields = {"model_name": model, "backend_type": backend_type, "endpoint_url": endpoint_url, "max_tokens": 8}
        answer = self.http.post(BACKENDS, json={**fields, **more})
        assert answer.status_code == 201, answer.text
        row: dict[str, Any] = answer.json()
        return row

    def change(self, backend_id: int, **fields: Any) -> dict[str, Any]:
        """Update some fields of a backend."""
        answer = self.http.put(f"{BACKENDS}/{backend_id}", json=fields)
        assert answer.status_code == 200, answer.text
        row: dict[str, Any] = answer.json()
        return row

    def look_up(self, model: str) -> dict[str, Any]:
        """Ask for a model's backend as services do, without a token."""
        answer = self.anonymous.get(f"{BACKENDS}/model/{model}")
        assert answer.status_code == 200, answer.text
        row: dict[str, Any] = answer.json()
        return row

    def python(self, program: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program that uses the router library, with no more in its environment than the manual asks for."""
        return subprocess.run(
            [sys.executable, "-c", program],
            env=environment(ADMIN_API_URL=self.admin.url, OLLAMA_URL=self.ollama.url, **variables),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def generate(self, model: str, prompt: str) -> subprocess.CompletedProcess[str]:
        """Run the manual's test program; its last line is `Backend: …`."""
        return self.python(GENERATE.format(model=model, prompt=prompt))

    def backend_that_answers(self, model: str) -> str:
        """Return the engine type that the manual's test program names."""
        done = self.generate(model, "Name three rivers of Europe.")
        assert done.returncode == 0, done.stderr
        return done.stdout.rstrip().rpartition("Backend: ")[2]

    def clear(self) -> None:
        """Delete every backend."""
        for row in self.backends():
            assert self.http.delete(f"{BACKENDS}/{row['id']}").status_code == 204

    def close(self) -> None:
        """Close the HTTP clients."""
        self.anonymous.close()
        self.http.close()


GENERATE = """
import asyncio
from shared.llm_router import get_llm_router

async def main():
    router = get_llm_router()
    result = await router.generate(model={model!r}, prompt={prompt!r}, temperature=0.7)
    print("Response:", result["response"])
    print("Backend:", result["backend"])

asyncio.run(main())
"""
