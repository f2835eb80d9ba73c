"""A pause: a file beside the target. While it stands, a run holds before its next worker; it outlasts a restart."""

import os
from contextlib import suppress

from nimad import command, rights
from nimad.migration.child import Workers
from nimad.migration.events import Listener, Paused, Resumed
from nimad.migration.files import Files, check_folder

#: Seconds between looks at whether a pause is over.
_POLL_S = 1.0


def is_paused(files: Files) -> bool:
    return os.path.lexists(files.paused)


def pause(files: Files) -> bool:
    """Make the file; whether it was not there. Raises when none can be made there."""
    check_folder(files.target)
    rights.check_own(files.target)
    try:
        os.close(os.open(files.paused, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    except FileExistsError:
        return False
    return True


def resume(files: Files) -> bool:
    """Take the file away; whether it was there."""
    if not is_paused(files):
        return False
    rights.check_own(files.target)
    with suppress(FileNotFoundError):
        files.paused.unlink()
    return True


def paused(files: Files) -> Paused:
    """What to tell of a pause."""
    return Paused(command.line("resume", "--target", files.target))


def hold(files: Files, workers: Workers, listener: Listener) -> None:
    """Wait for as long as a pause lasts. Raises `StoppedError` when a stop is asked for meanwhile."""
    if not is_paused(files):
        return
    workers.rest()
    listener(paused(files))
    while is_paused(files):
        workers.pause(_POLL_S)
    listener(Resumed())
    workers.prepare()
