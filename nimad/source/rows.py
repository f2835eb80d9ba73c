"""Rows: read by id range, judged value by value, and told apart by a digest."""

import base64
import hashlib
import marshal
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from sys import getsizeof
from typing import Any

from nimad.source.file import InvalidText, SourceFile
from nimad.source.ranges import Range, check_order
from nimad.source.schema import Kind, Schema, Table, quoted
from nimad.source.values import UnrepresentableError, are_plain, convert

#: Bytes of a row's digest in the ledger.
DIGEST_BYTES = 8
#: Ids in one IN (…) list; SQLite allows 32,766 variables, older builds 999.
_IDS_PER_QUERY = 500


@dataclass(frozen=True)
class Reject:
    """A row, or one part of it, that has no place in the target.

    `part` is `row` when the whole row is set aside; otherwise the row migrates without that part: `embedding`,
    or the name of a link. A row with `attempts` took down every worker that handed it to the engine; any other is
    one that the target has no value for.
    """

    table: str
    id: Any
    part: str
    reason: str
    row: Mapping[str, Any]
    attempts: int = 0  # workers that it took down
    engine: str = ""  # and the engine they used

    def to_json(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "id": _json_value(self.id),
            "part": self.part,
            "reason": self.reason,
            "attempts": self.attempts,
            "engine": self.engine,
            "row": json_row(self.row),
        }


def json_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's values as JSON: blobs, text that is no UTF-8, and numbers that JSON lacks say what they are."""
    return {name: _json_value(value) for name, value in row.items()}


