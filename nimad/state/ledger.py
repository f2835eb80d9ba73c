"""The ledger: for each row, what SQLite held when source and target were last reconciled.

It is the base of every three-way comparison. A digest of the row shows whether SQLite changed it since; a checksum of
each value shows in which columns either side changed. The ledger never overrides the target: without it, a difference
cannot be called damage, and the target's value stays.

Beside a published target it also holds: rows whose id in the target differs; rows that were set aside; a fingerprint
of each row (`worker/identity/natural_key.py`), kept after the row left the source; and rows that are about to be added.

The file is a header followed by length-prefixed records. A record cut short by a power failure ends the file.
"""

import json
import marshal
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from nimad.source.rows import DIGEST_BYTES, ConvertedRows, digest
from nimad.source.schema import EDGES, NODES, TURNS, Table

_TABLES = (NODES, EDGES, TURNS)
_MAGIC = b"NIMADLG2"
#: Bytes that follow, kind of record, number of the table, the source's key.
_HEAD = struct.Struct("<HBBq")
#: Digest, mark (zeros where there is none), id in the target.
_ROW = struct.Struct(f"<{DIGEST_BYTES}s{DIGEST_BYTES}sq")
_PLACE = struct.Struct(f"<{DIGEST_BYTES}sq")  # mark and id, of a plan and of a row that went
_NONE = bytes(DIGEST_BYTES)
#: Bytes of the check of one value.
CHECK_BYTES = 4


class _Kind(IntEnum):
    COLUMNS = 1  # names of the columns whose checks follow in the records of this table
    HELD = 2  # a row that is in the target
    ASIDE = 3  # one that was set aside, and its digest
    GONE = 4  # one that left the source, or whose id is another's now; not empty: it was taken out of the target
    PLAN = 5  # one that is about to be added
    ABSENT = 6  # one that the agent took out of the target, and SQLite's digest of it
    CHANGE = 7  # one that is about to be changed, and what it is to be
    UNDECIDED = 8  # columns of a row that is in the target, whose base tells nothing of what the target has


_KINDS = {kind.value: kind for kind in _Kind}


def check_of(value: Any) -> bytes:
    """Four bytes that tell whether a converted value is still what it was. NULL has a check, too.

    True is 1 here: SQLite's flags are numbers.
    """
    return zlib.crc32(marshal.dumps(int(value) if isinstance(value, bool) else value, 2)).to_bytes(
        CHECK_BYTES, "little"
    )


def columns_of(table: Table) -> tuple[str, ...]:
    """The names by which checks are kept: the ends by SQLite's, other columns by the target's."""
    return (*table.ends, *(column.target for column in table.columns))


@dataclass(frozen=True)
class Entry:
    """A row as it was reconciled: its digest, and the checks of its converted values, packed in order of columns."""

    digest: bytes
    checks: bytes = b""
    mark: bytes | None = None
    id: int | None = None  # in the target; None for the key itself
    undecided: frozenset[str] = frozenset()  # columns in which the target's value stayed, and may be the older one


#: Names of columns, and the checks of a row's values in that order.
Checks = tuple[tuple[str, ...], bytes]


@dataclass(frozen=True)
class PlannedId:
    """A row that is about to be added: its id in the target, its mark, and what it will be."""

    id: int
    mark: bytes | None
    checks: bytes


@dataclass(frozen=True)
class LeftRow:
    """A row that left the source and was taken out of the target: its id there, its mark, and what it was."""

    id: int
    mark: bytes
    checks: Checks


