"""Leftovers of runs, indexes and rollbacks beside a target and its source, and whether each may be removed.

Nothing is ever to go that may be the last copy of a memory. So what is kept here is kept without asking the engine:
`cleanup/removal.py` also holds a backup against SQLite before it removes one.
"""

import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path
from re import Pattern
from typing import Any, Final

from nimad.config import Settings
from nimad.errors import NimadError
from nimad.host import machine
from nimad.host.bounded import STAT_BLOCK
from nimad.host.disk import ENGINE_SUFFIXES, NAME_STAMP, READ_SUFFIXES, export_folder
from nimad.plural import number_of
from nimad.source import quick_check
from nimad.source.header import check_source
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import read_schema
from nimad.state import target_state
from nimad.state.names import OtherLog, names_of, other_logs
from nimad.state.paths import Files
from nimad.state.quarantine import entries, line_key, lines


class LeftoverKind(StrEnum):
    """What a leftover is."""

    UNFINISHED = "an unfinished target, and what belongs to it"
    FAILED = "an unfinished target that was set aside"
    LOG = "a log of the engine that was set aside"
    UNCLOSED = "a log of the engine, by another name of the target"
    BACKUP = "a backup of a target"
    SQLITE_BACKUP = "a backup of SQLite, from before a rollback"
    RECORD = "what a rollback carried back"
    QUARANTINE = "a quarantine"
    ORPHAN = "told of a target that is gone"
    TEMPORARY = "half a file of a run that was killed"


@dataclass(frozen=True)
class Leftover:
    """Files that belong together, under the first one's path. `bytes`: what they take on the disk."""

    path: Path
    pieces: tuple[Path, ...]
    kind: LeftoverKind
    bytes: int
    age_s: float
    may_go: bool
    reason: str  # why it may go, or why it may not


@dataclass(frozen=True)
class _Standing:
    """What decides whether something may go."""

    files: Files
    holder: int | None  # the PID of a run that works on the target
    unsound: str  # why SQLite is not known to be whole; empty where it is
    verified: bool  # whether a target is there that a run compared before it published it
    open: Mapping[tuple[int, int], int]  # PIDs by the device and inode of what they have open
    named: Mapping[tuple[int, int], Path]  # names that are in use, by the device and inode of the file they lead to


_DATE = r"(\d{8}-\d{6})(?:-\d+)?"
_ENGINE = "|".join(map(re.escape, ENGINE_SUFFIXES))
_READ = "|".join(map(re.escape, READ_SUFFIXES))
#: What follows a target's name. The first group is the name of what belongs together; the second, where there is one,
#: the date.
_AFTER_TARGET: tuple[tuple[LeftoverKind, Pattern[str]], ...] = (
    (LeftoverKind.QUARANTINE, re.compile(rf"(\.backup-{_DATE}\.quarantine\.jsonl)")),
    (LeftoverKind.QUARANTINE, re.compile(r"(\.migrating\.quarantine\.jsonl)")),
    (LeftoverKind.BACKUP, re.compile(rf"(\.backup-{_DATE})(?:{_ENGINE}|\.ledger|\.conflicts\.jsonl)?")),
    (LeftoverKind.RECORD, re.compile(rf"(\.rollback-{_DATE}\.jsonl)")),
    (
        LeftoverKind.TEMPORARY,
        re.compile(
            r"(\.(?:state\.json|(?:migrating\.)?quarantine\.jsonl|rollback-.*\.jsonl|runs\.jsonl|report\.html)\.tmp)"
        ),
    ),
    (LeftoverKind.LOG, re.compile(rf"((?:\.migrating)?(?:{_READ})\.{_DATE})")),
    (LeftoverKind.FAILED, re.compile(rf"(\.migrating\.{_DATE})(?:{_ENGINE})?")),
    (LeftoverKind.UNFINISHED, re.compile(r"(\.migrating)(?:\..*)?")),
)
#: What follows a further name of the target, or SQLite's.
_AFTER_LINK = ((LeftoverKind.BACKUP, re.compile(rf"(\.backup-{_DATE})(?:{_ENGINE})?")),)
_AFTER_SOURCE = (
    (LeftoverKind.TEMPORARY, re.compile(rf"(\.backup-{_DATE}\.tmp)(?:-journal|-wal|-shm)?")),
    (LeftoverKind.SQLITE_BACKUP, re.compile(rf"(\.backup-{_DATE})(?:-journal|-wal|-shm)?")),
)
#: Lines of a target's quarantine that another one is held against; where it has more, the other one is kept.
_LINES: Final = 1_000_000
#: What tells of a target, and is left when that is gone.
_TELLING = (".state.json", ".ledger", ".quarantine.jsonl", ".conflicts.jsonl", ".runs.jsonl")


