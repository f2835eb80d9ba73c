"""The command `nimad`."""

import sys

import click

from nimad import __version__
from nimad.cli.migrate import migrate
from nimad.cli.sample import sample
from nimad.cli.search import search
from nimad.errors import NimadError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nimad")
def cli() -> None:
    """Move an AI agent's NIMA memory from SQLite into LadybugDB, and lose nothing."""


cli.add_command(migrate)
cli.add_command(sample)
cli.add_command(search)


def main() -> None:
    """Run the command line; an error that a user can cause is one line, never a traceback."""
    try:
        cli()
    except NimadError as error:
        click.echo(f"nimad: {error}", err=True)
        sys.exit(int(error.exit_code))