def _json_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, InvalidText):
        return {"text_base64": base64.b64encode(value.raw).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value


@dataclass(frozen=True)
class Rows:
    """Rows of one table in order of their keys, as SQLite gave them: key first, then ends, then columns."""

    table: Table
    keys: Sequence[Any]
    values: Sequence[tuple[Any, ...]]

    def __len__(self) -> int:
        return len(self.keys)

    def column(self, index: int) -> list[Any]:
        """One column's values; index 0 is the key."""
        return [row[index] for row in self.values]

    def only(self, keep: Sequence[bool]) -> "Rows":
        kept = [row for row, flag in zip(self.values, keep, strict=True) if flag]
        return Rows(self.table, [row[0] for row in kept], kept)

    def named(self, position: int) -> dict[str, Any]:
        """One whole row by column name, for the quarantine."""
        return dict(zip(column_names(self.table), self.values[position], strict=True))


def column_names(table: Table) -> tuple[str, ...]:
    return (table.key, *table.ends, *(column.name for column in table.columns))


def read_range(connection: sqlite3.Connection, table: Table, wanted: Range) -> Rows:
    condition, values = wanted.condition(quoted(table.key))
    return _select(connection, table, condition, values)


def read_slices(
    source: SourceFile, table: Table, whole: tuple[int | None, int], max_rows: int, max_bytes: int
) -> Iterator[tuple[Range, Rows]]:
    """Rows of a table with keys in `whole` (above the first, up to the second), some at a time; see `read_next`."""
    after, upto = whole
    size = max_rows, max_bytes
    while (rows := source.read(lambda c, after=after: read_next(c, table, after, upto, size))) is not None:  # type: ignore[misc]
        last = rows.keys[-1]
        yield Range(table.name, after, last, len(rows), 0), rows
        after = last


def read_next(
    connection: sqlite3.Connection, table: Table, after: int | None, upto: int, size: tuple[int, int]
) -> Rows | None:
    """The next rows after `after`, or None: at most so many rows, and bytes of memory unless one row alone takes more.

    Each is read once, where `next_range` and `read_range` together would read all texts twice. Rows of one key, which
    only a key without an index can have, stay together.
    """
    most, max_bytes = size
    key = quoted(table.key)
    condition, values = Range(table.name, after, upto, 0, 0).condition(key)
    found: list[tuple[Any, ...]] = []
    weight = 0
    for row in _rows_of(connection, table, condition, (*values, most), "LIMIT ?"):
        weight += sum(map(_memory_of, row))
        if found and weight > max_bytes:
            break
        found.append(row)
    if not found:
        return None
    last = found[-1][0]
    check_order(after, last)
    while found and found[-1][0] == last:
        found.pop()
    found.extend(_select(connection, table, f"{key} = ? AND typeof({key}) = 'integer'", (last,)).values)
    return Rows(table, [row[0] for row in found], found)


def _memory_of(value: Any) -> int:
    """Bytes of memory that a value takes."""
    return getsizeof(value.raw if isinstance(value, InvalidText) else value)


def read_ids(connection: sqlite3.Connection, table: Table, ids: Sequence[int]) -> Rows:
    """Exactly these rows, or fewer where some no longer exist."""
    found: list[tuple[Any, ...]] = []
    for start in range(0, len(ids), _IDS_PER_QUERY):
        part = tuple(sorted(ids)[start : start + _IDS_PER_QUERY])
        marks = ", ".join("?" * len(part))
        found.extend(_select(connection, table, f"{quoted(table.key)} IN ({marks})", part).values)
    return Rows(table, [row[0] for row in found], found)


def read_keys(connection: sqlite3.Connection, table: Table) -> set[int]:
    """Every key of a table that is an integer."""
    key = quoted(table.key)
    rows = connection.execute(f"SELECT {key} FROM {quoted(table.name)} WHERE typeof({key}) = 'integer'")
    return {row[0] for row in rows}


def keys_of(connection: sqlite3.Connection, table: Table, wanted: Range) -> list[int]:
    """The keys of a range, in order."""
    key = quoted(table.key)
    condition, values = wanted.condition(key)
    rows = connection.execute(f"SELECT {key} FROM {quoted(table.name)} WHERE {condition} ORDER BY {key}", values)
    return [row[0] for row in rows]


def read_strays(connection: sqlite3.Connection, table: Table) -> Rows:
    """Rows whose key is no integer: only possible where `id` is not the INTEGER PRIMARY KEY."""
    return _select(connection, table, f"typeof({quoted(table.key)}) <> 'integer'", ())


def _select(connection: sqlite3.Connection, table: Table, condition: str, values: tuple[Any, ...]) -> Rows:
    rows = _rows_of(connection, table, condition, values).fetchall()
    return Rows(table, [row[0] for row in rows], rows)


def _rows_of(
    connection: sqlite3.Connection, table: Table, condition: str, values: tuple[Any, ...], limit: str = ""
) -> sqlite3.Cursor:
    names = ", ".join(quoted(name) for name in column_names(table))
    return connection.execute(
        f"SELECT {names} FROM {quoted(table.name)} WHERE {condition} ORDER BY {quoted(table.key)} {limit}", values
    )


@dataclass(frozen=True)
class Judged:
    """Rows that can be represented, their values converted column by column, and what had to be set aside."""

    rows: Rows
    columns: Sequence[Sequence[Any]]
    rejects: Sequence[Reject]


#: By key, rows that take workers down: why, how many they took down, and with which engine.
Isolated = Mapping[int, tuple[str, int, str]]


def judge(rows: Rows, schema: Schema, isolated: Isolated | None = None) -> Judged:
    """Apply the rules of :mod:`nimad.source.values` to every value of `rows`, and set aside the isolated ones."""
    table = rows.table
    parts: dict[int, Reject] = {}
    bad = _repeated_keys(rows)
    converted: list[list[Any]] = []
    for index, (name, kind) in enumerate(_kinds(table)):
        column = rows.column(index + 1)
        if not are_plain(kind, column, schema.dimension):
            column = _convert_column(rows, name, kind, column, schema, bad, parts)
        converted.append(column)
    rejects = [reject for position, reject in parts.items() if position not in bad]
    if not bad:
        return _apart(Judged(rows, converted, rejects), isolated or {})
    rejects += [_whole(rows, position, reason) for position, reason in sorted(bad.items())]
    keep = [position not in bad for position in range(len(rows))]
    return _apart(Judged(rows.only(keep), _kept(converted, keep), rejects), isolated or {})


def _apart(judged: Judged, isolated: Isolated) -> Judged:
    keep = [key not in isolated for key in judged.rows.keys] if isolated else []
    if all(keep):
        return judged
    rejects = [
        replace(_whole(judged.rows, position, reason), attempts=attempts, engine=engine)
        for position, key in enumerate(judged.rows.keys)
        if key in isolated
        for reason, attempts, engine in (isolated[key],)
    ]
    whole = {reject.id for reject in rejects}
    parts = [reject for reject in judged.rejects if reject.id not in whole]
    return Judged(judged.rows.only(keep), _kept(judged.columns, keep), [*parts, *rejects])


def _kept(columns: Sequence[Sequence[Any]], keep: Sequence[bool]) -> list[list[Any]]:
    return [[value for value, flag in zip(column, keep, strict=True) if flag] for column in columns]


def judge_strays(rows: Rows) -> list[Reject]:
    return [_whole(rows, position, "its id is no integer") for position in range(len(rows))]


def _kinds(table: Table) -> Iterator[tuple[str, Kind]]:
    for end in table.ends:
        yield end, Kind.INT64
    for column in table.columns:
        yield column.name, column.kind


def _convert_column(
    rows: Rows,
    name: str,
    kind: Kind,
    column: list[Any],
    schema: Schema,
    bad: dict[int, str],
    parts: dict[int, Reject],
) -> list[Any]:
    result: list[Any] = []
    for position, value in enumerate(column):
        try:
            result.append(convert(kind, value, schema.dimension))
        except UnrepresentableError as error:
            result.append(None)
            if kind is Kind.VECTOR:
                parts[position] = set_aside(rows, position, "embedding", f"{name}: {error}")
            else:
                bad.setdefault(position, f"{name}: {error}")
    return result


def _repeated_keys(rows: Rows) -> dict[int, str]:
    keys = rows.keys
    return {
        position: "another row has the same id"
        for position in range(1, len(keys))
        if keys[position] == keys[position - 1]
    }


def _whole(rows: Rows, position: int, reason: str) -> Reject:
    return set_aside(rows, position, "row", reason)


def set_aside(rows: Rows, position: int, part: str, reason: str) -> Reject:
    """A reject for one row, or for one part of it."""
    return Reject(rows.table.name, rows.keys[position], part, reason, rows.named(position))


def digest(row: tuple[Any, ...]) -> bytes:
    """Eight bytes that tell whether a row of the source is still what it was.

    marshal's second version writes no references, so equal rows give equal bytes on every Python.
    """
    try:
        data = marshal.dumps(row, 2)
    except ValueError:
        data = marshal.dumps(tuple(("?", v.raw) if isinstance(v, InvalidText) else v for v in row), 2)
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
