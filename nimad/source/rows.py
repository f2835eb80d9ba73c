"""Rows: read by range, converted value by value, and identified by a digest."""

import base64
import hashlib
import marshal
import math
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from sys import getsizeof
from typing import Any

from nimad.source.cells import InvalidText, Uncomputed
from nimad.source.ranges import Range, check_order
from nimad.source.schema import EDGES, INT64_MIN, LINKS, Column, Schema, Table, ValueKind
from nimad.source.sql import sql_name
from nimad.source.sqlite_file import SourceFile
from nimad.source.values import are_plain, cell

#: Bytes of a row's digest in the ledger.
DIGEST_BYTES = 8
#: Ids in one IN (…) list; SQLite allows 32,766 variables, older builds 999.
_IDS_PER_QUERY = 500


@dataclass(frozen=True)
class Reject:
    """A row, or one part of it, that has no place in the target.

    `part` is `row` when the whole row is set aside; otherwise the row migrates with a default, NULL, or what is nearest
    in that part: a column or a link by its name in the target (`part_of`). One with `attempts` took down every worker
    that handed it to the engine; any other is one that the target has no value for.
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
    if isinstance(value, Uncomputed):
        return {"not_computed": value.why}
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
    condition, values = wanted.condition(sql_name(table.key))
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
    key = sql_name(table.key)
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
        found.extend(_select(connection, table, f"{sql_name(table.key)} IN ({marks})", part).values)
    return Rows(table, [row[0] for row in found], found)


def keys_among(connection: sqlite3.Connection, table: Table, ids: Collection[int]) -> list[int]:
    """Those of some ids that rows of a table have."""
    found, listed, key = [], sorted(ids), sql_name(table.key)
    for start in range(0, len(listed), _IDS_PER_QUERY):
        part = listed[start : start + _IDS_PER_QUERY]
        marks = ", ".join("?" * len(part))
        rows = connection.execute(f"SELECT {key} FROM {sql_name(table.name)} WHERE {key} IN ({marks})", part)
        found += [row[0] for row in rows]
    return found


def read_keys(connection: sqlite3.Connection, table: Table) -> set[int]:
    """Every key of a table that is an integer."""
    key = sql_name(table.key)
    rows = connection.execute(f"SELECT {key} FROM {sql_name(table.name)} WHERE typeof({key}) = 'integer'")
    return {row[0] for row in rows}


def keys_of(connection: sqlite3.Connection, table: Table, wanted: Range) -> list[int]:
    """The keys of a range, in order."""
    key = sql_name(table.key)
    condition, values = wanted.condition(key)
    rows = connection.execute(f"SELECT {key} FROM {sql_name(table.name)} WHERE {condition} ORDER BY {key}", values)
    return [row[0] for row in rows]


def read_strays(connection: sqlite3.Connection, table: Table) -> Rows:
    """Rows whose key is no integer: only possible where `id` is not the INTEGER PRIMARY KEY."""
    return _select(connection, table, f"typeof({sql_name(table.key)}) <> 'integer'", ())


def _select(connection: sqlite3.Connection, table: Table, condition: str, values: tuple[Any, ...]) -> Rows:
    rows = _rows_of(connection, table, condition, values).fetchall()
    return Rows(table, [row[0] for row in rows], rows)


def _rows_of(
    connection: sqlite3.Connection, table: Table, condition: str, values: tuple[Any, ...], limit: str = ""
) -> sqlite3.Cursor:
    names = ", ".join(sql_name(name) for name in column_names(table))
    return connection.execute(
        f"SELECT {names} FROM {sql_name(table.name)} WHERE {condition} ORDER BY {sql_name(table.key)} {limit}", values
    )


@dataclass(frozen=True)
class ConvertedRows:
    """Rows that can be represented, their values converted column by column, and what had to be set aside."""

    rows: Rows
    columns: Sequence[Sequence[Any]]
    rejects: Sequence[Reject]

    def is_null(self, position: int, index: int) -> bool:
        """Whether SQLite has nothing in a row's end or column, where `columns` may have the default."""
        return self.rows.values[position][index + 1] is None


#: By key, rows that take workers down: why, how many they took down, and with which engine.
Isolated = Mapping[int, tuple[str, int, str]]

#: The same of values, by key and column of the target: those that the engine did not give back.
Refused = Mapping[int, Mapping[str, tuple[str, int, str]]]


