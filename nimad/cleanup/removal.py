"""Removal of leftovers older than a given age, but never of the last copy of a memory.

A backup of a target goes only after its rows were held against SQLite: the agent may have written to it before another
took its place, and then it may hold what is nowhere else.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from nimad.cleanup.leftovers import Leftover, LeftoverKind, leftovers
from nimad.compare import comparison
from nimad.config import Settings
from nimad.errors import NimadError, NotAllowedError
from nimad.host import rights
from nimad.host.disk import sync
from nimad.plural import number_of
from nimad.state.paths import Files, check_folder, check_names, locked
from nimad.worker.protocol import Task

DAY_S = 86_400.0
#: Days that leftovers stay when nobody says otherwise.
DAYS = 30.0


@dataclass(frozen=True)
class Cleaning:
    """What is to go, or went, and what stays."""

    source: Path
    target: Path
    days: float
    going: tuple[Leftover, ...]
    staying: tuple[Leftover, ...]
    newest: bool = False
    applied: bool = False


def plan_cleanup(settings: Settings, days: float = DAYS, *, newest: bool = False) -> Cleaning:
    """What would be removed. Changes nothing."""
    found = [_old_enough(each, days) for each in leftovers(settings, newest=newest)]
    found = [_without_memories(settings, each) for each in found]
    going = tuple(each for each in found if each.may_go)
    staying = tuple(each for each in found if not each.may_go)
    return Cleaning(settings.source, settings.target, days, going, staying, newest)


def remove_leftovers(settings: Settings, days: float = DAYS, *, newest: bool = False) -> Cleaning:
    """Remove it. Raises `LockedError` while a run works on the target."""
    files = Files.of(settings)
    owner = settings.source if settings.source.exists() else files.target.parent
    check_folder(files.target)
    rights.check_own(settings.source, files.target)
    check_names(files, owner, settings.log_file)
    with locked(files):
        found = plan_cleanup(settings, days, newest=newest)
        for folder in {folder for each in found.going for folder in _removed(each)}:
            sync(folder)
    return replace(found, applied=True)


def _removed(each: Leftover) -> Iterator[Path]:
    """Remove a leftover, its main file last; the folders that it was in."""
    for path in reversed(each.pieces):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except PermissionError as error:
            owner = rights.name_of(path.lstat().st_uid) if os.path.lexists(path) else "its owner"
            raise NotAllowedError(
                f"{path} may not be removed by this user ({error.strerror}); run as {owner}"
            ) from None
        yield path.parent


def _old_enough(each: Leftover, days: float) -> Leftover:
    if not each.may_go or each.age_s >= days * DAY_S:
        return each
    return replace(each, may_go=False, reason=f"not older than {days:g} days")


def _without_memories(settings: Settings, each: Leftover) -> Leftover:
    """A backup of a target, once it is known whether SQLite has all that it holds."""
    if not each.may_go or each.kind is not LeftoverKind.BACKUP or not each.path.exists():
        return each
    if not each.path.is_file():  # what an engine of former times made, maybe, or somebody's own
        return replace(each, may_go=False, reason="it is a folder, and what it holds cannot be told")
    try:
        more = _more_than_sqlite(settings, each.path)
    except NimadError as error:
        return replace(each, may_go=False, reason=f"whether SQLite has all that it holds cannot be told ({error})")
    if not more:
        return replace(each, reason="SQLite has all that it holds")
    what = f"{number_of(more, 'row')}, or parts of rows, that SQLite lacks or has otherwise"
    return replace(each, may_go=False, reason=f"it holds {what}")


def _more_than_sqlite(settings: Settings, backup: Path) -> int:
    """How many rows, or values, a rollback of a backup would carry back, or keep."""
    job = replace(comparison.job_of(settings, Files(backup), {}, every=True), task=Task.EXPORT_ROLLBACK)
    facts = comparison.ask_alone(settings, job, threading.Event()).facts
    return sum(listed["count"] for name in ("added", "changed", "kept") for listed in facts[name].values())
