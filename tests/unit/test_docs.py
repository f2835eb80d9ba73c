"""The documentation says what holds: its reference is made from the program, and its links lead somewhere."""

import re
import shlex
from pathlib import Path

import click
import described
import pytest
import reference
from releases import CHECKOUT

from nimad.cli.main import cli
from nimad.diagnostics.status import NOTHING_THERE, UNDER_WAY

PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md")), CHECKOUT / "packaging/README.md"]


@pytest.mark.parametrize("name", reference.pages())
def test_the_reference_is_what_the_program_says(name: str) -> None:
    there = reference.FOLDER / name
    assert there.exists(), "type: make docs"
    assert there.read_text(encoding="utf-8") == reference.pages()[name], f"{name} is stale; type: make docs"


def test_exit_codes_that_a_command_has_for_itself_are_told_as_well() -> None:
    told = dict(described.exit_codes_of_commands())
    assert {"nimad status", "nimad health", "nimad doctor", "nimad verify"} <= told.keys()
    assert f"{UNDER_WAY}: in progress. {NOTHING_THERE}: nothing is there." in told["nimad status"]


def test_no_page_of_the_reference_is_left_over() -> None:
    assert {path.name for path in reference.FOLDER.iterdir()} == set(reference.pages())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [link for link in _links(text) if not _exists(page, link)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_every_command_that_a_page_shows_is_one(page: Path) -> None:
    assert [words for words in _shown(page.read_text(encoding="utf-8")) if not _is_a_command(words)] == []


def _shown(text: str) -> list[str]:
    """Command lines of nimad's in blocks of code and in the middle of sentences."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in re.split(r"&&|\n", block)]
    prose = re.sub(r"```.*?```|^#.*$|«`.*?`»", "", text, flags=re.DOTALL | re.MULTILINE)  # and no messages
    lines += re.findall(r"`((?:sudo )?nimad [^`]+)`", prose)
    found = (re.match(r"\s*(?:sudo )?(?:\S*/)?nimad (.+)", line.partition("  #")[0]) for line in lines)
    return [match[1].strip() for match in found if match]


def _is_a_command(line: str) -> bool:
    """Whether the words before any `…` name a command of ours, and its options."""
    words = shlex.split(line.partition("…")[0])
    context = click.Context(cli)
    command: click.Command = cli
    while words and isinstance(command, click.Group) and (inner := command.get_command(context, words[0])):
        command = inner
        words.pop(0)
    known = {name for option in (*cli.params, *command.params) for name in option.opts} | {"--help", "--version"}
    options = {word.partition("=")[0].rstrip(",:.") for word in words if word.startswith("--")}
    return (command is not cli or options in ({"--version"}, {"--help"})) and options <= known


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
