"""Athena LLM Backend: the control plane and the model proxy of a self-hosted LLM service."""

from importlib.metadata import version

__version__ = version("athena-llm-backend")
