"""Files that are replaced in one step."""

import os
import tempfile
from pathlib import Path


def replace(file: Path, content: bytes) -> None:
    """Write the file whole or leave it as it was, whatever happens meanwhile; only its owner can read it.

    Raises OSError.
    """
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
