"""The quarantine file: one JSON object a line for every row, or part of one, that has no place in the target."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nimad.source.rows import Reject


def add(path: Path, rejects: Sequence[Reject]) -> None:
    """Append what is not listed yet, and sync it to disk before anything else happens."""
    if not rejects:
        return
    listed = {entry_key(entry) for entry in entries(path)}
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        file.seek(_end_of_last_line(path))
        for reject in rejects:
            entry = reject.to_json()
            if entry_key(entry) not in listed:
                listed.add(entry_key(entry))
                file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole line of the file; none where there is no file. A line that a power cut tore is passed over."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            with suppress(ValueError):  # a line that somebody edited is theirs
                entry = json.loads(line) if line.endswith(b"\n") else None
                if isinstance(entry, dict) and {"table", "id", "part"} <= entry.keys():
                    yield entry


def entry_key(entry: dict[str, Any]) -> tuple[str, str, str]:
    """What makes an entry the same one when a range is done again."""
    return (entry["table"], json.dumps(entry["id"], sort_keys=True), entry["part"])


def _end_of_last_line(path: Path) -> int:
    end = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                end += len(line)
    return end