def leftovers(settings: Settings, now: float | None = None, *, newest: bool = False) -> tuple[Leftover, ...]:
    """List what lies beside `settings.target` and `settings.source`, oldest first. Nothing is opened for writing.

    `newest`: the newest backups may go too. Raises `OSError` where a folder cannot be looked into.
    """
    now = time.time() if now is None else now
    files = Files.of(settings)
    standing = _standing(settings, files)
    found: dict[Path, tuple[LeftoverKind, str, list[Path]]] = {}
    for stem, patterns in (
        (files.target, _AFTER_TARGET),
        *((name, _AFTER_LINK) for name in names_of(files)[1:]),
        (settings.source, _AFTER_SOURCE),
    ):
        for path, kind, main, date in _named(stem, patterns):
            found.setdefault(main, (kind, date, []))[2].append(path)
    for path in _telling(files, found):
        kind = LeftoverKind.QUARANTINE if path == files.quarantine else LeftoverKind.ORPHAN
        found[path] = (kind, "", [path])
    made = [_other_log(each, now) for each in other_logs(files)]
    if (folder := export_folder(files.compacted)).is_dir():
        found.setdefault(folder, (LeftoverKind.TEMPORARY, "", [folder]))
    made += [_leftover(main, *facts, now) for main, facts in found.items()]
    judged = (_judged(each, standing) for each in (made if newest else _newest_kept(made)))
    return tuple(sorted(judged, key=lambda each: (-each.age_s, each.path)))


def _other_log(found: OtherLog, now: float) -> Leftover:
    why = f"a program wrote by the name {found.name} and did not close it; let it open and close that once more"
    return replace(_leftover(found.log, LeftoverKind.UNCLOSED, "", [found.log], now), may_go=False, reason=why)


def _named(
    stem: Path, patterns: Iterable[tuple[LeftoverKind, Pattern[str]]]
) -> Iterator[tuple[Path, LeftoverKind, Path, str]]:
    """The files whose names begin as `stem`: each with its kind, the name of what it belongs to, and the date."""
    for path in sorted(stem.parent.iterdir() if stem.parent.is_dir() else ()):
        if not path.name.startswith(f"{stem.name}.") or path.is_symlink():
            continue
        for kind, pattern in patterns:
            if match := pattern.fullmatch(path.name.removeprefix(stem.name)):
                date = match[2] if pattern.groups > 1 else ""
                yield path, kind, stem.with_name(stem.name + match[1]), date
                break


def _telling(files: Files, found: Mapping[Path, object]) -> Iterator[Path]:
    """What tells of a target, where there is neither one nor what is to become one."""
    if os.path.lexists(files.target) or files.staging in found:
        return
    for suffix in _TELLING:
        path = files.target.with_name(files.target.name + suffix)
        if path.is_file() and not path.is_symlink():
            yield path


def _leftover(main: Path, kind: LeftoverKind, date: str, paths: list[Path], now: float) -> Leftover:
    modified, size = 0.0, 0
    for path in paths:
        for status in _statuses(path):
            modified, size = max(modified, status.st_mtime), size + status.st_blocks * STAT_BLOCK
    with suppress(ValueError):
        modified = time.mktime(time.strptime(date, NAME_STAMP)) if date else modified
    ordered = sorted(paths, key=lambda path: (path != main, path))
    return Leftover(main, tuple(ordered), kind, size, max(0.0, now - modified), may_go=True, reason="")


def _statuses(path: Path) -> Iterator[os.stat_result]:
    yield path.lstat()
    if path.is_dir() and not path.is_symlink():
        for inner in path.rglob("*"):
            yield inner.lstat()


# Whether it may go


def _newest_kept(made: Sequence[Leftover]) -> Iterator[Leftover]:
    """The newest backup of each kind is not to go, whatever its age."""
    for each in made:
        alike = [other for other in made if other.kind is each.kind]
        newest = min(alike, key=lambda other: (other.age_s, other.path))
        if each.kind in (LeftoverKind.BACKUP, LeftoverKind.SQLITE_BACKUP) and each is newest:
            yield replace(each, may_go=False, reason="the newest one")
        else:
            yield each


def _judged(each: Leftover, standing: _Standing) -> Leftover:
    try:
        why = _in_use(each, standing) or each.reason or _last_copy(each, standing)
    except OSError as error:
        why = f"it cannot be read ({error.strerror})"
    return replace(each, may_go=not why, reason=why or _REASONS[each.kind])


