"""Command lines that messages suggest; each works when it is pasted."""

import os
import shlex
import sys
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nimad.config import Settings

_NAME = "nimad"
#: `-P`, or the folder in which the command is pasted is where Python looks for modules first, whoever filled it.
_AS_MODULE = (sys.executable, "-P", "-m", _NAME)


def line(*words: object) -> str:
    """The command line that calls this program with these words."""
    return shlex.join([*_program(), *map(str, words)])


def migrate(settings: "Settings", *more: str) -> str:
    """The command line that migrates what `settings` name, wherever their values come from."""
    config = [] if settings.config_file is None else ["--config", settings.config_file]
    return line("migrate", "--source", settings.source, "--target", settings.target, *config, *more)


def program() -> list[str]:
    """The words that start this program from anywhere and in any environment, as a service does."""
    called = Path(sys.argv[0])
    return [str(called.absolute())] if called.name == _NAME else [*_AS_MODULE]


def _program() -> list[str]:
    """The words that begin a command line, as this one began; from any folder, because the log keeps them."""
    called, found = Path(sys.argv[0]), which(_NAME)
    if called.name != _NAME:  # `python -m nimad`, or a program of somebody else's that imports us
        by_module = found is None or called.parent.name == _NAME
        return [*_AS_MODULE] if by_module else [_NAME]
    is_found = found is not None and os.path.realpath(found) == os.path.realpath(called)
    return [_NAME] if is_found else [str(called.absolute())]
