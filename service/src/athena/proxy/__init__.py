"""The model proxy: what LLM clients already speak, on top of the router."""
