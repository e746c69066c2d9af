"""The command `athena`. Modules import what a command needs when that command runs, so that help is quick."""

from athena.cli.app import main

__all__ = ["main"]
