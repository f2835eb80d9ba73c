"""The quarantine file: one JSON object per line for each row or value without a place in the target."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from nimad.host import bounded
from nimad.source.rows import Reject

#: Bytes of a line that is read as JSON whole: an object takes some twenty times as much memory as its text may be long.
PARSED_BYTES: Final = 4 << 20
#: Of a longer one, bytes in which that ends which stands before the row; and the words between.
_HEAD_BYTES: Final = 64 << 10
_ROW: Final = b', "row": '
_KEY_BYTES = 12
#: The ids that SQLite gives.
_KEYS: Final = range(-(2**63), 2**63)


def add(path: Path, rejects: Sequence[Reject]) -> list[str]:
    """Append what is not listed yet, synced to disk before anything else happens; return every reject's key."""
    if not rejects:
        return []
    keys = [line_key(line_of(reject)) for reject in rejects]
    asked = set(keys)
    listed = {key for key in _listed(path) if key in asked}
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        file.seek(_end_of_last_line(path))
        for reject, key in zip(rejects, keys, strict=True):
            if key not in listed:
                listed.add(key)
                file.write(line_of(reject))
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    return keys


def line_of(reject: Reject) -> bytes:
    return json.dumps(reject.to_json(), ensure_ascii=False).encode() + b"\n"


def line_key(line: bytes) -> str:
    """What makes a line the same one when a range is done again: all of it. Several rows may share an id."""
    return hashlib.blake2b(line, digest_size=_KEY_BYTES).hexdigest()


def lines(path: Path) -> Iterator[bytes]:
    """Every whole line of the file; none where there is no file. A line that a power cut tore is passed over."""
    with suppress(FileNotFoundError):
        yield from bounded.lines(path)


def _listed(path: Path) -> Iterator[str]:
    """The key of every whole line, however long it is."""
    digest = hashlib.blake2b(digest_size=_KEY_BYTES)
    with suppress(FileNotFoundError):
        for piece in bounded.pieces(path):
            digest.update(piece)
            if piece.endswith(b"\n"):
                yield digest.hexdigest()
                digest = hashlib.blake2b(digest_size=_KEY_BYTES)


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """The lines as what they say, each read when it is asked for: nobody knows how many there are."""
    yield from (entry for line in lines(path) if (entry := entry_of(line)) is not None)


def entry_of(line: bytes) -> dict[str, Any] | None:
    """What one line says, if it is one of ours; without the row where that makes it a long one."""
    # A line that somebody edited is theirs; one that a failing disk filled may be nested beyond all measure.
    with suppress(ValueError, RecursionError):
        entry = json.loads(line if len(line) <= PARSED_BYTES else _head(line))
        if isinstance(entry, dict) and {"table", "id", "part"} <= entry.keys() and _is_named(entry):
            return entry
    return None


def _head(line: bytes) -> bytes:
    """What stands before the row, which is the last of what we write; nothing where that is not found."""
    head, found, _ = line[:_HEAD_BYTES].partition(_ROW)
    return head + b"}" if found else b""


def _is_named(entry: dict[str, Any]) -> bool:
    """Whether table, part and id are of the types that we write; a blob that is an id is an object of one text."""
    key = entry["id"]
    parts = key.values() if isinstance(key, dict) else (key,)
    is_key = all(each is None or isinstance(each, int | float | str) for each in parts)
    return is_key and isinstance(entry["table"], str) and isinstance(entry["part"], str)


def key_of(entry: Mapping[str, Any]) -> int | None:
    """The id of an entry that is one of SQLite's."""
    key = entry["id"]
    return key if type(key) is int and key in _KEYS else None


def _end_of_last_line(path: Path) -> int:
    end = whole = 0
    for piece in bounded.pieces(path):
        end += len(piece)
        whole = end if piece.endswith(b"\n") else whole
    return whole