_REASONS: Mapping[LeftoverKind, str] = {
    LeftoverKind.UNFINISHED: "SQLite has all of it; a run would start over",
    LeftoverKind.FAILED: "SQLite has all of it",
    LeftoverKind.LOG: "SQLite has all of it",
    LeftoverKind.BACKUP: "a verified target took its place",
    LeftoverKind.SQLITE_BACKUP: "SQLite is whole without it",
    LeftoverKind.RECORD: "SQLite has all of it",
    LeftoverKind.QUARANTINE: "nothing is in it that is not in the target's own",
    LeftoverKind.ORPHAN: "nothing needs it",
    LeftoverKind.TEMPORARY: "nothing needs it",
}


def _in_use(each: Leftover, standing: _Standing) -> str:
    if standing.holder and each.kind in (
        LeftoverKind.UNFINISHED,
        LeftoverKind.TEMPORARY,
        LeftoverKind.ORPHAN,
        LeftoverKind.QUARANTINE,
    ):
        return f"a run is at work (PID {standing.holder})"
    for path in each.pieces:
        with suppress(OSError):
            status = path.lstat()
            file = status.st_dev, status.st_ino
            if (name := standing.named.get(file)) is not None:
                return f"{name} leads to it"
            if (pid := standing.open.get(file)) is not None:
                return f"it is open in another program (PID {pid})"
    return ""


def _last_copy(each: Leftover, standing: _Standing) -> str:
    """Why it may hold what is nowhere else; empty where it does not."""
    if each.kind is LeftoverKind.QUARANTINE:
        return _only_here(each.path, standing)
    if each.kind is LeftoverKind.RECORD:
        kept = sum(b'"kept": true' in line for line in lines(each.path))
        return f"it holds {number_of(kept, 'value')} that SQLite has no place for" if kept else standing.unsound
    ours = (LeftoverKind.UNFINISHED, LeftoverKind.FAILED, LeftoverKind.LOG, LeftoverKind.SQLITE_BACKUP)
    if each.kind in ours or each.path == standing.files.conflicts:
        return standing.unsound
    if each.kind is LeftoverKind.BACKUP and not standing.verified:
        return standing.unsound or f"there is no verified target at {standing.files.target}"
    return ""


def _only_here(path: Path, standing: _Standing) -> str:
    """Whether a quarantine holds entries that the one of the target does not have."""
    if not path.is_file():
        return "it is no plain file"
    of_target = set() if path == standing.files.quarantine else _first_keys(standing.files.quarantine)
    if all(line_key(line) in of_target for line in lines(path)):
        return ""
    return f"it holds {number_of(sum(1 for _ in entries(path)), 'entry', 'entries')}, which are in no target"


def _first_keys(path: Path) -> set[str]:
    """What tells the lines of a quarantine apart; of a longer one than we write, not all of them."""
    return {line_key(line) for line in islice(lines(path), _LINES)}


def _standing(settings: Settings, files: Files) -> _Standing:
    made = target_state.of_target(files)
    there = files.target.is_file()
    return _Standing(
        files=files,
        holder=_holder(files.lock),
        unsound=_unsound(settings.source, target_state.read(files)),
        verified=bool(there and made.get("published") and target_state.is_of(files, made)),
        open=open_files(),
        named=_named_files(settings, files),
    )


def _named_files(settings: Settings, files: Files) -> dict[tuple[int, int], Path]:
    """The files that the target, its source, and every link in their folders lead to, by whatever names."""
    found = {}
    links = [path for folder in {files.target.parent, settings.source.parent} for path in _links_in(folder)]
    for path in (*links, settings.source, files.target):
        with suppress(OSError):
            status = path.stat()
            found[status.st_dev, status.st_ino] = path
    return found


def _links_in(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir() if folder.is_dir() else ()) if path.is_symlink())


def _holder(lock: Path) -> int | None:
    """Which other process works on the target."""
    holder = machine.holder_of(lock) if lock.is_file() else None
    return None if holder == os.getpid() else holder


def _unsound(path: Path, told: Mapping[str, Any]) -> str:
    """Why SQLite is not known to hold all that it should; `told`: the state file."""
    try:
        check_source(path)
        source = SourceFile(path)
        made_from = target_state.identity_of(told)
        if made_from is not None and source.identity().is_elsewhere(made_from):
            return "SQLite is not the file that runs for this target read, and this may be the last copy"
        schema = source.read(lambda connection: read_schema(connection, source, nodes_only=False))
        damage = quick_check.damage(source, schema)
    except NimadError as error:
        return f"SQLite cannot be read, and this may be the last copy ({error})"
    return f"pages of SQLite are damaged, and this may be the last copy ({damage[0]})" if damage else ""


def open_files() -> dict[tuple[int, int], int]:
    """What other processes have open, as far as this user may see."""
    found: dict[tuple[int, int], int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    status = descriptor.stat()
                    if stat.S_ISREG(status.st_mode) and int(process.name) != os.getpid():
                        found[status.st_dev, status.st_ino] = int(process.name)
    return found
