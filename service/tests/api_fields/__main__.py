"""Writes docs/api-fields.md: `cd service && python -m tests.api_fields`."""

from pathlib import Path

from tests.api_fields.page import page

PAGE = Path(__file__).parents[3] / "docs" / "api-fields.md"

if __name__ == "__main__":
    PAGE.write_text(page())
