"""`nimad report`."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nimad import rights
from nimad.cli.options import file_option
from nimad.config import load
from nimad.errors import CannotWriteError, UsageError
from nimad.migration.files import Files, replace_bytes
from nimad.migration.origin import source_of
from nimad.migration.recorded import choose, read

if TYPE_CHECKING:
    from nimad.migration.timing import Compared
    from nimad.report.account import Account

#: Beside the target, unless the page is to be elsewhere.
_SUFFIX = ".report.html"
_STDOUT = "-"


@click.command()
@file_option("--output", "Where the page is to be; - for stdout.  [default: beside the target]")
@click.option("--text", "as_text", is_flag=True, help="As plain text, on stdout unless --output is given.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, on stdout unless --output is given.")
@file_option("--target", "The LadybugDB file.  [default: ~/.nima/memory/graph.ladybug]")
@click.option("--run", metavar="ID", help="An earlier run, by the beginning of its name.  [default: the last one]")
@click.option("--no-search", is_flag=True, help="Do not measure how long searching takes before and after.")
@file_option("--config", "Settings file.  [default: /etc/nima/nimad.toml, if there is one]")
def report(
    *,
    output: Path | None,
    as_text: bool,
    as_json: bool,
    target: Path | None,
    run: str | None,
    no_search: bool,
    config: Path | None,
) -> None:
    """Tell what a run did, on one page for a browser: without network, without scripts, to be printed or mailed.

    It holds counts, ids, names and reasons, and no text of a memory.
    """
    if as_text and as_json:
        raise UsageError("--text and --json cannot be had at once; run it twice")
    from nimad.report.account import headline  # late, like all that makes a report: the service has no use for it
    from nimad.report.page import page
    from nimad.report.text import text

    target = load({"target": target}, os.environ, config).target
    told = _told(target, run, search=not no_search)
    if as_json:
        content = json.dumps(told.to_json(), indent=2, ensure_ascii=False) + "\n"
    else:
        content = text(told) if as_text else page(told)
    in_file = not (as_text or as_json)
    place = output or (target.with_name(target.name + _SUFFIX) if in_file else Path(_STDOUT))
    if str(place) == _STDOUT:
        click.echo(content, nl=False)
        return
    try:
        with rights.working_for(_whose(target), place):
            replace_bytes(place, [content.encode(errors="replace")])
    except OSError as error:
        raise CannotWriteError(
            f"{place} cannot be written ({error.strerror}); name another file with --output"
        ) from None
    click.echo(f"{headline(told)}.")
    click.echo(f"Report: {place.absolute()}")


def _told(target: Path, run: str | None, *, search: bool) -> "Account":
    from nimad.migration.timing import compare
    from nimad.report.gathering import account

    found = read(Files(target).runs)
    migration = choose(found, run, Files(target).runs)
    latest = migration is None or migration is found[-1]
    source = source_of(target) if latest and target.exists() else None
    compared: Compared | None = None
    if search and source is not None:
        compared = compare(source, target)
    return account(target, migration, latest=latest, compared=compared)


def _whose(target: Path) -> Path:
    """A file whose owner the memory is."""
    files = Files(target)
    return next((path for path in (target, files.staging, files.runs, files.state) if path.exists()), target.parent)
