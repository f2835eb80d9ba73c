"""The ledger: of each row, a digest of what SQLite held when it was handed to the engine.

It tells apart, when source and target differ, a row that the agent changed since from one that arrived wrong.
It is never believed over the target: without it, a difference just cannot be called damage.

It stays beside a published target, where it tells which rows of the source are new, changed or gone since. There it
also holds rows that the target knows by another id, and those that were set aside; of each row a mark that tells which
memory it is (`worker/identity.py`), also after it left the source; and rows that are about to be added.
"""

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nimad.source.rows import DIGEST_BYTES
from nimad.source.schema import EDGES, NODES, TURNS

_TABLES = (NODES, EDGES, TURNS)
_RECORD = struct.Struct(f"<Bq{DIGEST_BYTES}s")
_ID = struct.Struct("<q")
#: Added to a table's number: the eight bytes are the row's id in the target; the digest of a row set aside; the row's
#: mark; or the id under which it is about to be added.
_ALIAS, _ASIDE, _MARK, _PLAN = 3, 6, 9, 12
#: In place of the digest of a row that was taken out of the target again.
_GONE = bytes(DIGEST_BYTES)


def of_rows(table: str, entries: Iterable[tuple[int, bytes]], marks: Mapping[int, bytes]) -> bytes:
    """What is to be noted of rows before they are handed over, for `append`."""
    number, records = _TABLES.index(table), []
    for key, digest in entries:
        if key in marks:
            records.append((number + _MARK, key, marks[key]))
        records.append((number, key, digest))
    return _packed(records)


@dataclass
class Notes:
    """What a ledger says of one table, by the source's keys."""

    digests: dict[int, bytes] = field(default_factory=dict)  # of what is in the target
    aliases: dict[int, int] = field(default_factory=dict)  # the target's id, where it is another
    aside: dict[int, bytes] = field(default_factory=dict)  # digests of what was set aside since
    marks: dict[int, bytes] = field(default_factory=dict)
    left: dict[int, tuple[int, bytes]] = field(default_factory=dict)  # ids and marks of what was taken out again
    plans: dict[int, int] = field(default_factory=dict)  # ids of what may have been added, and was not looked for

    @property
    def last(self) -> int | None:
        """The highest key that is told of."""
        return max((*self.digests, *self.aside), default=None)

    def id_of(self, key: int) -> int:
        """The target's id of a row that is there, or may be."""
        return self.aliases.get(key, self.plans.get(key, key))

    def target_ids(self) -> set[int]:
        """The rows of the target that are the source's."""
        return {self.aliases.get(key, key) for key in self.digests}


def note(path: Path, table: str, notes: Notes, gone: Iterable[int] = ()) -> None:
    """Note what was found in a target: `gone` are no longer in it.

    A row's digest comes after its id and mark: cut between any two records, the ledger says nothing wrong.
    """
    number = _TABLES.index(table)
    records = [(number, key, _GONE) for key in gone]
    for key, digest in notes.digests.items():
        if key in notes.aliases:  # also its own id, where it had another
            records.append((number + _ALIAS, key, _ID.pack(notes.aliases[key])))
        if key in notes.marks:
            records.append((number + _MARK, key, notes.marks[key]))
        records.append((number, key, digest))
    records += [(number + _ASIDE, key, digest) for key, digest in notes.aside.items()]
    append(path, _packed(records))


def plan(path: Path, table: str, rows: Mapping[int, tuple[int, bytes | None]]) -> None:
    """Note what is about to be added, with its id and mark: what is killed before it looks would not know it again."""
    number, records = _TABLES.index(table), []
    for key, (at, mark) in rows.items():
        if mark is not None:
            records.append((number + _MARK, key, mark))
        records.append((number + _PLAN, key, _ID.pack(at)))
    append(path, _packed(records))


def read_notes(path: Path) -> dict[str, Notes]:
    """All that a ledger says, by table; of each row the latest."""
    found = {table: Notes() for table in _TABLES}
    for number, key, value in _records(path):
        kind, index = divmod(number, len(_TABLES))
        _take(found[_TABLES[index]], kind * len(_TABLES), key, value)
    return found


def _take(notes: Notes, kind: int, key: int, value: bytes) -> None:
    if kind == _ALIAS:
        notes.aliases[key] = _ID.unpack(value)[0]
        if notes.aliases[key] == key:
            del notes.aliases[key]
    elif kind == _ASIDE:
        notes.aside[key] = value
    elif kind == _MARK:
        notes.marks[key] = value
    elif kind == _PLAN:
        notes.plans[key] = _ID.unpack(value)[0]
    elif value == _GONE:
        notes.left[key] = notes.aliases.pop(key, notes.plans.pop(key, key)), notes.marks.pop(key, b"")
        notes.digests.pop(key, None)
    else:
        notes.digests[key] = value
        notes.aside.pop(key, None)  # it is in order again
        notes.plans.pop(key, None)


def _packed(records: Iterable[tuple[int, int, bytes]]) -> bytes:
    return b"".join(_RECORD.pack(*record) for record in records)


def append(path: Path, data: bytes) -> None:
    """Add whole records, and have them on the disk. One that a power cut tore is cut off first."""
    if not data:
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        size -= size % _RECORD.size
        os.lseek(descriptor, size, os.SEEK_SET)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except OSError:  # a full disk: half of it is not to be believed
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def read(path: Path, table: str) -> dict[int, bytes]:
    """The latest digest of each row of a table; empty where there is no ledger."""
    number = _TABLES.index(table)
    return {key: digest for entry, key, digest in _records(path) if entry == number}


def _records(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Every whole record; one that a power cut tore is passed over."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    whole = len(data) - len(data) % _RECORD.size
    yield from (record for record in _RECORD.iter_unpack(data[:whole]) if record[0] < _PLAN + len(_TABLES))
