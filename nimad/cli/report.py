"""`nimad report`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nimad.cli.identity import begin
from nimad.cli.options import file_option
from nimad.cli.settings import load
from nimad.errors import UsageError
from nimad.report.console.screen import say_line, show_file, show_json
from nimad.report.console.streams import Matter, matters
from nimad.state.paths import Files
from nimad.state.run_history_reader import choose_migration, read_history

if TYPE_CHECKING:
    from nimad.report.run.model import RunReport

_STDOUT = "-"


@click.command()
@file_option("--output", "Where the page is to be; - for stdout.  [default: beside the target]")
@click.option("--text", "as_text", is_flag=True, help="As plain text, on stdout unless --output is given.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, on stdout unless --output is given.")
@file_option("--target", "The LadybugDB file.  [default: ~/.nima/memory/ladybug.lbug]")
@click.option("--run", metavar="ID", help="An earlier run, by the beginning of its name.  [default: the last one]")
@file_option("--config", "Settings file.  [default: /etc/nima/nimad.toml, if there is one]")
def report(
    *,
    output: Path | None,
    as_text: bool,
    as_json: bool,
    target: Path | None,
    run: str | None,
    config: Path | None,
) -> None:
    """Tell what a run did, on one page for a browser: without network, without scripts, to be printed or mailed.

    It holds counts, ids, names and reasons, and no text of a memory.
    """
    if as_text and as_json:
        raise UsageError("--text and --json cannot be had at once; run it twice")
    from nimad.printable import as_json as json_of
    from nimad.report.run.model import headline  # late, like all that makes a report: the service has no use for it
    from nimad.report.run.output import SUFFIX, save
    from nimad.report.run.page import page
    from nimad.report.run.text import text

    target = load(begin({"target": target}, config, by="target"), os.environ, config).target
    told = _told(target, run)
    in_file = not (as_text or as_json)
    place = output or (target.with_name(target.name + SUFFIX) if in_file else Path(_STDOUT))
    if str(place) == _STDOUT and as_json:
        show_json(told.to_json())
        return
    write = (lambda told: json_of(told.to_json(), indent=2) + "\n") if as_json else text if as_text else page
    content = write(told)
    if str(place) == _STDOUT:
        show_file(content, in_utf_8=in_file)
        return
    save(content, place, target, Path(told.source) if told.source else None)
    matters(Matter.DONE)
    say_line(f"{headline(told)}.")
    say_line(f"Report: {place.absolute()}")


def _told(target: Path, run: str | None) -> "RunReport":
    from nimad.report.run.build import account

    found = read_history(Files(target).runs)
    migration = choose_migration(found, run, Files(target).runs)
    latest = migration is None or migration is found[-1]
    return account(target, migration, latest=latest)
