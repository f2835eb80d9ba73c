"""The rollback to SQLite, once SQLite holds everything that the target got.

Looking changes nothing. Applying writes to SQLite, in one transaction and after a backup (`rollback/writer.py`), has
another comparison find nothing more, and sets the target aside. Killed anywhere, it is done again from the beginning:
what SQLite has by then is not carried again.
"""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from nimad.compare import comparison
from nimad.config import Settings, read_openclaw
from nimad.errors import (
    CannotWriteError,
    DifferenceError,
    DiskError,
    ExitCode,
    NimadError,
    NotAllowedError,
    RefusedError,
    SourceBusyError,
    SourceDamagedError,
    UsageError,
)
from nimad.host import machine, rights
from nimad.host.disk import DISK_ERRORS, is_interrupted, name_stamp, sync
from nimad.migration import publish
from nimad.printable import said
from nimad.rollback.backup import back_up
from nimad.rollback.obstacles import obstacle
from nimad.rollback.writer import MemoryWriter, WrittenRows
from nimad.source import quick_check
from nimad.source.header import check_source
from nimad.source.schema import NODES
from nimad.source.sql import error_code
from nimad.source.sqlite_file import SourceFile
from nimad.state import names, pause_file, provenance, target_state
from nimad.state.paths import Files, check_folder, check_names, free_name, held, locked, move_aside
from nimad.supervisor import held_target
from nimad.supervisor.outcome import WorkerResult
from nimad.supervisor.worker_process import WorkerPool
from nimad.worker.compare.facts import Listed, TableCompared
from nimad.worker.protocol import Job, Task

#: How often it is begun again when somebody writes to SQLite meanwhile.
ROUNDS = 3
#: Bytes of room that a backup and a record take beside SQLite's own.
_ROOM = 16 * 1024**2

By = Mapping[str, Listed]


@dataclass(frozen=True)
class Rollback:
    """What a rollback would do, or did. By SQLite's tables; ids of what is added are the target's."""

    source: Path
    target: Path
    openclaw_file: Path
    added: By
    changed: By
    kept: By  # what SQLite has no place for, or another value that may be newer
    applied: bool = False
    renamed: int = 0  # rows that got another id in SQLite
    refused: tuple[tuple[str, int | None, str], ...] = ()  # rows that SQLite does not take
    unindexed: str = ""
    sqlite_backup: Path | None = None
    record: Path | None = None
    set_aside: Path | None = None
    before: str = ""  # when it was rolled back already
    holder: int | None = None  # the process that has the target open
    old_place: bool = False  # OpenClaw's file has the settings where OpenClaw refuses them by now
    obstacle: str = ""  # why SQLite would take no row, and the way out

    @property
    def writes(self) -> bool:
        """Whether SQLite lacks anything."""
        return bool(self.added or self.changed)

    @property
    def exit_code(self) -> ExitCode:
        """Of looking: whether everything has a place in SQLite."""
        return ExitCode.QUARANTINED if self.kept or self.refused or self.obstacle else ExitCode.COMPLETE

    @staticmethod
    def total(listed: By) -> int:
        return sum(each.count for each in listed.values())


def plan_rollback(settings: Settings, stop: threading.Event | None = None) -> Rollback:
    """What a rollback would carry back. Changes nothing, on neither side."""
    stop, files = stop or threading.Event(), Files.of(settings)
    if (before := _rolled_back(settings, files)) is not None:
        return before
    job = _checked(settings, files, stop)
    answer = comparison.ask_alone(settings, job, stop)
    _check_same_memory(settings, files, answer)
    found = _found(settings, answer)
    why = _obstacle(settings, job) if found.writes else ""
    return replace(found, holder=machine.holder_of(files.target), obstacle=why)


def apply_rollback(settings: Settings, stop: threading.Event | None = None) -> Rollback:
    """Carry back what SQLite lacks, see that it has everything, and set the target aside.

    Raises a `NimadError`; SQLite then is as it was, or holds all of it, and the target is where it was.
    """
    stop, files = stop or threading.Event(), Files.of(settings)
    if (before := _rolled_back(settings, files)) is not None:
        return before
    job = _checked(settings, files, stop)
    check_folder(files.target)
    _check_writable(settings.source)
    check_names(files, settings.source, settings.log_file)
    with locked(files), _paused(files):
        _recover(files, settings, stop)
        with held(files.target, readers=True):
            try:
                return _apply(settings, files, job, stop)
            except (sqlite3.Error, MemoryError) as error:
                raise _explained(error, settings.source) from error
            except OSError as error:
                raise _of_system(error, files) from error


def _recover(files: Files, settings: Settings, stop: threading.Event) -> None:
    """Have a target open for reading again where a program was killed in the middle of a checkpoint."""
    if is_interrupted(files.target):
        with WorkerPool(stop, launch=comparison.launch_of(settings)) as workers:
            held_target.replay(files.target, workers)


