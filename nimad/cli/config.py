"""`nimad config`."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from nimad.cli.options import file_option
from nimad.config import Settings, load, read_openclaw
from nimad.config.defaults import DEFAULT
from nimad.config.toml_file import DEFAULT_FILE, TABLES
from nimad.errors import NimadError
from nimad.report.console.screen import say_line, show_json

#: A value, with its table, its key, and where it comes from.
_Row = tuple[str, str, Any, str]
#: What stands for a table where a value is OpenClaw's.
_OPENCLAW = "openclaw"


@click.command()
@file_option("--config", "Settings file.  [default: /etc/nima/nimad.toml, if there is one]")
@click.option("--json", "as_json", is_flag=True, help="A JSON list of table, key, value and origin.")
def config(config: Path | None, *, as_json: bool) -> None:
    """Print every setting that holds, and where it comes from.

    Without options of a run. What OpenClaw's file says, which --auto and the trigger "openclaw" go by, comes last.
    """
    settings = load({}, os.environ, config)
    rows, asked = list(_rows(settings)), list(_openclaw(settings))
    if as_json:
        facts = [
            {"table": table, "key": key, "value": value, "origin": origin} for table, key, value, origin in rows + asked
        ]
        show_json(facts)
        return
    last = ""
    for table, key, value, origin in rows:
        if table != last:
            say_line(f"[{table}]")
        last = table
        say_line(_line("" if value is not None else "#", key, value, origin))
    say_line(f"# Change them in {config or DEFAULT_FILE}")
    say_line("# What the agent has, to be changed in its own files:")
    for _, key, value, origin in asked:
        say_line(_line("#", key, value, origin))
    for note in settings.notes:
        say_line(f"# {note}")


def _line(sign: str, key: str, value: Any, origin: str) -> str:
    words = f"{sign}{key} = {json.dumps(value, ensure_ascii=False) if value is not None else ''}".rstrip()
    return f"{words:<50} # {origin}"


def _rows(settings: Settings) -> Iterator[_Row]:
    for table, keys in TABLES.items():
        for key, (name, _) in keys.items():
            yield table, key, _plain(getattr(settings, name)), settings.origin(name)


def _openclaw(settings: Settings) -> Iterator[_Row]:
    """What OpenClaw's file says, each value with its keys there; or why it cannot be read."""
    path = settings.openclaw_file
    yield _OPENCLAW, "file", str(path), settings.origin("openclaw_file")
    try:
        found = read_openclaw(path)
    except NimadError as error:
        yield _OPENCLAW, "error", str(error), str(path)
        return
    values = {
        "backend": found.backend,
        "auto_migrate": found.auto_migrate if "auto_migrate" in found.places else None,
        "migration_batch_size": found.batch_size,
    }
    for key, value in values.items():
        yield _OPENCLAW, key, value, f"{path} {found.origin(key)}" if key in found.places else DEFAULT
    yield _OPENCLAW, "why_not", found.why_not, str(path)


def _plain(value: Any) -> Any:
    """As the settings file has it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
