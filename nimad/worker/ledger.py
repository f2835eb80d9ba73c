"""The ledger: of each row, a digest of what SQLite held when it was handed to the engine.

It tells apart, when source and target differ, a row that the agent changed since from one that arrived wrong.
It is never believed over the target: without it, a difference just cannot be called damage.

It stays beside a published target, where it tells which rows of the source are new, changed or gone since. There it
also holds rows that the target knows by another id, and those that were set aside.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nimad.source.rows import DIGEST_BYTES
from nimad.source.schema import EDGES, NODES, TURNS

_TABLES = (NODES, EDGES, TURNS)
_RECORD = struct.Struct(f"<Bq{DIGEST_BYTES}s")
_ID = struct.Struct("<q")
#: Added to a table's number: the eight bytes are the row's id in the target; or the digest of a row set aside.
_ALIAS, _ASIDE = 3, 6
#: In place of the digest of a row that was taken out of the target again.
_GONE = bytes(DIGEST_BYTES)


def append(path: Path, table: str, entries: Iterable[tuple[int, bytes]]) -> None:
    """Note rows before they are handed over. A record that a power cut tore is cut off first."""
    number = _TABLES.index(table)
    _append(path, b"".join(_RECORD.pack(number, key, digest) for key, digest in entries))


@dataclass
class Notes:
    """What a ledger says of one table, by the source's keys."""

    digests: dict[int, bytes] = field(default_factory=dict)  # of what is in the target
    aliases: dict[int, int] = field(default_factory=dict)  # the target's id, where it is another
    aside: dict[int, bytes] = field(default_factory=dict)  # digests of what was set aside

    @property
    def last(self) -> int | None:
        """The highest key that is told of."""
        return max((*self.digests, *self.aside), default=None)

    def target_ids(self) -> set[int]:
        """The rows of the target that are the source's."""
        return {self.aliases.get(key, key) for key in self.digests}


def note(path: Path, table: str, notes: Notes, gone: Iterable[int] = ()) -> None:
    """Note what was found in a target: `gone` are no longer in it."""
    number = _TABLES.index(table)
    records = [
        *((number, key, _GONE) for key in gone),
        *((number, key, digest) for key, digest in notes.digests.items()),
        *((number + _ALIAS, key, _ID.pack(other)) for key, other in notes.aliases.items()),
        *((number + _ASIDE, key, digest) for key, digest in notes.aside.items()),
    ]
    _append(path, b"".join(_RECORD.pack(*record) for record in records))


def read_notes(path: Path) -> dict[str, Notes]:
    """All that a ledger says, by table; of each row the latest."""
    found = {table: Notes() for table in _TABLES}
    for number, key, value in _records(path):
        kind, index = divmod(number, len(_TABLES))
        notes = found[_TABLES[index]]
        if kind * len(_TABLES) == _ALIAS:
            notes.aliases[key] = _ID.unpack(value)[0]
        elif kind * len(_TABLES) == _ASIDE:
            notes.aside[key] = value
        elif value == _GONE:
            notes.digests.pop(key, None)
            notes.aliases.pop(key, None)
        else:
            notes.digests[key] = value
            notes.aliases.pop(key, None)  # an alias follows its digest each time
    return found


def _append(path: Path, data: bytes) -> None:
    if not data:
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        os.lseek(descriptor, size - size % _RECORD.size, os.SEEK_SET)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
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
    yield from (record for record in _RECORD.iter_unpack(data[:whole]) if record[0] < _ASIDE + len(_TABLES))
