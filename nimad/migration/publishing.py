"""Publishing: the final name appears by one rename of a verified, synced, closed file."""

import ctypes
import errno
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nimad import command
from nimad.disk import is_closed, pieces, sync
from nimad.errors import CannotWriteError, RefusedError
from nimad.migration import retry
from nimad.migration.context import Context
from nimad.migration.events import Published
from nimad.migration.files import Files, free_name, move_aside
from nimad.migration.state import is_untouched, names_of
from nimad.worker.job import Task

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


def close(context: Context) -> None:
    """See that nothing is left beside the staging file: engines before 0.18 leave a log on pages of 16 KiB."""
    if not is_closed(context.files.staging):
        retry.attempt(context, retry.same(context.job(Task.COUNT, writable=True)))


def publish(context: Context) -> None:
    """Give the staging file the target's name. What stood there, with `--replace`, becomes a dated backup."""
    files = context.files
    if not is_closed(files.staging):
        raise CannotWriteError(f"{files.staging} was not closed cleanly; run again")
    sync(files.staging)
    if context.settings.retry and not context.settings.replace and files.target.exists():
        check_untouched(context, context.state.replaces)
    before = names_of(context.state.replaces)
    remove_links(files, before)
    backup = _make_room(files, before, replace=context.settings.replaces)
    rename_new(files.staging, files.target)
    tidy(files)
    link(files)
    sync(files.target.parent)
    size = files.target.stat().st_size
    context.listener(Published(str(files.target), size, str(backup) if backup else None))


def check_links(context: Context) -> None:
    """Raise when something else than our own link stands at a further name of the target."""
    for path in context.files.links:
        if os.path.lexists(path) and not context.files.is_link(path) and not context.settings.replaces:
            raise in_the_way(path, f"it is no link to {context.files.target.name}")


def check_names_closed(files: Files, before: Sequence[str]) -> None:
    """Raise when a program that wrote by a further name left its log there: it stands by that name alone."""
    for path in dict.fromkeys([*files.links, *(files.target.with_name(name) for name in before)]):
        if not is_closed(path):
            raise RefusedError(
                f"a program wrote to {files.target} by the name {path} and did not close it; let it open and close "
                "that once more, then run again"
            )


def link(files: Files, before: Sequence[str] = ()) -> None:
    """Make the further names of the target, and remove those that are no longer asked for."""
    remove_links(files, [name for name in before if name not in files.also])
    for path in files.links:
        if not os.path.lexists(path):
            path.symlink_to(files.target.name)
    if files.also or before:
        sync(files.target.parent)


def remove_links(files: Files, names: Sequence[str]) -> None:
    """Remove our links at these further names of the target, and at those that are asked for."""
    for path in (*files.links, *(files.target.with_name(name) for name in names)):
        if files.is_link(path):
            path.unlink()


def check_untouched(context: Context, made: Mapping[str, Any]) -> None:
    """Raise `RefusedError` when somebody wrote to the target since the run that `made` it."""
    files = context.files
    names = [files.target.with_name(name) for name in names_of(made)]
    if not is_untouched(files.target, made) or not all(is_closed(name) for name in names):
        raise RefusedError(
            f"{files.target} was written to since it was made, and a new one would not have that; once you are sure, "
            f"make it all the same with: {command.migrate(context.settings, '--replace')}"
        )


def tidy(files: Files) -> None:
    """What follows the rename; done by the next run when this one was killed in between."""
    if files.quarantining.exists():
        files.quarantining.replace(files.quarantine)
    if files.ledger.exists():
        files.ledger.replace(files.followed)
    for piece in pieces(files.staging)[1:]:
        piece.unlink(missing_ok=True)  # empty, or the file would not have counted as closed


def _make_room(files: Files, before: Sequence[str], *, replace: bool) -> Path | None:
    """Move what stands at the final name to a dated backup. A stray `.wal` there would be replayed into our file."""
    for path in (files.target, *files.links):
        if os.path.lexists(path) and not replace:
            raise in_the_way(path, "it appeared during the run")
    backup = files.backup(time.time())
    for path in dict.fromkeys([*files.links, *(files.target.with_name(name) for name in before)]):
        _clear(path, files.target, backup)
    files.followed.unlink(missing_ok=True)  # nothing arrives in a backup, and no other target is what it tells of
    if not any(os.path.lexists(piece) for piece in (*pieces(files.target), files.quarantine)):
        return None
    move_aside(files.target, backup)
    if files.quarantine.exists():
        files.quarantine.rename(backup.with_name(backup.name + ".quarantine.jsonl"))
    return backup


def _clear(path: Path, target: Path, backup: Path) -> None:
    """Make room at a further name, with what the engine left beside it: a log stands by the name it was opened by."""
    aside = backup.with_name(backup.name.replace(target.name, path.name, 1))
    if os.path.lexists(path):
        move_aside(path, free_name(aside))
        return
    for piece, own, kept, other in zip(pieces(path), pieces(target), pieces(backup), pieces(aside), strict=True):
        if os.path.lexists(piece):  # it belongs to the target that is to be the backup
            piece.rename(free_name(other) if os.path.lexists(own) or os.path.lexists(kept) else kept)


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
