"""`nimad doctor`."""

import os
import sys
from pathlib import Path

import click

from nimad.cli.identity import begin
from nimad.cli.options import file_option
from nimad.config import Settings, load
from nimad.diagnostics.doctor import examine
from nimad.errors import ConfigurationError, NimadError, UsageError
from nimad.host.folders import ROOT
from nimad.report.console.screen import show, show_json
from nimad.report.console.symbols import signs_of_stdout
from nimad.report.messages.doctor_screen import lines, to_json


@click.command()
@file_option("--source", "The SQLite memory.  [default: ~/.nima/memory/graph.sqlite]")
@file_option("--target", "The LadybugDB file.  [default: ladybug.lbug or graph.ladybug beside the source]")
@file_option("--config", "Settings file.  [default: /etc/nima/nimad.toml, if there is one]")
@file_option("--reader-python", "Interpreter of the agent, or 'none'.  [default: looked for]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(
    source: Path | None, target: Path | None, config: Path | None, reader_python: Path | None, *, as_json: bool
) -> None:
    """Look whether machine, engines, files and service are fit for a migration, and say how to fix what is not.

    Changes nothing. Exit code 0: all is well. 1: warnings. 2: problems.
    """
    options = {"source": source, "target": target, "reader_python": reader_python}
    failed: NimadError | None = None
    try:
        options = begin(options, config)
    except (UsageError, ConfigurationError) as error:  # a line of the doctor's own
        failed = error

    def settings() -> Settings:
        if failed is not None and os.geteuid() == ROOT:  # who became nobody reads no settings of another's
            raise failed
        return load(options, os.environ, config)

    report = examine(settings)
    if as_json:
        show_json(to_json(report))
    else:
        signs = signs_of_stdout()
        show(lines(report, signs), signs)
    sys.exit(int(report.verdict))