@dataclass
class Notes:
    """What a ledger says of one table, by the source's keys."""

    digests: dict[int, bytes] = field(default_factory=dict)  # of what is in the target
    checks: dict[int, Checks] = field(default_factory=dict)  # also of what may have been added
    aliases: dict[int, int] = field(default_factory=dict)  # the target's id, where it is another
    aside: dict[int, bytes] = field(default_factory=dict)  # digests of what was set aside since
    marks: dict[int, bytes] = field(default_factory=dict)
    plans: dict[int, int] = field(default_factory=dict)  # ids of what may have been added, and was not looked for
    absent: dict[int, bytes] = field(default_factory=dict)  # digests of what the agent took out of the target
    left: dict[int, LeftRow] = field(default_factory=dict)
    older: dict[int, list[Checks]] = field(default_factory=dict)  # what rows were before they were last reconciled
    planned: dict[int, list[Checks]] = field(default_factory=dict)  # what rows may have become, and nobody looked
    undecided: dict[int, frozenset[str]] = field(default_factory=dict)  # columns of which nothing tells who is newer

    @property
    def last(self) -> int | None:
        """The highest key that is told of."""
        return max((*self.digests, *self.aside, *self.absent), default=None)

    def leave_out(self, rows: Mapping[int, bytes]) -> None:
        """Take rows for what the agent took out of the target."""
        for key in rows:
            _forget(self, key)
        self.absent.update(rows)

    def tells_of(self, key: int) -> bool:
        """Whether a row was looked at before, whatever became of it."""
        return key in self.digests or key in self.aside or key in self.absent

    def came_since(self, key: int, bound: int | None, *, numbered: bool) -> bool:
        """Whether a row that the target lacks came later than all that was migrated, up to the key `bound`.

        `numbered`: ids are numbers of ours, of which that of a later row may be the lower one.
        """
        if bound is None:
            return False
        return key > bound or (numbered and bool(self.digests) and not self.tells_of(key))

    def is_news(self, key: int, digest: bytes) -> bool:
        """Whether SQLite's row is another than when it was last looked at, or the target's may be."""
        known = self.aside.get(key, self.absent.get(key, self.digests.get(key)))
        return digest != known or (key in self.planned and key not in self.aside)

    def id_of(self, key: int) -> int:
        """The target's id of a row that is there, or may be."""
        return self.aliases.get(key, self.plans.get(key, key))

    def target_ids(self) -> set[int]:
        """The rows of the target that are the source's."""
        return {self.aliases.get(key, key) for key in self.digests}

    def maybe_ids(self) -> set[int]:
        """The rows of the target that are the source's, or were, or may have been added."""
        return {*self.target_ids(), *self.plans.values(), *(each.id for each in self.left.values())}

    def base(self, key: int) -> dict[str, bytes] | None:
        """The checks of a row's values by column, as they were reconciled; None for a row without."""
        return unpacked(self.checks[key]) if key in self.checks else None

    def is_ours(self, key: int, column: str, check: bytes, *, older: bool) -> bool:
        """Whether a value is one that we brought and did not look for; `older`: or one that we replaced since."""
        brought = [*self.planned.get(key, ()), *(self.older.get(key, ()) if older else ())]
        return any(unpacked(each).get(column) == check for each in brought)


def unpacked(checks: Checks) -> dict[str, bytes]:
    names, packed = checks
    parts = [packed[at : at + CHECK_BYTES] for at in range(0, len(packed), CHECK_BYTES)]
    return dict(zip(names, parts, strict=False))


def of_rows(judged: ConvertedRows, marks: Mapping[int, bytes]) -> bytes:
    """What is to be noted of converted rows before they are copied, for `append`."""
    entries = {
        key: Entry(digest(row), checks, marks.get(key))
        for key, row, checks in zip(judged.rows.keys, judged.rows.values, packed_checks(judged), strict=True)
    }
    return packed(judged.rows.table, entries)


def packed_checks(judged: ConvertedRows) -> list[bytes]:
    """Of each row, the checks of its values."""
    columns = [[check_of(value) for value in column] for column in judged.columns]
    return [b"".join(row) for row in zip(*columns, strict=True)] if columns else [b""] * len(judged.rows)


def packed(
    table: Table, entries: Mapping[int, Entry], taken_out: Iterable[int] = (), forgotten: Iterable[int] = ()
) -> bytes:
    """Records of rows that are in the target, and first of those that are not any more, or are the agent's."""
    number = _TABLES.index(table.name)
    records = [_record(_Kind.GONE, number, key, b"\x01") for key in taken_out]
    records += [_record(_Kind.GONE, number, key) for key in forgotten]
    if entries:
        records.append(_columns(table))
    for key, entry in entries.items():
        at = key if entry.id is None else entry.id
        row = _ROW.pack(entry.digest, entry.mark or _NONE, at) + entry.checks
        records.append(_record(_Kind.HELD, number, key, row))
        if entry.undecided:
            records.append(_undecided(number, key, entry.undecided))
    return b"".join(records)


def packed_aside(table: str, rows: Mapping[int, bytes], absent: Mapping[int, bytes] | None = None) -> bytes:
    """Records of rows that were set aside, or that the agent took out of the target, by SQLite's digests."""
    number = _TABLES.index(table)
    records = [_record(_Kind.ASIDE, number, key, value) for key, value in rows.items()]
    return b"".join(records + [_record(_Kind.ABSENT, number, key, value) for key, value in (absent or {}).items()])


def packed_undecided(table: str, rows: Mapping[int, Iterable[str]]) -> bytes:
    """Records of columns in which rows have another value than SQLite, and nothing tells which is newer."""
    return b"".join(_undecided(_TABLES.index(table), key, names) for key, names in rows.items())


def _undecided(number: int, key: int, names: Iterable[str]) -> bytes:
    return _record(_Kind.UNDECIDED, number, key, json.dumps(sorted(names)).encode())


def packed_plans(table: Table, rows: Mapping[int, PlannedId]) -> bytes:
    """Records of rows that are about to be added: a run killed before it looks knows them again."""
    number = _TABLES.index(table.name)
    records = [
        _record(_Kind.PLAN, number, key, _PLACE.pack(plan.mark or _NONE, plan.id) + plan.checks)
        for key, plan in rows.items()
    ]
    return b"".join([_columns(table), *records]) if records else b""


