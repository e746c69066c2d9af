"""The engine types, one module each."""
