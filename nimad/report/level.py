"""The level of a log line."""

from collections.abc import Iterator
from enum import StrEnum


class Level(StrEnum):
    """How much a line matters, as it stands in the log."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


Lines = Iterator[tuple[Level, str]]
