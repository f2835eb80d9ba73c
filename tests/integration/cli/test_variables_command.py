"""NIMA's variables: `NIMA_DB_PATH` for a LadybugDB file, errors that stem from one, and the side of the agent."""

import json
from pathlib import Path

import pytest
from support.commands import nimad
from test_variables import memory, settings

from nimad.errors import UsageError

__all__ = ["memory"]  # fixtures


@pytest.mark.long
def test_every_command_takes_it_for_the_target_and_says_so_once(memory: Path, tmp_path: Path) -> None:
    named = {"NIMA_DB_PATH": "~/.nima/memory/ladybug.lbug"}
    commands = [
        *(("migrate", "--reader-python", "none", "--nodes-only"), ("status",), ("verify",), ("health",), ("pause",)),
        *(
            ("resume",),
            ("quarantine",),
            ("clean",),
            ("rollback",),
            ("search", "text"),
            ("report", "--text"),
        ),
    ]
    for words in commands:
        done = nimad(tmp_path, *words, **named)
        said = [line for line in done.err.splitlines() if "NIMA_DB_PATH" in line]
        assert len(said) == 1, (words, done.err)
        assert done.err.count("\n") == 1, (words, done.err)
        assert done.code in (0, 1), (words, done)
    assert (memory / "ladybug.lbug").is_file()
    assert (memory / "graph.ladybug").is_symlink()
    shown = nimad(tmp_path, "config", **named)
    assert (shown.code, shown.err) == (0, "")
    assert f'path = "{memory}/ladybug.lbug"' in shown.out
    assert "# NIMA_DB_PATH names a LadybugDB file" in shown.out
    looked = nimad(tmp_path, "doctor", "--reader-python", "none", "--json", **named)
    assert looked.err == ""
    found = [each["text"] for each in json.loads(looked.out)["findings"] if each["check"] == "settings"]
    assert any(text.startswith("NIMA_DB_PATH names a LadybugDB file") for text in found)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "words", [("migrate",), ("migrate", "--json"), ("verify",), ("rollback",), ("health",), ("doctor",)]
)
def test_an_error_about_a_file_says_which_variable_named_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "notes.sqlite").write_text("no memory")
    for name in ("notes.sqlite", "none.sqlite"):
        done = nimad(tmp_path, *words, NIMA_DB_PATH=f"~/{name}")
        assert done.code != 0
        said = " ".join((done.out + done.err).split())
        assert f"{tmp_path}/{name} comes from NIMA_DB_PATH" in said.replace("\n", " "), (words, said)


def test_an_error_about_a_target_in_the_way_says_which_variable_named_it(memory: Path, tmp_path: Path) -> None:
    (memory / "ladybug.lbug").write_text("no database")
    done = nimad(tmp_path, "migrate", "--reader-python", "none", NIMA_DB_PATH="~/.nima/memory/ladybug.lbug")
    assert done.code == 73
    assert done.err.endswith(f"; {memory}/ladybug.lbug comes from NIMA_DB_PATH\n")
    with pytest.raises(UsageError, match=r"^NIMA_DB_PATH is the same file as the source"):
        settings(tmp_path, NIMA_DB_PATH="/x/a.lbug", source="/x/a.lbug")