# Before anything is done


def _rolled_back(settings: Settings, files: Files) -> Rollback | None:
    """What an earlier rollback did, where the target is gone by it."""
    told = target_state.of_target(files).get("rolled_back")
    if not isinstance(told, dict) or os.path.lexists(files.target):
        return None
    aside = Path(str(told.get("target", "")))
    return replace(_nothing(settings), applied=True, before=str(told.get("at", "")), set_aside=aside)


def _nothing(settings: Settings) -> Rollback:
    openclaw = settings.openclaw_file
    return Rollback(settings.source, settings.target, openclaw, {}, {}, {}, old_place=_has_old_place(openclaw))


def _has_old_place(openclaw: Path) -> bool:
    try:
        return read_openclaw(openclaw).old_place
    except NimadError:  # what is to be written there is the same
        return False


def _checked(settings: Settings, files: Files, stop: threading.Event) -> Job:
    """The job of a comparison, once it is known that both sides are what they should be."""
    check_source(settings.source)
    rights.check_own(settings.source, files.target)
    comparison.check_there(files.target)
    if files.target.is_symlink():
        raise UsageError(f"{files.target} is another name of {files.target.resolve()}; name that one with --target")
    made, maker = comparison.made_of(settings, files, stop)
    if maker:
        raise UsageError(f"{files.target} was made from {maker}, not {settings.source}; name that one with --source")
    names.check_names_closed(files, target_state.names_of(made))
    job = replace(comparison.job_of(settings, files, made, every=True), task=Task.EXPORT_ROLLBACK)
    source = SourceFile(settings.source)
    if damage := [*quick_check.damage(source, job.needs()), *quick_check.unclaimed(source)]:
        raise SourceDamagedError(
            f"{settings.source} is damaged ({damage[0]}), and nothing is written to it; restore a backup of it, or "
            f"stay with {files.target}"
        )
    return job


def _obstacle(settings: Settings, job: Job) -> str:
    source, target = settings.source, settings.target
    return SourceFile(source).read(lambda connection: obstacle(connection, source, target, job.needs()))


def _check_same_memory(settings: Settings, files: Files, answer: WorkerResult) -> None:
    """Raise when the two are different memories, and nothing tells that one was made from the other."""
    if target_state.of_target(files):
        return
    nodes = TableCompared.from_json(answer.facts["tables"][NODES])
    paired = nodes.same + nodes.differing.count + nodes.since_here.count + nodes.since_there.count
    if 2 * paired < min(nodes.rows, nodes.there) or not nodes.rows:
        raise RefusedError(
            f"of the {nodes.there} memories of {files.target}, {paired} are among the {nodes.rows} of "
            f"{settings.source}, so one of them is another agent's; name the right ones with --source and --target"
        )


def _check_writable(source: Path) -> None:
    for path in (source, source.parent):
        if not os.access(path, os.W_OK, effective_ids=True) and os.geteuid():
            raise NotAllowedError(f"{path} may not be written to by this user; run as its owner")
    if os.statvfs(source).f_flag & os.ST_RDONLY:
        raise CannotWriteError(f"{source} is on a file system that is read-only; make it writable, then run again")
    needed, free = SourceFile(source).size() + _ROOM, machine.free_disk(source.parent)
    if free < needed:
        raise CannotWriteError(
            f"{source.parent} has {free / 10**6:.0f} MB free, and a backup of SQLite needs {needed / 10**6:.0f} MB; "
            "make room, then run again"
        )


@contextmanager
def _paused(files: Files) -> Iterator[None]:
    """No service is to go on with the target, or to make a new one. It stays paused, unless nothing was done."""
    new = pause_file.pause(files)
    try:
        yield
    except BaseException:
        if new:
            pause_file.resume(files)
        raise


# Doing it


def _apply(settings: Settings, files: Files, job: Job, stop: threading.Event) -> Rollback:
    launch = comparison.launch_of(settings)
    with WorkerPool(stop, launch=launch) as workers:
        found = _carried_back(settings, files, job, workers)
    with WorkerPool(stop, launch=launch) as workers:
        _look_again(found, comparison.ask(job, workers, launch))
    return replace(found, applied=True, set_aside=_set_aside(files))


def _carried_back(settings: Settings, files: Files, job: Job, workers: WorkerPool) -> Rollback:
    """Have SQLite hold what it lacks. Raises `RefusedError` where it lacks anything and would take no row."""
    if why := _obstacle(settings, job):  # which may keep the file from being opened for writing at all
        record = files.record(time.time())
        found = _recorded(settings, files, job, record, workers)
        if not found.writes:
            return found
        _discard(record, None)
        raise RefusedError(why)
    with closing(MemoryWriter(settings.source, job.needs())) as memory:
        for _ in range(ROUNDS):
            memory.changed()
            record = files.record(time.time())
            found = _recorded(settings, files, job, record, workers)
            if not found.writes:
                return found
            found = replace(found, sqlite_backup=_backed_up(settings.source, memory))
            written = _written(memory, record)
            if written is not None:
                return _with(found, written)
            _discard(record, found.sqlite_backup)
    raise SourceBusyError(f"{settings.source} is being written to all the while; stop the agent and run again")


