"""The settings of a command, kept for its errors, and what is to be said of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from nimad import config
from nimad.config import Settings
from nimad.config.variables import explained
from nimad.errors import NimadError
from nimad.report.log.sinks import say_warning


def load(options: Mapping[str, Any], env: Mapping[str, str], config_file: Path | None = None) -> Settings:
    """Return the settings of the command under way, as `nimad.config.load`; say their notes once on stderr."""
    settings = config.load(options, env, config_file)
    root = click.get_current_context().find_root()
    before = root.obj.notes if isinstance(root.obj, Settings) else ()
    root.obj = settings
    for note in settings.notes:
        if note not in before:
            say_warning(note)
    return settings


def explain(error: NimadError, context: click.Context) -> None:
    """Have an error name the variable that the file it speaks of comes from."""
    if isinstance(context.obj, Settings):
        error.args = (explained(str(error), context.obj),)
