"""`nimad quarantine`."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from nimad.cli.identity import begin
from nimad.cli.migrate import beginning, run_to_the_end
from nimad.cli.options import file_option, run_options
from nimad.cli.settings import load
from nimad.cli.unread_log import say_unread
from nimad.config import Settings, command
from nimad.errors import ExitCode
from nimad.plural import number_of
from nimad.report.console.screen import say_line, show_json, show_line_of_json
from nimad.report.log.sinks import say_error
from nimad.state.provenance import source_to_retry
from nimad.state.quarantine_entries import QuarantineEntries, matching, quarantined

#: Tables that a memory's rows come from.
_TABLES = ("memory_nodes", "memory_edges", "memory_turns")

#: What a list tells of an entry. Its values are the text of a memory, which `show` shows.
_LISTED = ("table", "id", "part", "reason", "attempts", "engine")

target_option = file_option("--target", "The LadybugDB file.  [default: ~/.nima/memory/ladybug.lbug]")
json_option = click.option("--json", "as_json", is_flag=True, help="Entries as JSON lines.")


@click.group(invoke_without_command=True)
@click.pass_context
def quarantine(context: click.Context) -> None:
    """Look at the rows that a migration set aside, and try them again."""
    if context.invoked_subcommand is None:
        context.invoke(list_)


@quarantine.command("list")
@target_option
@json_option
def list_(target: Path | None = None, *, as_json: bool = False) -> None:
    """List what was set aside, and why."""
    settings = _settings(target)
    found = quarantined(settings.target)
    count, first = 0, ""
    for entry, _ in found.lines():
        count, first = count + 1, first or str(entry["id"])
        if as_json:
            show_json({name: entry.get(name) for name in _LISTED}, indent=None)
        else:
            say_line(_line(entry))
    if count and not as_json:
        _say_next_steps(found, count, first)
    if lacking := found.lacking(count):
        say_error(lacking)
        sys.exit(int(ExitCode.QUARANTINED))
    if not count and not as_json:
        say_line("Nothing is in quarantine.")
    say_unread(settings)


def _say_next_steps(found: QuarantineEntries, count: int, key: str) -> None:
    words = ["--", key] if key.startswith("-") else [key]
    say_line(f"{number_of(count, 'entry', 'entries')} in {found.file}")
    say_line(f"Look at one whole: {command.line('quarantine', 'show', '--target', found.target, *words)}")
    say_line(f"Once their cause is fixed: {command.line('quarantine', 'retry', '--target', found.target)}")


@quarantine.command()
@click.argument("key", metavar="ID")
@click.option("--table", type=click.Choice(_TABLES), help="Which table's, where several have that id.")
@target_option
@json_option
def show(key: str, table: str | None, target: Path | None, *, as_json: bool) -> None:
    """Show everything that is known of one row."""
    settings = _settings(target)
    for entry, line in matching(quarantined(settings.target), key, table):
        if "row" in entry:
            show_json(entry, indent=None if as_json else 2)
        else:
            show_line_of_json(line)
    say_unread(settings)


@quarantine.command()
@file_option("--source", "The SQLite memory.  [default: the one that the target was made from]")
@target_option
@run_options
def retry(*, as_json: bool, config: Path | None, user: str | None, **options: Any) -> None:
    """Try everything that was set aside again.

    An unfinished migration goes on and tries them too. For a finished one, a new target is made beside it; the old
    one is kept as a dated backup. What the agent wrote to that one is brought along.
    """
    options["retry"] = True
    with beginning(as_json=as_json):
        options = begin(options, config, user, by="target" if options["source"] is None else "source", writes=True)
        settings = load(options, os.environ, config)
        if options["source"] is None:
            options |= {"source": source_to_retry(settings), "target": settings.target}
            settings = load(options, os.environ, config)
    run_to_the_end(settings, as_json=as_json)


def _settings(target: Path | None) -> Settings:
    return load(begin({"target": target}, by="target"), os.environ)


def _line(entry: Mapping[str, Any]) -> str:
    tried = f" ({entry['attempts']} workers failed on it)" if entry.get("attempts") else ""
    return f"{entry['table']:<13} {entry['id']!s:>8}  {entry['part']:<10} {entry.get('reason', '')}{tried}"
