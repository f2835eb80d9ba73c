"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def file_option(name: str, text: str) -> Callable[[Any], Any]:
    # readable=False: whether a file can be read is for the run to say, with an exit code of its own.
    return click.option(name, type=click.Path(path_type=Path, readable=False), metavar="FILE", help=text)
