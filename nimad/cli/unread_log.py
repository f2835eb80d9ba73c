"""What commands say that read a target alone: that a program left a log by another name of it."""

import sys

from nimad.config import Settings
from nimad.errors import ExitCode
from nimad.report.log.sinks import say_error
from nimad.state import names
from nimad.state.paths import Files


def say_unread(settings: Settings) -> None:
    """Say it, and exit with 1, where what was shown may lack something."""
    said = names.unread(Files.of(settings))
    for line in said:
        say_error(line)
    if said:
        sys.exit(int(ExitCode.QUARANTINED))
