"""`nimad rollback`."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from nimad.cli.identity import begin
from nimad.cli.options import file_option
from nimad.cli.settings import load
from nimad.config import Settings
from nimad.config.settings import ENGINES
from nimad.report.console.screen import say_line, show_json
from nimad.report.console.streams import Matter, matters
from nimad.report.level import Level
from nimad.report.log.sinks import Log
from nimad.report.messages import rollback_messages
from nimad.rollback import rollback as going_back


@click.command()
@file_option("--source", "The SQLite memory.  [default: ~/.nima/memory/graph.sqlite]")
@file_option("--target", "The LadybugDB file.  [default: ladybug.lbug or graph.ladybug beside the source]")
@click.option(
    "--apply", "applies", is_flag=True, help="Do it: write to SQLite, after a backup, and set the target aside."
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object of what would be done, or was.")
@click.option("--engine", type=click.Choice(ENGINES), help="Package that reads.  [default: ladybug]")
@file_option("--engine-python", "Interpreter whose engine reads.  [default: this one]")
@file_option("--config", "Settings file.  [default: /etc/nima/nimad.toml, if there is one]")
@click.option("--user", metavar="NAME", help="As root: run as this user, before any file is opened.")
def rollback(config: Path | None, user: str | None, *, applies: bool, as_json: bool, **options: Any) -> None:
    """Go back to SQLite, and lose nothing that the agent wrote to the target since.

    Without --apply it only shows what SQLite lacks. With it, that is copied back in one transaction, after a backup of
    SQLite; the target gets the name of a dated backup, and no migration begins by itself. OpenClaw's file is for you to
    change: what to write is printed. Exit code 1: SQLite has no place for some of it, which is kept in a file beside
    the target.
    """
    settings = load(begin(options, config, user), os.environ, config)
    found = going_back.apply_rollback(settings) if applies else going_back.plan_rollback(settings)
    if found.applied and not found.before:
        _note(settings, rollback_messages.done(found))
    if found.applied:
        matters(Matter.DONE)
    if as_json:
        show_json(rollback_messages.to_json(found))
    else:
        for line in rollback_messages.lines(found):
            say_line(line)
    sys.exit(int(found.exit_code))


def _note(settings: Settings, lines: Iterable[str]) -> None:
    """What was written to SQLite stands in the log file, too."""
    log = Log(settings.log_level, None, settings.source)
    log.open(settings.log_file)
    for line in lines:
        log.keep(Level.INFO, line)
    log.close()
