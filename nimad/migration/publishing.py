"""Publishing: the final name appears by one rename of a verified, synced, closed file."""

import ctypes
import errno
import os
import time
from pathlib import Path

from nimad.errors import CannotWriteError
from nimad.migration.context import Context
from nimad.migration.events import Published
from nimad.migration.files import ENGINE_SUFFIXES, Files, move_aside, sync_folder

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


def publish(context: Context) -> None:
    """Give the staging file the target's name. What stood there, with `--replace`, becomes a dated backup."""
    files = context.files
    _check_closed(files)
    _sync_file(files.staging)
    backup = _make_room(files, replace=context.settings.replace)
    rename_new(files.staging, files.target)
    sync_folder(files.target.parent)
    files.ledger.unlink(missing_ok=True)
    size = files.target.stat().st_size
    context.listener(Published(str(files.target), size, str(backup) if backup else None))


def _check_closed(files: Files) -> None:
    for suffix in ENGINE_SUFFIXES:
        piece = files.staging.with_name(files.staging.name + suffix)
        if piece.exists() and piece.stat().st_size:
            raise CannotWriteError(f"{piece} is still there, so the file was not closed cleanly; run again")
        piece.unlink(missing_ok=True)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_room(files: Files, *, replace: bool) -> Path | None:
    """Move what stands at the final name to a dated backup. A stray `.wal` there would be replayed into our file."""
    pieces = [files.target.with_name(files.target.name + suffix) for suffix in ("", *ENGINE_SUFFIXES)]
    if not any(os.path.lexists(piece) for piece in pieces):
        return None
    if os.path.lexists(files.target) and not replace:
        raise in_the_way(files.target, "it appeared during the run")
    backup = files.backup(time.time())
    move_aside(files.target, backup)
    return backup


def in_the_way(target: Path, why: str) -> CannotWriteError:
    return CannotWriteError(
        f"{target} is in the way ({why}); keep it as a dated backup and go on with --replace, "
        "or choose another name with --target"
    )


def rename_new(old: Path, new: Path) -> None:
    """Rename, but never onto something: another program may have made the name a moment ago."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        if libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), _RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code == errno.EEXIST:
            raise in_the_way(new, "it appeared during the run")
        if code not in (errno.EINVAL, errno.ENOSYS):  # what a file system without this flag says
            raise CannotWriteError(f"{old} cannot be renamed to {new} ({os.strerror(code)})")
    if os.path.lexists(new):
        raise in_the_way(new, "it appeared during the run")
    old.rename(new)
