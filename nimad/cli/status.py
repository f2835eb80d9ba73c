"""`nimad status`."""

import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from nimad.cli.identity import begin
from nimad.cli.options import file_option
from nimad.cli.settings import load
from nimad.diagnostics.status import Status
from nimad.diagnostics.status import status as ask
from nimad.report.console import streams
from nimad.report.console.screen import Live, can_be_drawn_on, say_line, show, show_json
from nimad.report.console.symbols import signs_of_stdout
from nimad.report.messages.status_screen import headline, lines, to_json

#: Seconds between two looks of --watch.
_EVERY_S = 1.0


@click.command()
@file_option("--source", "The SQLite memory.  [default: ~/.nima/memory/graph.sqlite]")
@file_option("--target", "The LadybugDB file.  [default: ladybug.lbug or graph.ladybug beside the source]")
@file_option("--config", "Settings file.  [default: /etc/nima/nimad.toml, if there is one]")
@click.option("--watch", is_flag=True, help="Keep watching until Ctrl-C. In a pipe: a line whenever it changes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; with --watch, one in a line at each change.")
def status(source: Path | None, target: Path | None, config: Path | None, *, watch: bool, as_json: bool) -> None:
    """Show how a migration stands: how far it is, who is at it, and what to do next.

    Exit code 0: complete. 1: complete, with rows in quarantine. 3: in progress. 4: nothing is there. 73: another
    memory is in place of the one that was migrated. 75: it was interrupted or has failed, and no process is running.
    """
    options = begin({"source": source, "target": target}, config)

    def look() -> Status:
        return ask(load(options, os.environ, config))

    if watch:
        _watch(look, as_json=as_json)
        return
    found, signs = look(), signs_of_stdout()
    if as_json:
        show_json(to_json(found))
    else:
        show(lines(found, signs), signs)
    sys.exit(found.exit_code)


def _watch(look: Callable[[], Status], *, as_json: bool) -> None:
    try:
        if as_json or not can_be_drawn_on():
            _watch_in_lines(look, as_json=as_json)
        else:
            signs = signs_of_stdout()
            with Live(signs) as live:
                while not streams.is_lost():
                    live.show(list(lines(look(), signs, live.width)))
                    time.sleep(_EVERY_S)
    except KeyboardInterrupt:  # how it is meant to end
        return


def _watch_in_lines(look: Callable[[], Status], *, as_json: bool) -> None:
    """A line whenever something changed, for as long as somebody reads."""
    said, reader = "", select.poll()
    reader.register(sys.stdout, 0)  # of itself it tells when the other end of a pipe is closed
    gone = False
    while not gone:
        found = look()
        word = _figures(found)
        if word != said:
            said = word
            if as_json:
                show_json(to_json(found), indent=None)
            else:
                say_line(_in_a_line(found))
        gone = streams.is_lost() or bool(reader.poll(_EVERY_S * 1_000))


def _figures(found: Status) -> str:
    """What is a change: not that time passes, nor what a worker has in use."""
    counts = [(count.done, count.of) for count in found.counts]
    return f"{headline(found)} {found.why} {counts} {found.retries} {found.quarantined}"


def _in_a_line(found: Status) -> str:
    rows = [
        f"{count.table.removeprefix('memory_')} {count.done:,} of {count.of:,}"
        for count in found.counts
        if count.done is not None and count.of
    ]
    why = f": {found.why}" if found.why and found.at_work else ""
    return "  ".join([time.strftime("%H:%M:%S"), f"{headline(found)}{why}", *rows])
