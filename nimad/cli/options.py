"""Options that several commands share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from nimad.config.settings import ENGINES, PRIORITIES, VECTOR_INDEXES

_Decorator = Callable[[Any], Any]


def file_option(name: str, text: str) -> _Decorator:
    # readable=False: whether a file can be read is for the run to say, with an exit code of its own.
    return click.option(name, type=click.Path(path_type=Path, readable=False), metavar="FILE", help=text)


def run_options(command: Any) -> Any:
    """What every command that runs a migration takes: on which machine and as whom, but not which memory, nor how."""
    for option in reversed(_RUN_OPTIONS):
        command = option(command)
    return command


_RUN_OPTIONS: Sequence[_Decorator] = (
    click.option(
        "--max-set-aside",
        metavar="N|P%",
        help="Publish nothing where more memories than these would be set aside whole.  [default: 50%]",
    ),
    click.option("--max-memory", metavar="SIZE", help="Memory to plan with, as 512M.  [default: what is free]"),
    click.option(
        "--priority", type=click.Choice(PRIORITIES), help="low: what other programs leave.  [default: normal]"
    ),
    click.option("--force", is_flag=True, default=None, help="Begin although there is too little memory for any plan."),
    click.option(
        "--engine", type=click.Choice(ENGINES), help="Package that writes.  [default: what every reader opens]"
    ),
    file_option("--engine-python", "Interpreter whose engine writes.  [default: this one, or a reader's]"),
    file_option("--reader-python", "Interpreter of the agent, or 'none'.  [default: looked for]"),
    click.option(
        "--also",
        multiple=True,
        metavar="NAME",
        callback=lambda _, __, names: names or None,
        help="A further name of the target, as a link, besides the usual two.",
    ),
    click.option("--vector-index", type=click.Choice(VECTOR_INDEXES), help="Make one where possible.  [default: auto]"),
    file_option("--vector-extension", "The engine's VECTOR extension.  [default: where the engine installs it]"),
    click.option("--json", "as_json", is_flag=True, help="Events as JSON lines on stdout."),
    file_option("--config", "Settings file.  [default: /etc/nima/nimad.toml, if there is one]"),
    click.option("--log-level", help="DEBUG, INFO, WARN or ERROR.  [default: INFO]"),
    click.option(
        "--user", metavar="NAME", help="As root: run as this user (name or number), before any file is opened."
    ),
)
