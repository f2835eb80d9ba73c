"""The command `nimad`."""

import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from nimad import __version__
from nimad.errors import ExitCode, NimadError, NotAllowedError, UsageError, limit_reached
from nimad.report.console import streams
from nimad.report.log.sinks import say_error, say_traceback

#: Each in a module of its own, by its own name. A command's help is its function's, and so needs the module too.
COMMANDS = {
    "clean": "clean",
    "config": "config",
    "doctor": "doctor",
    "health": "health",
    "index": "index",
    "migrate": "migrate",
    "pause": "pausing",
    "quarantine": "quarantine",
    "report": "report",
    "resume": "pausing",
    "rollback": "rollback",
    "run": "run",
    "sample": "sample",
    "search": "search",
    "setup": "setup",
    "status": "status",
    "verify": "verify",
}


class Commands(click.Group):
    """Imports a command when it is asked for: all of them take as long as a small migration's own work."""

    def list_commands(self, _: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"nimad.cli.{COMMANDS[name]}"), name)
        return command

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except NimadError as error:
            import_module("nimad.cli.settings").explain(error, context)
            raise


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nimad")
def cli() -> None:
    """Move an AI agent's NIMA memory from SQLite into LadybugDB, and lose nothing."""


def main() -> None:
    """Run the command line, whatever becomes of the terminal, and exit."""
    streams.names_in_utf_8()
    streams.prepare()
    sys.exit(streams.end(_run()))


def _run() -> int:
    """Return the exit code; an error that a user can cause is one line, never a traceback."""
    try:
        cli(standalone_mode=False)
    except SystemExit as end:
        return int(end.code or 0)
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return int(ExitCode.INTERRUPTED)
    except NimadError as error:
        say_error(str(error))
        return int(error.exit_code)
    except OSError as error:  # of a command that only looks; a run explains its own
        explained = _explained(error)
        say_error(str(explained))
        return int(explained.exit_code)
    except Exception:  # noqa: BLE001 - not to be taken for exit code 1, which says that the run is complete
        say_traceback(traceback.format_exc())
        say_error(f"this is a bug of nimad {__version__}; please report it with the lines above")
        return int(ExitCode.INTERNAL)
    return int(ExitCode.COMPLETE)


def _is_nowhere() -> bool:
    """Whether the folder that this was typed in was taken away, so that no name is relative to anything."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _explained(error: OSError) -> NimadError:
    if error.filename is not None and isinstance(error, PermissionError):
        return NotAllowedError(f"{error.filename} may not be opened by this user; run it as its owner")
    if isinstance(error, FileNotFoundError) and error.filename is None and _is_nowhere():
        return UsageError("the folder that this was typed in is gone; go to one that is there, as with: cd")
    message = f"{error.filename or 'the system refuses'}: {error.strerror or error}"
    limit = limit_reached(message)
    return NimadError(f"{message}; {limit}" if limit else message)
