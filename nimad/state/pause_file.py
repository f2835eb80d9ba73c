"""The pause file beside the target: while it is there, a run starts no further worker."""

import os
from contextlib import suppress

from nimad.config import command
from nimad.events.run import Paused
from nimad.host import rights
from nimad.state.paths import Files, check_folder


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
