"""The quarantine file: one JSON object a line for every row, or part of one, that has no place in the target."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nimad import bounded
from nimad.source.rows import Reject

_KEY_BYTES = 12


def add(path: Path, rejects: Sequence[Reject]) -> list[str]:
    """Append what is not listed yet, synced to disk before anything else happens; return every reject's key."""
    if not rejects:
        return []
    keys = []
    listed = set(_listed(path))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        file.seek(_end_of_last_line(path))
        for reject in rejects:
            line = line_of(reject)
            keys.append(line_key(line))
            if keys[-1] not in listed:
                listed.add(keys[-1])
                file.write(line)
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
    """The lines as what they say."""
    yield from (entry for line in lines(path) if (entry := entry_of(line)) is not None)


def entry_of(line: bytes) -> dict[str, Any] | None:
    """What one line says, if it is one of ours."""
    # A line that somebody edited is theirs; one that a failing disk filled may be nested beyond all measure.
    with suppress(ValueError, RecursionError):
        entry = json.loads(line)
        if isinstance(entry, dict) and {"table", "id", "part"} <= entry.keys() and _is_named(entry):
            return entry
    return None


def _is_named(entry: dict[str, Any]) -> bool:
    return isinstance(entry["table"], str) and isinstance(entry["part"], str)


def _end_of_last_line(path: Path) -> int:
    end = whole = 0
    for piece in bounded.pieces(path):
        end += len(piece)
        whole = end if piece.endswith(b"\n") else whole
    return whole
