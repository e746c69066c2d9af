"""Whether what the pages of the manual point to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as forges make them of their words."""
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text())
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_page_or_a_heading_leads_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text())
    lost = []
    for path, anchor in links:
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(f"{path}#{anchor}")
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_action_that_a_page_names_is_one_of_deploy_sh_in_an_environment_that_is_there(page: Path) -> None:
    known = re.search(r'^all_actions="(.*)"', (ROOT / "deploy.sh").read_text(), re.MULTILINE)
    assert known is not None
    actions = {*known[1].split(), "ACTION"}
    environments = {*(folder.name for folder in (ROOT / "inventory").iterdir()), "ENVIRONMENT", "ENV"}
    environments.add("trial")  # molecule/shared/trial makes it
    named = re.findall(r"\./deploy\.sh +([A-Za-z]\w*) +([A-Za-z]+)", page.read_text())
    assert {environment for environment, _ in named} - environments == set()
    assert {action for _, action in named} - actions == set()
