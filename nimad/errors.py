"""Errors that a user can act on.

Each error carries the exit code that a program calling ``nimad`` sees, and a message of one line: what
happened, to which file or row, and what to do next.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """What the process says when it ends. The numbers from 64 up are those of ``sysexits.h``."""

    COMPLETE = 0
    QUARANTINED = 1  # complete except for quarantined or unmatched rows
    USAGE = 2
    ENGINE = 69
    INTERNAL = 70  # a bug of ours
    CANNOT_WRITE = 73
    IO_ERROR = 74
    INTERRUPTED = 75  # run again to go on
    DIFFERENCE = 76
    NOT_ALLOWED = 77
    CONFIGURATION = 78


#: What each code tells its reader, in the order in which they are explained; the documentation is made from this.
MEANINGS: Final[Mapping[ExitCode, str]] = {
    ExitCode.COMPLETE: "complete, or nothing to do",
    ExitCode.QUARANTINED: "complete, now or before, but rows or parts of rows are in quarantine, or cannot be read",
    ExitCode.USAGE: "the command line, or the file it names, cannot be what was meant",
    ExitCode.ENGINE: "the engine is missing or is the wrong one, or the agent's own could not open the result",
    ExitCode.INTERNAL: "a bug of nimad, with its traceback",
    ExitCode.CANNOT_WRITE: "cannot write: no folder, too little room to begin, another file in the way",
    ExitCode.IO_ERROR: (
        "nothing of the source can be read, the disk failed, or was full in the middle: make room and run again"
    ),
    ExitCode.INTERRUPTED: (
        "interrupted or stopped, or too little memory: the last line says what to do, mostly to run it again"
    ),
    ExitCode.DIFFERENCE: "verification found a difference; a run has published nothing",
    ExitCode.NOT_ALLOWED: "not allowed: a file is closed to this user; run it as its owner",
    ExitCode.CONFIGURATION: "a configuration file is malformed",
}


class NimadError(Exception):
    """A failure with a message for the user and an exit code for the program that called."""

    exit_code: ExitCode = ExitCode.IO_ERROR


#: Limits of the process that look like faults of the disk: by the system's words, what to raise.
_LIMITS: Final[Mapping[str, str]] = {
    "File too large": (
        "a file has reached the size that this process may write (ulimit -f), or that the file system has files of; "
        "raise the limit with: ulimit -f unlimited (in a service: LimitFSIZE=infinity), then run again"
    ),
    "Too many open files": (
        "this process may open no more files (ulimit -n); raise the limit with: ulimit -n 1024 (in a service: "
        "LimitNOFILE=1024), then run again"
    ),
}


def limit_reached(message: str) -> str:
    """What to do about a limit of the process that the system names; empty for any other message."""
    return next((remedy for words, remedy in _LIMITS.items() if words in message), "")


class UsageError(NimadError):
    """The command line, or a file it names, cannot be what was meant."""

    exit_code = ExitCode.USAGE


class ConfigurationError(NimadError):
    """A configuration file is malformed or holds a value that cannot be."""

    exit_code = ExitCode.CONFIGURATION


class SourceError(NimadError):
    """The SQLite file cannot be read as a NIMA memory."""

    exit_code = ExitCode.USAGE


class SourceDamagedError(SourceError):
    """The SQLite file is truncated or malformed."""

    exit_code = ExitCode.IO_ERROR


class SourceLogError(SourceError):
    """The write-ahead log beside the SQLite file is of another state of it."""

    exit_code = ExitCode.IO_ERROR


class SourceBusyError(SourceError):
    """Another program holds the SQLite file; later it may be free."""

    exit_code = ExitCode.INTERRUPTED


class NotAllowedError(NimadError):
    """The operating system refuses access."""

    exit_code = ExitCode.NOT_ALLOWED


class CannotWriteError(NimadError):
    """The target cannot be made where it should stand."""

    exit_code = ExitCode.CANNOT_WRITE


class DiskError(NimadError):
    """The disk is full or failing; made from what happened, it adds what to do."""

    exit_code = ExitCode.IO_ERROR

    def __init__(self, what: str) -> None:
        remedy = limit_reached(what) or "make room or repair the disk, then run again"
        super().__init__(f"{what}; {remedy}: what was counted is kept")


class EngineError(NimadError):
    """LadybugDB is missing, is another package of the same name, or has a version outside the range."""

    exit_code = ExitCode.ENGINE


class StoppedError(NimadError):
    """The run ended before it was complete; everything counted so far is kept."""

    exit_code = ExitCode.INTERRUPTED


class RefusedError(StoppedError):
    """The run would stop at the same place again: something else has to change first."""


class LockedError(RefusedError):
    """Another run works on the same target; once it has ended, this one would go on."""


class BatchFailedError(StoppedError):
    """A batch failed in every attempt."""


class DifferenceError(NimadError):
    """Verification found that the target does not hold what the source holds."""

    exit_code = ExitCode.DIFFERENCE
