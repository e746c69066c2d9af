"""The engine types, one module each."""

from collections.abc import Mapping

from athena.router.engines.base import Engine, Rendered
from athena.router.engines.mlx import MlxEngine
from athena.router.engines.ollama import OllamaEngine
from athena.router.engines.openai import OpenAIEngine
from athena.router.types import BackendType

ENGINES: Mapping[BackendType, Engine] = {
    BackendType.OLLAMA: OllamaEngine(),
    BackendType.MLX: MlxEngine(),
    BackendType.OPENAI: OpenAIEngine(),
}

__all__ = ["ENGINES", "Engine", "Rendered"]