def packed_changes(table: Table, rows: Mapping[int, bytes]) -> bytes:
    """Records of rows that are about to be changed, by the checks of what they are to be."""
    number = _TABLES.index(table.name)
    records = [_record(_Kind.CHANGE, number, key, checks) for key, checks in rows.items()]
    return b"".join([_columns(table), *records]) if records else b""


def _columns(table: Table) -> bytes:
    return _record(_Kind.COLUMNS, _TABLES.index(table.name), 0, json.dumps(columns_of(table)).encode())


def _record(kind: _Kind, number: int, key: int, payload: bytes = b"") -> bytes:
    return _HEAD.pack(len(payload), kind, number, key) + payload


def exists(path: Path) -> bool:
    """Whether there is a ledger that says anything."""
    return next(_records(_read(path)), None) is not None


def read_notes(path: Path) -> dict[str, Notes]:
    """All that a ledger says, by table; of each row the latest."""
    found = {table: Notes() for table in _TABLES}
    layouts: dict[int, tuple[str, ...]] = {}
    for _, kind, number, key, payload in _records(_read(path)):
        if kind is _Kind.COLUMNS:
            layouts[number] = tuple(map(str, json.loads(payload)))
        else:
            _take(found[_TABLES[number]], kind, key, payload, layouts.get(number, ()))
    return found


def _take(notes: Notes, kind: _Kind, key: int, payload: bytes, layout: tuple[str, ...]) -> None:
    if kind is _Kind.HELD:
        notes.digests[key], mark, at = _ROW.unpack_from(payload)
        if key in notes.checks and key not in notes.plans:
            notes.older.setdefault(key, []).append(notes.checks[key])
        notes.checks[key] = layout, payload[_ROW.size :]
        _put(notes.marks, key, mark if mark != _NONE else None)
        _put(notes.aliases, key, at if at != key else None)
        settled = (notes.aside, notes.plans, notes.absent, notes.left, notes.planned, notes.undecided)
        for other in settled:  # it is in order again
            other.pop(key, None)
    elif kind is _Kind.UNDECIDED:
        notes.undecided[key] = frozenset(map(str, json.loads(payload)))
    elif kind is _Kind.ABSENT:
        _forget(notes, key)
        notes.absent[key] = payload
    elif kind is _Kind.ASIDE:
        notes.aside[key] = payload
    elif kind is _Kind.PLAN:
        mark, notes.plans[key] = _PLACE.unpack_from(payload)
        _put(notes.marks, key, mark if mark != _NONE else None)
        notes.checks[key] = layout, payload[_PLACE.size :]
        notes.planned.setdefault(key, []).append(notes.checks[key])
    elif kind is _Kind.CHANGE:
        notes.planned.setdefault(key, []).append((layout, payload))
    else:
        known, mark = notes.checks.get(key), notes.marks.get(key, b"")
        left = LeftRow(notes.id_of(key), mark, known) if payload and known else None
        _forget(notes, key)
        _put(notes.left, key, left)


def _forget(notes: Notes, key: int) -> None:
    tables = (notes.digests, notes.checks, notes.aliases, notes.marks, notes.plans, notes.absent, notes.planned)
    for known in (*tables, notes.undecided):
        known.pop(key, None)


def _put(known: dict[int, Any], key: int, value: Any) -> None:
    if value is None:
        known.pop(key, None)
    else:
        known[key] = value


def read_digests(path: Path) -> dict[str, dict[int, bytes]]:
    """By table, the latest digest of each row; empty where there is no ledger."""
    return {table: notes.digests for table, notes in read_notes(path).items()}


def append(path: Path, data: bytes) -> None:
    """Add whole records, and have them on the disk. One that a power cut tore is cut off first."""
    if not data:
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        size = _whole(_read(path))
        os.ftruncate(descriptor, size)
        os.lseek(descriptor, size, os.SEEK_SET)
        try:
            view = memoryview(data if size else _MAGIC + data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except OSError:  # a full disk: half of it is not to be believed
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _whole(data: bytes) -> int:
    """Bytes of the header and of whole records."""
    end = len(_MAGIC) if data.startswith(_MAGIC) else 0
    for _, end, *_ in _spans(data):  # noqa: B007 - the last one counts
        pass
    return end


def _records(data: bytes) -> Iterator[tuple[int, _Kind, int, int, bytes]]:
    """Every whole record, with where it ends; nothing of a file of another format."""
    for start, end, kind, number, key in _spans(data):
        yield end, _KINDS[kind], number, key, data[start:end]


def _spans(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Where the payload of every whole record begins and ends, its kind, table and key. Read at every look."""
    at, head, size = len(_MAGIC), _HEAD.size, len(data)
    while data.startswith(_MAGIC) and at + head <= size:
        length, kind, number, key = _HEAD.unpack_from(data, at)
        start = at + head
        at = start + length
        if at > size or kind not in _KINDS or number >= len(_TABLES):
            return
        yield start, at, kind, number, key
