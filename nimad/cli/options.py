"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def file_option(name: str, text: str) -> Callable[[Any], Any]:
    return click.option(name, type=click.Path(path_type=Path), metavar="FILE", help=text)