def _recorded(settings: Settings, files: Files, job: Job, record: Path, workers: WorkerPool) -> Rollback:
    """Have what SQLite lacks written to the record, which gets its name where it says anything."""
    temporary = record.with_name(f"{record.name}.tmp")
    try:
        answer = comparison.ask(replace(job, copy_to=str(temporary)), workers, comparison.launch_of(settings))
        _check_same_memory(settings, files, answer)
        found = _found(settings, answer)
        if not found.writes and not found.kept:
            return found
        temporary.rename(record)
    finally:
        temporary.unlink(missing_ok=True)
    sync(record.parent)
    return replace(found, record=record)


def _found(settings: Settings, answer: WorkerResult) -> Rollback:
    added, changed, kept = (
        {table: Listed.from_json(listed) for table, listed in answer.facts[name].items()}
        for name in ("added", "changed", "kept")
    )
    return replace(_nothing(settings), added=added, changed=changed, kept=kept)


def _backed_up(source: Path, memory: MemoryWriter) -> Path:
    backup = free_name(source.with_name(f"{source.name}.backup-{name_stamp()}"))
    back_up(memory.connection, backup)
    return backup


def _written(memory: MemoryWriter, record: Path) -> WrittenRows | None:
    """Write what the record tells of; None where SQLite is not any more what it was compared with."""
    with memory.transaction():
        return None if memory.changed() else memory.write(record)


def _discard(record: Path, backup: Path | None) -> None:
    """Take away what was made for a try that wrote nothing."""
    for path in (record, backup):
        if path is not None:
            path.unlink(missing_ok=True)


def _with(found: Rollback, written: WrittenRows) -> Rollback:
    if written.refused and found.record is not None:
        with found.record.open("ab") as file:  # the rows are in it already; this says that they are nowhere else
            for table, key, why in written.refused:
                facts = {"what": "keep", "table": table, "id": key, "row": dict[str, str](), "why": why, "kept": True}
                file.write(json.dumps(facts, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    refused, renamed = tuple(written.refused), sum(written.renamed.values())
    return replace(found, refused=refused, renamed=renamed, unindexed=written.unindexed)


def _look_again(found: Rollback, answer: WorkerResult) -> None:
    """Raise unless a process that reads both sides anew finds nothing more to carry back."""
    missing = sum(listed["count"] for name in ("added", "changed") for listed in answer.facts[name].values())
    if missing > len(found.refused):
        raise DifferenceError(
            f"{found.source} does not hold {missing} rows of {found.target} after they were written to it; the target "
            f"stays where it is, and SQLite as it was before is in {found.sqlite_backup}. Check the disk (dmesg), then "
            "run again"
        )


def _set_aside(files: Files) -> Path:
    """Give the target, and what belongs to it, the name of a dated backup; take its further names away."""
    made, also = target_state.of_target(files), provenance.made_with(files.target).also
    moment = time.time()
    backup = files.backup(moment)
    told = {"at": target_state.stamp(moment), "target": str(backup)}
    target_state.note(files, made, {"format": target_state.FORMAT, "phase": "rolled back", "rolled_back": told})
    publish.remove_links(files, also)
    move_aside(files.target, backup)
    files.move_belongings(backup, files.followed)
    sync(files.target.parent)
    return backup


# What went wrong


def _explained(error: sqlite3.Error | MemoryError, source: Path) -> NimadError:
    code = sqlite3.SQLITE_NOMEM if isinstance(error, MemoryError) else error_code(error)  # as Python tells of it
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return SourceBusyError(f"{source} is locked by another program ({error}); stop the agent and run again")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return SourceDamagedError(f"{source} is damaged ({error}), and nothing was written to it; restore a backup")
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return DiskError(f"{source} cannot be written to ({error}), and is as it was")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
        return NotAllowedError(f"{source} cannot be written to ({error}); run as its owner")
    if code in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_TOOBIG):
        return NimadError(
            f"a trigger of {source} takes more steps or memory than its size can need ({error}), and it is as it was; "
            "nothing was set aside. Take that trigger out, then run again"
        )
    return NimadError(f"{source} cannot be written to ({said(error)}), and is as it was; nothing was set aside")


def _of_system(error: OSError, files: Files) -> NimadError:
    message = f"{error.filename or files.target}: {error.strerror or error}"
    return DiskError(message) if error.errno in DISK_ERRORS else CannotWriteError(message)
