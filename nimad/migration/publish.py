"""Publishing: a verified, synced and closed file gets the final name in one rename."""

import ctypes
import errno
import os
import shutil
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from nimad.config import command
from nimad.config.target_names import AGENT_NAME, GUIDE_NAME
from nimad.errors import CannotWriteError
from nimad.events.run import NotNamed, Published
from nimad.host.disk import is_closed, leads_to, pieces, relative, sync
from nimad.migration import batch_retry, name_conflicts
from nimad.migration.context import Context
from nimad.state.paths import Files, free_name, move_aside
from nimad.state.target_state import names_of, note, of_target
from nimad.worker.protocol import Task

#: What a file system without symbolic links says.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
#: By each of the usual names of a target, the other one.
_OTHER_NAMES = {AGENT_NAME: GUIDE_NAME, GUIDE_NAME: AGENT_NAME}
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


def close(context: Context) -> None:
    """See that nothing is left beside the staging file: engines before 0.18 leave a log on pages of 16 KiB."""
    if not is_closed(context.files.staging):
        batch_retry.attempt(context, batch_retry.same(context.job(Task.COUNT, writable=True)))


def publish(context: Context) -> None:
    """Give the staging file the target's name. What stood there, with `--replace`, becomes a dated backup."""
    files = context.files
    if not is_closed(files.staging):
        raise CannotWriteError(f"{files.staging} was not closed cleanly; run again")
    sync(files.staging)
    before = names_of(context.state.replaces)
    if context.settings.replaces:
        name_conflicts.set_aside(context)
    else:
        name_conflicts.give_way(context)  # one may have come during the run
    remove_links(files, before)
    backup = _make_room(files, before, replace=context.settings.replaces)
    if backup is not None and files.target.exists() and files.target.samefile(backup):
        files.staging.replace(files.target)
    else:
        rename_new(files.staging, files.target)
    tidy(files)
    link(context)
    sync(files.target.parent)
    size = files.target.stat().st_size
    context.listener(Published(str(files.target), size, str(backup) if backup else None))


def check_links(context: Context, but: Collection[Path] = ()) -> None:
    """Raise when something else than our own link stands at a further name of the target, but for what gives way."""
    links = [path for path in context.files.links if path not in but]
    for path in links:
        _check_hides_none(context, path)
        is_free = not os.path.lexists(path) or context.files.is_link(path) or _leads_nowhere(path)
        if not is_free and not context.settings.replaces:
            raise in_the_way(path, f"it is no link to {context.files.target.name}")


def _check_hides_none(context: Context, path: Path) -> None:
    """Raise where a name belongs to another target of nimad's: what the agent wrote to that one would be out of sight.

    It leads there, or did: the link may have been removed, or the file system may have none.
    """
    if path.is_symlink() and not context.files.is_link(path):
        if _leads_nowhere(path):
            return
        there, what = path.resolve(), f"{path} leads to {path.resolve()}, a target"
    else:
        there = path.with_name(_OTHER_NAMES.get(path.name, path.name))
        what = f"{there} is a target"
        if there.is_symlink() or not there.is_file() or _is_one_of(there, [context.files.target, path]):
            return
    if not of_target(Files(there)):
        return
    back = command.line("rollback", "--apply", "--source", context.settings.source, "--target", there)
    raise CannotWriteError(
        f"{what} that the agent may have written to, and {context.files.target} would take "
        f"its place; name that one, or go back to SQLite first, with: {back}"
    )


def _leads_nowhere(path: Path) -> bool:
    """Whether this is a link to a usual name in its own folder, where nothing is: the target was moved elsewhere.

    A link to another folder may lead to a disk that is away.
    """
    return not path.exists() and leads_to(path, path.with_name(_OTHER_NAMES.get(path.name, path.name)))


def _is_one_of(path: Path, others: Collection[Path]) -> bool:
    return any(other.exists() and path.samefile(other) for other in others)


def link(context: Context, before: Sequence[str] = ()) -> list[str]:
    """Make the further names of the target, and remove those that are no longer asked for; return those made.

    Relative links, so that the folder can move. Where one cannot be made, that is told: the target is complete. Of a
    file system that has none, it is told once.
    """
    files, made, told = context.files, [], of_target(context.files)
    for name in before:
        if name not in files.also and files.is_link(files.named(name)):
            files.named(name).unlink()
    for path in files.links:
        if _leads_nowhere(path) and not files.is_link(path):
            path.unlink()
        if os.path.lexists(path):
            continue
        try:
            path.symlink_to(relative(files.target, path.parent))
            sync(path.parent)
        except OSError as error:
            context.state.without_links |= error.errno in _NO_LINKS
            if not (error.errno in _NO_LINKS and told.get("without_links")):
                context.listener(NotNamed(str(path), str(files.target), str(error.strerror)))
        else:
            made.append(str(path))
    if told and context.state.without_links != told.get("without_links", False):
        note(files, told, {"without_links": context.state.without_links})
    sync(files.target.parent)
    return made


def remove_links(files: Files, names: Sequence[str]) -> None:
    """Remove our links at these further names of the target, and at those that are asked for."""
    for path in (*files.links, *map(files.named, names)):
        if files.is_link(path):
            path.unlink()


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
        if os.path.lexists(path) and not replace and not _leads_nowhere(path):
            raise in_the_way(path, "it appeared during the run")
    backup = files.backup(time.time())
    for path in dict.fromkeys([*files.links, *map(files.named, before)]):
        _clear(path, files.target, backup)
    if not files.ledger.exists():  # else it gives way to that, and tells until then of the target that is there
        files.followed.unlink(missing_ok=True)
    if not any(os.path.lexists(piece) for piece in (*pieces(files.target), files.quarantine, files.conflicts)):
        return None
    if not _named_twice(files.target, backup):
        move_aside(files.target, backup)
    files.move_belongings(backup)
    return backup


def _named_twice(target: Path, backup: Path) -> bool:
    """Give a target the backup's name as well, so that its own is never gone; whether that could be done.

    Not where the engine left something beside it, which goes with the file.
    """
    if target.is_symlink() or not target.is_file() or any(os.path.lexists(piece) for piece in pieces(target)[1:]):
        return False
    try:
        os.link(target, backup)
    except OSError:  # a file system without
        return False
    sync(backup.parent)
    return True


def _clear(path: Path, target: Path, backup: Path) -> None:
    """Make room at a further name, with what the engine left beside it: a log stands by the name it was opened by."""
    aside = path.with_name(backup.name.replace(target.name, path.name, 1))
    if os.path.lexists(path):
        move_aside(path, free_name(aside))
        return
    for piece, own, kept, other in zip(pieces(path), pieces(target), pieces(backup), pieces(aside), strict=True):
        if os.path.lexists(piece):  # it belongs to the target that is to be the backup
            # Moved, because that name may be one on another file system.
            shutil.move(piece, free_name(other) if os.path.lexists(own) or os.path.lexists(kept) else kept)


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
