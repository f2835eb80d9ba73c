"""The documentation says what holds: its reference is made from the program, and its links lead somewhere."""

import re
from pathlib import Path

import pytest
import reference
from releases import CHECKOUT

PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md")), CHECKOUT / "packaging/README.md"]


@pytest.mark.parametrize("name", reference.pages())
def test_the_reference_is_what_the_program_says(name: str) -> None:
    there = reference.FOLDER / name
    assert there.exists(), "type: make docs"
    assert there.read_text(encoding="utf-8") == reference.pages()[name], f"{name} is stale; type: make docs"


def test_no_page_of_the_reference_is_left_over() -> None:
    assert {path.name for path in reference.FOLDER.iterdir()} == set(reference.pages())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [link for link in _links(text) if not _exists(page, link)] == []


def _links(text: str) -> list[str]:
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if not link.startswith("https://")]


def _exists(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    there = page.parent / name if name else page
    return there.exists() and (not anchor or anchor in _anchors(there.read_text(encoding="utf-8")))


def _anchors(text: str) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
