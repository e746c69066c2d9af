"""The Admin API: the registry of backends."""
