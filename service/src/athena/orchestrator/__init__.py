"""The orchestrator: classify a query, then answer it."""
