"""Write every dashboard into `files/dashboards`."""

from pathlib import Path

from boards.database import DATABASE
from boards.errors import ERRORS
from boards.hosts import HOSTS
from boards.models import MODELS
from boards.overview import OVERVIEW

FOLDER = Path(__file__).parents[1] / "files/dashboards"
BOARDS = {"overview": OVERVIEW, "models": MODELS, "hosts": HOSTS, "database": DATABASE, "errors": ERRORS}

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in BOARDS.items():
        (FOLDER / f"{name}.json").write_text(content)
