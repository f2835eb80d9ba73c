"""The file of target-only rows: one JSON object per line.

A line says what it is, and of which table of the target. Rows are named by SQLite's key where SQLite has them, and
otherwise by their id in the old target. The new one has both of them under the ids that they have there.
"""

import base64
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from nimad.source.rows import json_row


class LineKind(StrEnum):
    """What is to be done with a line. Lines of a file come in this order."""

    IDS = "ids"  # rows of SQLite's that have another id there, and ids that are none of SQLite's rows or another's
    TABLE = "table"  # a table, or columns of one: see that they are there
    ADD = "add"  # a memory or a turn
    SET = "set"  # values of a row that SQLite has too
    ROW = "row"  # a row of a table that SQLite has nothing for
    LINK = "link"  # an edge or a link, with its properties
    REMOVE = "remove"  # rows of SQLite's that the agent took out of the target


@dataclass(frozen=True)
class RowReference:
    """A row at an end. `by`: `key` of SQLite, `id` in the old target, or `primary` for a table of the agent's own."""

    table: str
    by: str
    value: Any


@dataclass(frozen=True)
class TargetOnlyLine:
    """One line. `columns`: of a table, each with its type and its default; `pairs`: of a relationship, from and to."""

    what: LineKind
    table: str
    row: Mapping[str, Any] = field(default_factory=dict)
    key: Any = None  # SQLite's, of SET; the old target's id, of ADD
    keys: Sequence[int] = ()
    ids: Sequence[tuple[int, int]] = ()  # of IDS, SQLite's keys with the ids there
    ends: Sequence[RowReference] = ()
    columns: Sequence[tuple[str, str, str]] = ()
    primary: str = ""
    undecided: Sequence[str] = ()  # columns of SET: nothing tells whether their values are newer than SQLite's
    pairs: Sequence[tuple[str, str]] = ()


class TargetOnlyWriter:
    """The file, for its owner alone; whole and synced once it is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        self._file: TextIO = os.fdopen(descriptor, "w", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def write(self, line: TargetOnlyLine) -> None:
        data = {name: value for name, value in asdict(line).items() if value or name in ("what", "table", "key")}
        data["row"] = json_row(line.row)
        self._file.write(json.dumps(data, ensure_ascii=False) + "\n")


def read_lines(path: Path, *kinds: LineKind) -> Iterator[TargetOnlyLine]:
    """The lines of these kinds, in order."""
    with path.open(encoding="utf-8") as file:
        for text in file:
            data = json.loads(text)
            if data["what"] not in kinds:
                continue
            yield TargetOnlyLine(
                LineKind(data["what"]),
                data["table"],
                {name: _value(value) for name, value in data["row"].items()},
                data["key"],
                data.get("keys", ()),
                [(key, at) for key, at in data.get("ids", ())],
                [RowReference(**end) for end in data.get("ends", ())],
                [(name, kind, default) for name, kind, default in data.get("columns", ())],
                data.get("primary", ""),
                data.get("undecided", ()),
                [(start, end) for start, end in data.get("pairs", ())],
            )


def _value(data: Any) -> Any:
    if isinstance(data, dict):
        return base64.b64decode(data["base64"]) if "base64" in data else float(data["float"])
    return data
