"""What the agent remembers of its restarts beyond its own end, so that a crash of its own lifts no limit."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog

from athena import files
from athena.agent.restarting import Attempts

log = structlog.get_logger()


class Memory:
    """The attempts by engine, in a file if there is one; without it they end with the process."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._failing = False

    def load(self) -> dict[str, Attempts]:
        """Return what was remembered. A file that cannot be read is told in the log, and counts as empty."""
        if self._file is None:
            return {}
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, Attempts])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("restarts_not_remembered", file=str(self._file), error=str(error))
            return {}

    def save(self, attempts: Mapping[str, Attempts]) -> None:
        """Write it down; a failure is logged once, and the agent goes on with what it knows."""
        if self._file is None:
            return
        try:
            files.replace(self._file, msgspec.json.encode(attempts))
        except OSError as error:
            if not self._failing:
                log.warning("restarts_not_saved", file=str(self._file), error=str(error))
            self._failing = True
        else:
            self._failing = False
