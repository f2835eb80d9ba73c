"""Conflicts at the names of a target, resolved before anything else is done with it.

What gives way, because nothing is lost with it, becomes a dated backup: an empty target, as a recall by hand makes one
where there is none, which would hide the memory; and a copy of the target at another of its names, as programs make one
that copy a folder and follow its links. And a target that somebody moved to another of its names gets its own again,
because what is noted of it stands by that one.
"""

import filecmp
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nimad.errors import RefusedError
from nimad.events.run import GaveWay, NotBroughtAlong, PutBack
from nimad.host.disk import FileKind, is_closed, is_hollow, kind_of, leads_to, sync
from nimad.migration import batch_retry
from nimad.migration.context import Context
from nimad.state import target_state
from nimad.state.names import names_of, other_logs
from nimad.state.paths import Files, free_name, held, move_aside
from nimad.worker.protocol import Task


def give_way(context: Context) -> None:
    """Give each such file the name of a dated backup, unless somebody writes to it meanwhile."""
    for path in (context.files.target, *context.files.links):
        if not _is_engines(path):
            continue
        before = target_state.stamps_of(path)
        why = _why(context, path)
        if not why:
            continue
        with held(path):
            if target_state.stamps_of(path) != before:
                continue
            backup = free_name(path.with_name(Files(path).backup(time.time()).name))
            move_aside(path, backup)
        sync(path.parent)
        context.listener(GaveWay(str(path), why, str(backup)))


def set_aside(context: Context) -> None:
    """Keep what is no link at a further name as a dated backup, and say so: nothing of it is brought along."""
    target = context.files.target
    for path in context.files.links:
        if not _is_engines(path) or _why(context, path):
            continue
        backup = free_name(path.with_name(Files(path).backup(time.time()).name))
        move_aside(path, backup)
        sync(path.parent)
        context.listener(NotBroughtAlong(str(path), f"it was no link to {target}, and is kept as {backup}"))


def put_back(context: Context) -> None:
    """Give a target that stands by another of its names its own again, unless somebody has it open."""
    files, made = context.files, target_state.of_target(context.files)
    moved = next((name for name in names_of(files, made)[1:] if made and _is_moved(files, name, made)), None)
    if moved is None:
        return
    with held(moved):
        if not is_closed(moved):
            raise RefusedError(f"{moved} was not closed by the program that wrote to it; let that open and close it")
        files.target.unlink(missing_ok=True)  # a link to it
        moved.rename(files.target)
    sync(files.target.parent)
    context.listener(PutBack(str(files.target), str(moved)))


def _is_moved(files: Files, name: Path, made: Mapping[str, Any]) -> bool:
    """Whether the very file that a run made stands there, and nothing but a link to it at its own name."""
    is_free = not os.path.lexists(files.target) or leads_to(files.target, name)
    return (
        is_free and name.parent == files.target.parent and _is_engines(name) and target_state.is_of(Files(name), made)
    )


def found(context: Context) -> list[Path]:
    """The files that would give way."""
    names = (context.files.target, *context.files.links)
    return [path for path in names if _is_engines(path) and _why(context, path)]


def _is_engines(path: Path) -> bool:
    """Whether this is a file of the engine's by a name of its own, and not by a link."""
    try:
        return path.is_file() and not path.is_symlink() and kind_of(path) is FileKind.LADYBUG
    except OSError:  # closed to us: then it is in the way like any other
        return False


def _why(context: Context, path: Path) -> str:
    """Why nothing would be lost with a file; empty where something might."""
    files = context.files
    if _is_ours(Files(path)) or (path == files.target and other_logs(files)):
        return ""
    if path != files.target and _is_copy(path, files.target):
        return f"was a copy of {files.target}"
    return "was an empty LadybugDB file" if _is_empty(context, path) else ""


def _is_copy(path: Path, target: Path) -> bool:
    if (
        not target.is_file()
        or is_hollow(target)
        or path.samefile(target)
        or not is_closed(path)
        or not is_closed(target)
    ):
        return False
    return path.stat().st_size == target.stat().st_size and filecmp.cmp(path, target, shallow=False)


def _is_ours(files: Files) -> bool:
    """Whether a run of ours made the file, as the target that it is: it may be that of an empty memory."""
    made = target_state.of_target(files)
    return bool(made) and target_state.is_of(files, made)


def _is_empty(context: Context, path: Path) -> bool:
    """Whether a worker that read all its tables found no row in any of them."""
    answer = batch_retry.quietly(context, context.job(Task.HAS_ROWS, target=str(path), schema=None))
    return answer.ok and answer.facts["rows"] == 0
