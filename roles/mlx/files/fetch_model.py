"""Fetch a model from the hub into a folder, whole or not at all. Needs: huggingface_hub.

usage: fetch_model.py REPOSITORY FOLDER [REVISION]
exit status 3: the hub is not within reach, or does not give this model
"""

import os
import shutil
import sys
from pathlib import Path

# What keeps a hub that does not answer from holding up a deployment; read when the library is imported.
os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")
os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "20")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from huggingface_hub import HfApi, snapshot_download

UNREACHABLE = 3
PROBE_SECONDS = 5


def main(repository: str, folder: Path, wanted: str | None = None) -> None:
    """Ask for the model first, briefly; then download it beside its place and move it there."""
    part = folder.with_name(f"{folder.name}.part")
    try:
        revision = HfApi().model_info(repository, revision=wanted, timeout=PROBE_SECONDS).sha
        snapshot_download(repository, revision=revision, local_dir=part)
    except Exception as error:  # the library and the HTTP client below it have no error in common
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(UNREACHABLE)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
