"""The record of a rollback: one JSON object per line for each row or value that SQLite lacks."""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class RecordAction(StrEnum):
    """What is to be done with a line."""

    ADD = "add"
    CHANGE = "change"
    KEEP = "keep"  # nothing: it stays in the record


@dataclass(frozen=True)
class NodeReference:
    """A node: by SQLite's key, or by the target's id where SQLite is to get it."""

    of: str  # `key` or `id`
    number: int


@dataclass(frozen=True)
class RecordLine:
    """One line. `id` is the target's, `key` SQLite's; `row` has names of the target to add, of SQLite to change."""

    what: RecordAction
    table: str
    row: Mapping[str, Any]
    id: int | None = None
    key: int | None = None
    ends: Mapping[str, NodeReference] = field(default_factory=dict)  # by SQLite's columns


def read_record(path: Path) -> Iterator[RecordLine]:
    """The lines of a record, in order."""
    with path.open(encoding="utf-8") as file:
        for text in file:
            data = json.loads(text)
            yield RecordLine(
                RecordAction(data["what"]),
                data["table"],
                {name: value_of(value) for name, value in data["row"].items()},
                data.get("id"),
                data.get("key"),
                {end: NodeReference(*reference) for end, reference in data.get("ends", {}).items()},
            )


def value_of(data: Any) -> Any:
    """The value that a line has, as SQLite takes it: a BOOL is 0 or 1 there, an embedding its bytes."""
    if isinstance(data, bool):
        return int(data)
    if not isinstance(data, dict):
        return data
    if "base64" in data:
        return base64.b64decode(data["base64"])
    return float(data["float"]) if "float" in data else json.dumps(data, ensure_ascii=False)