def convert_rows(
    rows: Rows, schema: Schema, isolated: Isolated | None = None, refused: Refused | None = None
) -> ConvertedRows:
    """Decide what becomes of every value of `rows` (:mod:`nimad.source.values`), and set aside what has no place.

    Whole rows are set aside only where their key is another's, where an edge has no end to tie to, and where they are
    isolated.
    """
    table = rows.table
    bad = _unusable_keys(rows, schema)
    parts: dict[tuple[int, int], Reject] = {}
    converted: list[Sequence[Any]] = []
    for index, column in enumerate(columns_of(table)):
        values, reasons = _convert_column(column, rows.column(index + 1), schema)
        for position, reason in reasons.items():
            if table.name == EDGES and index < len(table.ends):
                bad.setdefault(position, reason)
            else:
                parts[position, index] = set_aside(rows, position, part_of(column), reason)
        for position, (reason, attempts, engine) in _refused_in(column, rows, refused or {}):
            values[position] = column.default
            reject = set_aside(rows, position, part_of(column), reason)
            parts[position, index] = replace(reject, attempts=attempts, engine=engine)
        converted.append(values)
    rejects = [reject for (position, _), reject in sorted(parts.items()) if position not in bad]
    if not bad:
        return _apart(ConvertedRows(rows, converted, rejects), isolated or {})
    rejects += _each_of_its_own([_whole(rows, position, reason) for position, reason in sorted(bad.items())])
    keep = [position not in bad for position in range(len(rows))]
    return _apart(ConvertedRows(rows.only(keep), _kept(converted, keep), rejects), isolated or {})


def _refused_in(column: Column, rows: Rows, refused: Refused) -> Iterator[tuple[int, tuple[str, int, str]]]:
    """Positions of rows whose value of a column was refused, and why."""
    for position, key in enumerate(rows.keys if refused else ()):
        if column.target in refused.get(key, ()):
            yield position, refused[key][column.target]


def _apart(judged: ConvertedRows, isolated: Isolated) -> ConvertedRows:
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
    return ConvertedRows(judged.rows.only(keep), _kept(judged.columns, keep), [*parts, *rejects])


def _kept(columns: Sequence[Sequence[Any]], keep: Sequence[bool]) -> list[list[Any]]:
    return [[value for value, flag in zip(column, keep, strict=True) if flag] for column in columns]


def convert_strays(rows: Rows) -> list[Reject]:
    return _each_of_its_own([_whole(rows, position, _why_stray(key)) for position, key in enumerate(rows.keys)])


def _each_of_its_own(rejects: Sequence[Reject]) -> list[Reject]:
    """The same; of rows that are equal in all columns each but the first says so, or they would be one entry."""
    before: Counter[tuple[bytes, str]] = Counter()
    told = []
    for reject in rejects:
        equal = digest(tuple(reject.row.values())), reject.reason
        number = before[equal]
        before[equal] += 1
        told.append(replace(reject, reason=f"{reject.reason}; equal row {number + 1}") if number else reject)
    return told


def _why_stray(key: Any) -> str:
    return f"its id does not compute: {key.why}" if isinstance(key, Uncomputed) else "its id is no integer"


def columns_of(table: Table) -> Iterator[Column]:
    """The ends of edges or turns, by the names of their links, and then the columns."""
    yield from (Column(end, LINKS.get(end.lower(), end), ValueKind.INT64) for end in table.ends)
    yield from table.columns


#: Parts that are no column's.
_OTHER_PARTS = frozenset({"row", "range", "id", *LINKS.values()})


def part_of(column: Column) -> str:
    """What the quarantine calls the value of a column, or a link: its name in the target."""
    is_end = column.name.lower() in LINKS and column.target == LINKS[column.name.lower()]
    return f'"{column.target}"' if column.target in _OTHER_PARTS and not is_end else column.target


def _convert_column(column: Column, values: list[Any], schema: Schema) -> tuple[list[Any], dict[int, str]]:
    """What the values of a column become, and by position why some are set aside."""
    if column.default is not None:
        values = [column.default if value is None else value for value in values]
    if are_plain(column, values, schema):
        return values, {}
    cells = [cell(column, value, schema) for value in values]
    return [each.value for each in cells], {at: each.reason for at, each in enumerate(cells) if each.reason}


def _unusable_keys(rows: Rows, schema: Schema) -> dict[int, str]:
    keys = rows.keys
    found = {
        position: "another row has the same id"
        for position in range(1, len(keys))
        if keys[position] == keys[position - 1]
    }
    if schema.least > INT64_MIN and keys and keys[0] < schema.least:
        found[0] = "its id is one that the engine which writes stores as another"
    return found


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
        data = marshal.dumps(tuple(map(_told_apart, row)), 2)
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def _told_apart(value: Any) -> Any:
    """A value as marshal takes it."""
    if isinstance(value, InvalidText):
        return "?", value.raw
    return ("not computed",) if isinstance(value, Uncomputed) else value
