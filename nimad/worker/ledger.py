"""The ledger: of each row, a digest of what SQLite held when it was handed to the engine.

It tells apart, when source and target differ, a row that the agent changed since from one that arrived wrong.
It is never believed over the target: without it, a difference just cannot be called damage.
"""

import os
import struct
from collections.abc import Iterable
from pathlib import Path

from nimad.source.rows import DIGEST_BYTES
from nimad.source.schema import EDGES, NODES, TURNS

_TABLES = (NODES, EDGES, TURNS)
_RECORD = struct.Struct(f"<Bq{DIGEST_BYTES}s")


def append(path: Path, table: str, entries: Iterable[tuple[int, bytes]]) -> None:
    """Note rows before they are handed over. A record that a power cut tore is cut off first."""
    number = _TABLES.index(table)
    data = b"".join(_RECORD.pack(number, key, digest) for key, digest in entries)
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
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    number = _TABLES.index(table)
    whole = len(data) - len(data) % _RECORD.size
    return {key: digest for entry, key, digest in _RECORD.iter_unpack(data[:whole]) if entry == number}
