"""Rows and values that earlier runs left out because they took workers down, as the quarantine lists them."""

import re
import sqlite3
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

from nimad.source.rows import Reject, columns_of, json_row, part_of, read_ids
from nimad.source.schema import Column, Schema, Table
from nimad.source.sqlite_file import SourceFile
from nimad.state.quarantine import entry_of, key_of, line_of, lines

#: Why something is not to be handed to the engine, in how many workers it failed, and with which engine.
Failed = tuple[str, int, str]
#: Rows, by source table and id.
Isolated = Mapping[str, Mapping[int, Failed]]
#: Values, by source table, id and column of the target.
Refused = Mapping[str, Mapping[int, Mapping[str, Failed]]]
#: Both, as they are found here.
_LeftOut = tuple[dict[str, dict[int, Failed]], dict[str, dict[int, dict[str, Failed]]]]
#: What tells such a line from most others, before it is read as JSON.
_HAS_FAILED: Final = re.compile(rb'"attempts"\s*:\s*[1-9]')
#: Entries of rows and values that failed, of which each cost some workers; what is beyond is tried again.
MOST_FAILED: Final = 10_000


def left_out(source: SourceFile, schema: Schema, file: Path) -> _LeftOut:
    """Rows and values that the engine does not take, by the quarantine in `file`, and that nobody changed since.

    One entry at a time is compared with SQLite's row: the file may be of any length.
    """
    if next(_failed(schema, file), None) is None:
        return {}, {}
    return source.read(lambda connection: _left_out(connection, schema, file))


def _left_out(connection: sqlite3.Connection, schema: Schema, file: Path) -> _LeftOut:
    isolated: dict[str, dict[int, Failed]] = {}
    refused: dict[str, dict[int, dict[str, Failed]]] = {}
    for table, entry, line in islice(_failed(schema, file), MOST_FAILED):
        key, why = entry["id"], (entry["reason"], entry["attempts"], entry["engine"])
        column = _column(table, entry["part"])
        rows = read_ids(connection, table, [key])
        for row in map(rows.named, range(len(rows))):
            if entry["part"] == "row" and _is_same(entry, row, line):
                isolated.setdefault(table.name, {})[key] = why
            elif column and _is_same(entry, row, line, column.name):
                refused.setdefault(table.name, {}).setdefault(key, {})[column.target] = why
    return isolated, refused


def _failed(schema: Schema, file: Path) -> Iterator[tuple[Table, dict[str, Any], bytes]]:
    """What took workers down, or did not come back from the engine; without the row where its line is a long one."""
    tables = {table.name: table for table in schema.tables()}
    for line in lines(file):
        entry = entry_of(line) if _HAS_FAILED.search(line) else None
        if entry and entry["table"] in tables and _is_failed(entry):
            yield tables[entry["table"]], entry, line


def _is_failed(entry: Mapping[str, Any]) -> bool:
    attempts = entry.get("attempts")
    if type(attempts) is not int or attempts < 1 or key_of(entry) is None:
        return False
    return isinstance(entry.get("reason"), str) and isinstance(entry.get("engine"), str)


def _column(table: Table, part: str) -> Column | None:
    return next((column for column in columns_of(table) if part_of(column) == part), None)


def _is_same(entry: Mapping[str, Any], row: Mapping[str, Any], line: bytes, column: str = "") -> bool:
    """Whether a row, or its value in a column, still is what its entry says. One that somebody edited is theirs."""
    if "row" not in entry:  # it is long: as text it takes less memory
        told = {name: entry[name] for name in ("table", "id", "part", "reason", "attempts", "engine")}
        return line == line_of(Reject(**told, row=row))
    there, here = entry["row"], json_row(row)
    if not column or not isinstance(there, dict):
        return bool(there == here)
    return column in here and here[column] == there.get(column)
