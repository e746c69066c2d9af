"""Copy the files of a model from a host that has it, and go on where an earlier copy was cut off.

usage: copy_model.py URL FOLDER FILES

URL is that of the model at the host (share_models.py); FILES, a file with the size of each by its path, in JSON.
exit status 3: the host is not within reach any more, or has it no longer; what has come so far stays
"""

import http.client
import json
import sys
import time
from collections.abc import Callable
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote, urlsplit

UNREACHABLE = 3
BLOCK = 1 << 20
SILENCE_SECONDS = 30
# So often in a row a host may give not one byte.
ATTEMPTS = 5
PAUSE_SECONDS = 1.0


class GoneError(Exception):
    """The host answers, and does not give the file."""


def fetch(url: str, part: Path, size: int, came: Callable[[int], None]) -> None:
    """Have the rest of a file. Raises OSError or HTTPException where it breaks off, GoneError where it is not there.

    `came` is told the size of each block once it is in the file; what it raises ends the copy there.
    """
    if part.exists() and part.stat().st_size > size:
        part.unlink()
    if part.exists() and part.stat().st_size == size:  # all of it came, and whoever fetched it ended then
        return
    have = part.stat().st_size if part.exists() else 0
    where = urlsplit(url)
    with closing(http.client.HTTPConnection(where.netloc, timeout=SILENCE_SECONDS)) as connection:
        connection.request("GET", where.path, headers={"Range": f"bytes={have}-"} if have else {})
        answer = connection.getresponse()
        if answer.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise GoneError(f"{url} answers with {answer.status}")
        with part.open("ab" if answer.status == HTTPStatus.PARTIAL_CONTENT else "wb") as file:
            while block := answer.read(BLOCK):
                file.write(block)
                came(len(block))
    if part.stat().st_size != size:
        raise ConnectionError(f"{part.name} has {part.stat().st_size} of {size} bytes")


def copy(url: str, path: Path, size: int, came: Callable[[int], None] = lambda _: None) -> None:
    """Have a file whole, in as many attempts as bring something. Raises what the last of them raised, or `came`."""
    if path.exists() and path.stat().st_size == size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            fetch(url, part, size, came)
        except (OSError, http.client.HTTPException):
            failures = 0 if part.exists() and part.stat().st_size > before else failures + 1
            if failures >= ATTEMPTS:
                raise
            time.sleep(PAUSE_SECONDS)
        else:
            part.rename(path)
            return


def main(url: str, folder: Path, sizes: dict[str, int]) -> None:
    """Copy file after file."""
    try:
        for name, size in sizes.items():
            copy(f"{url}/{quote(name)}", folder / name, size)
    except (GoneError, OSError, http.client.HTTPException) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(UNREACHABLE)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text()))
