"""`nimad clean`."""

import os
from pathlib import Path

import click

from nimad.cleanup import removal
from nimad.cli.identity import begin
from nimad.cli.options import file_option
from nimad.cli.settings import load
from nimad.report.console.screen import say_line, show_json
from nimad.report.console.streams import Matter, matters
from nimad.report.messages import cleanup_messages


@click.command()
@click.option(
    "--older-than",
    "days",
    type=click.FloatRange(0),
    default=removal.DAYS,
    show_default=True,
    metavar="DAYS",
    help="What is younger stays.",
)
@click.option("--apply", "applies", is_flag=True, help="Remove it.")
@click.option("--newest", is_flag=True, help="The newest backup may go, too.")
@file_option("--source", "The SQLite memory.  [default: ~/.nima/memory/graph.sqlite]")
@file_option("--target", "The LadybugDB file.  [default: ladybug.lbug or graph.ladybug beside the source]")
@click.option("--json", "as_json", is_flag=True, help="A JSON object of what goes and what stays.")
@file_option("--config", "Settings file.  [default: /etc/nima/nimad.toml, if there is one]")
@click.option("--user", metavar="NAME", help="As root: run as this user, before any file is opened.")
def clean(
    source: Path | None,
    target: Path | None,
    config: Path | None,
    user: str | None,
    days: float,
    *,
    applies: bool,
    newest: bool,
    as_json: bool,
) -> None:
    """List what runs left beside a target, and remove what is old.

    Without --apply nothing is removed. Never to go are the target, its source, what a program has open, and whatever
    may be the last copy of a memory: a backup is held against SQLite, row by row, before it goes.
    """
    options = begin({"source": source, "target": target}, config, user)
    settings = load(options, os.environ, config)
    found = (removal.remove_leftovers if applies else removal.plan_cleanup)(settings, days, newest=newest)
    if applies:
        matters(Matter.DONE)
    if as_json:
        show_json(cleanup_messages.to_json(found))
        return
    for line in cleanup_messages.lines(found):
        say_line(line)
