"""`nimad verify`."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from nimad.cli.identity import begin
from nimad.cli.options import file_option
from nimad.cli.settings import load
from nimad.compare.comparison import compare
from nimad.config.settings import ENGINES
from nimad.report.console.screen import say_line, show_json
from nimad.report.messages import comparison_messages

#: What is compared: every row and column, or just the number of rows.
LEVELS = ("full", "counts")


@click.command()
@file_option("--source", "The SQLite memory.  [default: ~/.nima/memory/graph.sqlite]")
@file_option("--target", "The LadybugDB file.  [default: ladybug.lbug or graph.ladybug beside the source]")
@click.option("--level", type=click.Choice(LEVELS), default="full", show_default=True, help="What to compare.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object of all that was found.")
@click.option("--engine", type=click.Choice(ENGINES), help="Package that reads.  [default: ladybug]")
@file_option("--engine-python", "Interpreter whose engine reads.  [default: this one]")
@file_option("--config", "Settings file.  [default: /etc/nima/nimad.toml, if there is one]")
def verify(config: Path | None, level: str, *, as_json: bool, **options: Any) -> None:
    """Compare a LadybugDB file with an SQLite memory, every row and column, at any time.

    Only reads, on both sides, and leaves nothing behind. Exit code 0: the same; 1: the same but for rows in quarantine,
    late arrivals, recalls, marks and what the agent added to the target; 76: there is a difference. What the agent
    merged or removed in the target is one, and said to be written there.
    """
    settings = load(begin(options, config), os.environ, config)
    found = compare(settings, level)
    if as_json:
        show_json(comparison_messages.to_json(found))
    else:
        for line in comparison_messages.lines(found):
            say_line(line)
    sys.exit(int(found.exit_code))
