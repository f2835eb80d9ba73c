#!/usr/bin/env python3
"""Make docs/reference from what the program says of itself.

    make docs

`tests/unit/test_docs.py` fails when a page there is not what this would make.
"""

from collections.abc import Iterator, Mapping, Sequence

import described
from releases import CHECKOUT

from nimad.config.defaults import VARIABLES

FOLDER = CHECKOUT / "docs/reference"
_MADE = "Made from the program by `make docs`; not written by hand.\n"
#: What the environment says, beside what `VARIABLES` has.
_DATA_HOME = {
    "NIMA_HOME": "the folder that holds `memory/`, in place of `~/.nima`",
    "NIMA_DATA_DIR": "the same, or the folder `memory` itself",
}
_OUTRIGHT = {"source": "the SQLite memory", "target": "the LadybugDB file", "openclaw_file": "OpenClaw's file"}
_OF_EITHER_KIND = {"NIMA_DB_PATH": "the SQLite memory; the LadybugDB file, where it names one"}
#: Fields of the journal's entries.
_JOURNAL = {
    "NIMA_RUN": "which run it is, a number of its own",
    "NIMA_PHASE": "what it does: `analyzing`, `loading memory_nodes`, `verifying`, `following`, …",
    "NIMA_BATCH": "the batch, counted from 1",
    "NIMA_OFFSET": "rows of the table that are done",
    "NIMA_ATTEMPT": "which try it is",
}


def pages() -> Mapping[str, str]:
    """Each page by its name."""
    return {
        "cli.md": _page("Commands", _commands()),
        "settings.md": _page("Settings", _settings()),
        "exit-codes.md": _page("Exit codes", _exit_codes()),
        "events.md": _page("Events and journal fields", _events()),
    }


def write() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def _page(title: str, parts: Iterator[str]) -> str:
    return "\n\n".join([f"# {title}", _MADE.strip(), *parts]) + "\n"


def _commands() -> Iterator[str]:
    yield " ".join(described.program())
    yield "`nimad --version` says which release it is; every command knows `--help`."
    for command in described.commands():
        yield f"## `{command.usage}`"
        yield "\n\n".join(map(_plain, command.text))
        if command.options:
            yield _table(("option", "meaning"), [(f"`{name}`", _plain(text)) for name, text in command.options])


def _settings() -> Iterator[str]:
    for table in described.settings():
        if not table.name:
            yield "\n\n".join(map(_plain, table.text))
            continue
        yield f"## `[{table.name}]`"
        rows = []
        for setting, text in table.settings:
            option = described.option_of(table.name, setting.split(" = ")[0])
            rows.append((f"`{setting}`", f"`{option}`" if option else "", _plain(" ".join(text))))
        yield _table(("setting", "option", "meaning"), rows)
    yield "## Environment"
    named = {variable: _OUTRIGHT[field] for variable, field in VARIABLES.items()} | _OF_EITHER_KIND
    yield _table(("variable", "meaning"), [(f"`{name}`", text) for name, text in {**_DATA_HOME, **named}.items()])


def _exit_codes() -> Iterator[str]:
    yield (
        "Commands end with one of these; those from 64 up are the numbers of `sysexits.h`. Commands that only look, "
        "such as `nimad status`, have a few of their own, which [their text](cli.md) names."
    )
    yield _table(("exit code", "meaning"), described.exit_codes())
    yield "Of commands that look or go back, the lower ones say what was found:"
    yield _table(
        ("command", "exit codes"), [(f"`{name}`", _plain(text)) for name, text in described.exit_codes_of_commands()]
    )


def _events() -> Iterator[str]:
    yield (
        "With `--json`, each event of a run is one JSON line on stdout: `event` is its name, the other keys are its "
        'fields. A run that fails ends with `{"event": "Failed", "message": …, "exit_code": …}`. From Python, '
        "`nimad.migrate` calls `on_event` with objects of these kinds."
    )
    yield "## Events"
    rows = []
    for event in described.events():
        fields = "<br>".join(f"`{name}`: {kind}" for name, kind in event.fields)
        rows.append((f"`{event.name}`", _plain(" ".join(event.text)), _cell(fields)))
    yield _table(("event", "when, and what it carries", "fields"), rows, escaped=True)
    yield "## Fields of the journal's entries"
    yield _table(("field", "meaning"), [(f"`{name}`", text) for name, text in _JOURNAL.items()])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, escaped: bool = False) -> str:
    lines = [heads, ["---"] * len(heads), *([cell if escaped else _cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _plain(text: str) -> str:
    """Text in which Markdown finds no tags of its own."""
    return text.replace("<", "&lt;")


if __name__ == "__main__":
    write()
