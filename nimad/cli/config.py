"""`nimad config`."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from nimad.cli.options import file_option
from nimad.config import Settings, load
from nimad.config.file import DEFAULT_FILE, TABLES


@click.command()
@file_option("--config", "Settings file.  [default: /etc/nima/nimad.toml, if there is one]")
@click.option("--json", "as_json", is_flag=True, help="A JSON list of table, key, value and origin.")
def config(config: Path | None, *, as_json: bool) -> None:
    """Print every setting that holds, and where it comes from.

    Without options of a run, and without OpenClaw's file, which only --auto reads.
    """
    settings = load({}, os.environ, config)
    rows = list(_rows(settings))
    if as_json:
        facts = [{"table": table, "key": key, "value": value, "origin": origin} for table, key, value, origin in rows]
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    last = ""
    for table, key, value, origin in rows:
        if table != last:
            click.echo(f"[{table}]")
        last = table
        words = f"{key} = {json.dumps(value, ensure_ascii=False)}" if value is not None else f"#{key} ="
        click.echo(f"{words:<50} # {origin}")
    click.echo(f"# Change them in {config or DEFAULT_FILE}")


def _rows(settings: Settings) -> Iterator[tuple[str, str, Any, str]]:
    for table, keys in TABLES.items():
        for key, (name, _) in keys.items():
            yield table, key, _plain(getattr(settings, name)), settings.origin(name)


def _plain(value: Any) -> Any:
    """As the settings file has it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
