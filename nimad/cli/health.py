"""`nimad health`."""

import os
import sys
from pathlib import Path

import click

from nimad.cli.identity import begin
from nimad.cli.options import file_option
from nimad.cli.settings import load
from nimad.config.defaults import expand
from nimad.diagnostics.health import of_file, of_memory
from nimad.host.rights import become_owner
from nimad.report.console.screen import show, show_json
from nimad.report.console.symbols import signs_of_stdout
from nimad.report.messages.health_screen import lines, to_json


@click.command()
@file_option("--db", "One file, SQLite or LadybugDB.  [default: source and target side by side]")
@file_option("--source", "The SQLite memory.  [default: ~/.nima/memory/graph.sqlite]")
@file_option("--target", "The LadybugDB file.  [default: ladybug.lbug or graph.ladybug beside the source]")
@file_option("--config", "Settings file.  [default: /etc/nima/nimad.toml, if there is one]")
@click.option("--verbose", is_flag=True, help="Also who contributed most, and the mean free energy.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def health(
    db: Path | None, source: Path | None, target: Path | None, config: Path | None, *, verbose: bool, as_json: bool
) -> None:
    """Look whether a memory can be read whole, and what it holds.

    Of two files every figure that differs is marked. Exit code 0: healthy. 1: a file is missing, damaged or open
    elsewhere, or a difference is not accounted for.
    """
    if db is not None and (source or target):
        raise click.UsageError("Name one file with --db, or two with --source and --target.")
    if db:
        become_owner(expand(db))
        found = of_file(expand(db))
    else:
        options = begin({"source": source, "target": target}, config)
        found = of_memory(load(options, os.environ, config))
    if as_json:
        show_json(to_json(found, verbose=verbose))
    else:
        signs = signs_of_stdout()
        show(lines(found, signs, verbose=verbose), signs)
    sys.exit(0 if found.ok else 1)
