"""The command `nimad`."""

import sys
import traceback

import click

from nimad import __version__
from nimad.cli.clean import clean
from nimad.cli.config import config
from nimad.cli.doctor import doctor
from nimad.cli.health import health
from nimad.cli.index import index
from nimad.cli.migrate import migrate
from nimad.cli.pausing import pause, resume
from nimad.cli.quarantine import quarantine
from nimad.cli.report import report
from nimad.cli.rollback import rollback
from nimad.cli.run import run
from nimad.cli.sample import sample
from nimad.cli.search import search
from nimad.cli.setup import setup
from nimad.cli.status import status
from nimad.cli.verify import verify
from nimad.disk import DISK_ERRORS
from nimad.errors import ExitCode, NimadError, NotAllowedError
from nimad.report.console import forget_stdout
from nimad.report.log import say_error, say_traceback


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nimad")
def cli() -> None:
    """Move an AI agent's NIMA memory from SQLite into LadybugDB, and lose nothing."""


cli.add_command(clean)
cli.add_command(config)
cli.add_command(doctor)
cli.add_command(health)
cli.add_command(index)
cli.add_command(migrate)
cli.add_command(pause)
cli.add_command(quarantine)
cli.add_command(report)
cli.add_command(resume)
cli.add_command(rollback)
cli.add_command(run)
cli.add_command(sample)
cli.add_command(search)
cli.add_command(setup)
cli.add_command(status)
cli.add_command(verify)


def main() -> None:
    """Run the command line; an error that a user can cause is one line, never a traceback."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(int(ExitCode.INTERRUPTED))
    except NimadError as error:
        say_error(str(error))
        sys.exit(int(error.exit_code))
    except OSError as error:  # of a command that only looks; a run explains its own
        forget_stdout()  # what it still holds would fail again when it is closed
        explained = _explained(error)
        say_error(str(explained))
        sys.exit(int(explained.exit_code))
    except Exception:  # noqa: BLE001 - not to be taken for exit code 1, which says that the run is complete
        say_traceback(traceback.format_exc())
        say_error(f"this is a bug of nimad {__version__}; please report it with the lines above")
        sys.exit(int(ExitCode.INTERNAL))


def _explained(error: OSError) -> NimadError:
    if error.filename is None and error.errno in DISK_ERRORS:
        return NimadError(f"the output cannot be written ({error.strerror}); see where it goes")
    if error.filename is not None and isinstance(error, PermissionError):
        return NotAllowedError(f"{error.filename} may not be opened by this user; run it as its owner")
    return NimadError(f"{error.filename or 'the system refuses'}: {error.strerror or error}")
