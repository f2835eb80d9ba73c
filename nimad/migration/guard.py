"""Errors of a run that are not the migration's: a listener's own, and those of the file system."""

from nimad.config import Settings
from nimad.errors import (
    CannotWriteError,
    DiskError,
    NimadError,
    limit_reached,
)
from nimad.events import run
from nimad.events.run import Listener
from nimad.host.disk import DISK_ERRORS


class ListenerError(Exception):
    """An OSError of the listener's own, on its way through code that would take it for one of the disk."""

    def __init__(self, cause: OSError) -> None:
        self.cause = cause


def guarded(listener: Listener) -> Listener:
    def tell(event: run.Event) -> None:
        try:
            listener(event)
        except OSError as error:
            raise ListenerError(error) from error

    return tell


def explained(error: OSError, settings: Settings) -> NimadError:
    message = f"{error.filename or settings.target}: {error.strerror or error}"
    if error.errno in DISK_ERRORS:
        return DiskError(message)
    limit = limit_reached(message)
    return CannotWriteError(f"{message}; {limit}" if limit else message)


def ignore(_: run.Event) -> None:
    pass
