"""Rows of SQLite that differ from what the ledger noted."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nimad.source.ranges import LAST_KEY
from nimad.source.rows import column_names, digest, read_next
from nimad.source.schema import Table
from nimad.source.sql import sql_name

#: Turns that are read again each time: the id of an answer is written into its turn after the turn.
RECENT_TURNS = 50
#: Ids in one IN (…) list.
_IDS_PER_QUERY = 500


def above(connection: sqlite3.Connection, table: Table, last: int | None) -> list[int]:
    """Keys above the highest one that was noted; all of them where none was."""
    key = sql_name(table.key)
    lower, values = ("", ()) if last is None else (f"AND {key} > ?", (last,))
    query = f"SELECT {key} FROM {sql_name(table.name)} WHERE typeof({key}) = 'integer' {lower} ORDER BY {key}"
    return [row[0] for row in connection.execute(query, values)]


def recent(connection: sqlite3.Connection, table: Table) -> Iterator[tuple[int, bytes]]:
    """The last rows of a table, with what they are now."""
    yield from _digests(connection, table, f"ORDER BY {sql_name(table.key)} DESC LIMIT {RECENT_TURNS}", ())


def accessed(
    connection: sqlite3.Connection, table: Table, since: int, noted: Mapping[int, bytes]
) -> tuple[list[int], int]:
    """Noted rows that were recalled since and are no longer what they were; and when the last recall was.

    The column has the agent's clock; one that ran ahead for a while hides later recalls from this, but not from
    `changed`.
    """
    column = next((column.name for column in table.columns if column.target == "last_accessed"), None)
    if column is None:
        return [], since
    condition = f"WHERE typeof({sql_name(column)}) = 'integer' AND {sql_name(column)} >= ?"
    position = column_names(table).index(column)
    found, latest = [], since
    for row in _select(connection, table, condition, (since,)):
        latest = max(latest, row[position])
        if row[0] in noted and noted[row[0]] != digest(row):
            found.append(row[0])
    return found, latest


def changed(
    connection: sqlite3.Connection, table: Table, after: int | None, size: tuple[int, int]
) -> tuple[int, list[tuple[int, bytes]]] | None:
    """The next rows after a key with what they are now, and the last key of them. `size`: at most rows and bytes."""
    rows = read_next(connection, table, after, LAST_KEY, size)
    return None if rows is None else (rows.keys[-1], [(row[0], digest(row)) for row in rows.values])


def referring(connection: sqlite3.Connection, table: Table, nodes: Sequence[int]) -> set[int]:
    """Keys of edges or turns one of whose ends is one of these nodes."""
    found: set[int] = set()
    key = sql_name(table.key)
    for start in range(0, len(nodes), _IDS_PER_QUERY):
        part = nodes[start : start + _IDS_PER_QUERY]
        marks = ", ".join("?" * len(part))
        for end in table.ends:
            query = f"SELECT {key} FROM {sql_name(table.name)} WHERE {sql_name(end)} IN ({marks})"
            found.update(row[0] for row in connection.execute(query, tuple(part)) if isinstance(row[0], int))
    return found


def ends(connection: sqlite3.Connection, table: Table, keys: Sequence[int]) -> set[int]:
    """The nodes that these edges or turns hang on."""
    found: set[int] = set()
    names = ", ".join(sql_name(end) for end in table.ends)
    for start in range(0, len(keys) if names else 0, _IDS_PER_QUERY):
        part = tuple(keys[start : start + _IDS_PER_QUERY])
        marks = ", ".join("?" * len(part))
        query = f"SELECT {names} FROM {sql_name(table.name)} WHERE {sql_name(table.key)} IN ({marks})"
        found.update(end for row in connection.execute(query, part) for end in row if isinstance(end, int))
    return found


def columns(
    connection: sqlite3.Connection, table: Table, names: Sequence[str], ids: Sequence[int]
) -> dict[int, tuple[Any, ...]]:
    """Some columns, by their names in the target, of the rows that have these keys; None for a column that is not."""
    there = {column.target: sql_name(column.name) for column in table.columns}
    wanted = ", ".join([sql_name(table.key), *(there.get(name, "NULL") for name in names)])
    found: dict[int, tuple[Any, ...]] = {}
    for start in range(0, len(ids), _IDS_PER_QUERY):
        part = tuple(ids[start : start + _IDS_PER_QUERY])
        marks = ", ".join("?" * len(part))
        query = f"SELECT {wanted} FROM {sql_name(table.name)} WHERE {sql_name(table.key)} IN ({marks})"
        found.update({row[0]: tuple(row[1:]) for row in connection.execute(query, part)})
    return found


def _digests(
    connection: sqlite3.Connection, table: Table, rest: str, values: tuple[Any, ...]
) -> Iterator[tuple[int, bytes]]:
    for row in _select(connection, table, rest, values):
        if isinstance(row[0], int):
            yield row[0], digest(row)


def _select(connection: sqlite3.Connection, table: Table, rest: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
    names = ", ".join(sql_name(name) for name in column_names(table))
    return connection.execute(f"SELECT {names} FROM {sql_name(table.name)} {rest}", values)


#: Rows, and the share of the copied ones, that an agent deletes in passing.
_ROWS, _SHARE = 10, 0.1


def deleted_in_passing(copied: int) -> float:
    """How many of so many copied rows may be gone without anybody having to ask."""
    return max(_ROWS, copied * _SHARE)
