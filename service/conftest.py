"""Every test folder can ask for the real engines by their fixtures' names."""

pytest_plugins = ["tests.engines.fixtures"]
