"""Stats of a memory, whatever file it lies in; here those of SQLite."""

import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nimad.source.cells import InvalidText, Uncomputed
from nimad.source.schema import EDGES, NODES, TURNS, columns_of
from nimad.source.sql import sql_name

#: How many of those who contributed most are named.
CONTRIBUTORS = 5


@dataclass(frozen=True)
class ExpectedDifferences:
    """Figures of rows that one of two sides alone has."""

    nodes: int = 0
    turns: int = 0
    edges: int = 0
    embeddings: int = 0
    layers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class MemoryStats:
    """Figures of one memory. Moments are milliseconds since the epoch; None where no memory has one."""

    nodes: int = 0
    turns: int = 0
    edges: int = 0
    embeddings: int = 0
    recent: int = 0  # memories since the moment that was asked for
    first_ms: int | None = None
    last_ms: int | None = None
    layers: Mapping[str, int] = field(default_factory=dict)
    contributors: Mapping[str, int] = field(default_factory=dict)  # those with the most memories
    mean_fe_score: float | None = None
    tables: Sequence[str] = ()
    full_text_index: bool = False
    vector_index: bool = False
    hidden: int = 0  # of a target: memories whose `is_ghost` is NULL, which no reader of the agent's sees


def read_stats(connection: sqlite3.Connection, since_ms: int) -> MemoryStats | None:
    """The figures of an SQLite file, `recent` from `since_ms` on; None where it has no memories' table.

    Columns and tables that a release lacks count as empty, and a
    value of another type than its column's as none.
    """
    nodes = _Columns(connection, NODES)
    if not nodes.names:
        return None
    moment, score = nodes.number("timestamp"), nodes.number("fe_score")
    row = connection.execute(
        f"SELECT count(*), count({nodes.any('embedding')}), coalesce(sum({moment} >= ?), 0), min({moment}), "
        f"max({moment}), avg({score}) FROM {sql_name(NODES)}",
        (since_ms,),
    ).fetchone()
    return MemoryStats(
        nodes=row[0],
        turns=_rows(connection, TURNS),
        edges=_rows(connection, EDGES),
        embeddings=row[1],
        recent=row[2],
        first_ms=_whole(row[3]),
        last_ms=_whole(row[4]),
        layers=nodes.groups("layer"),
        contributors=nodes.groups("who", CONTRIBUTORS),
        mean_fe_score=finite(row[5]),
        tables=_tables(connection),
        full_text_index=_has_full_text_index(connection),
    )


class _Columns:
    """One table's columns by the names that NIMA gives them, as expressions that are NULL where there is none."""

    def __init__(self, connection: sqlite3.Connection, table: str) -> None:
        self._connection, self._table = connection, sql_name(table)
        self.names = {name.lower(): sql_name(name) for name, _ in columns_of(connection, table)}

    def number(self, name: str) -> str:
        column = self.names.get(name)
        return f"CASE WHEN typeof({column}) IN ('integer', 'real') THEN {column} END" if column else "NULL"

    def any(self, name: str) -> str:
        return self.names.get(name, "NULL")

    def groups(self, name: str, most: int = -1) -> dict[str, int]:
        """Rows by a column's value, the most frequent first; of all values, or of so many."""
        return named(
            self._connection.execute(
                f"SELECT {self.any(name)} COLLATE BINARY, count(*) FROM {self._table} "
                "GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?",
                (most,),
            )
        )


def named(groups: Iterable[Sequence[Any]]) -> dict[str, int]:
    """Groups by what their value is called: the text that it becomes in a target."""
    found: dict[str, int] = {}
    for value, rows in groups:
        raw = value.raw if isinstance(value, InvalidText) else None if isinstance(value, Uncomputed) else value
        name = raw.decode(errors="replace") if isinstance(raw, bytes) else raw if isinstance(raw, str) else repr(raw)
        found[name] = found.get(name, 0) + rows
    return found


def finite(value: Any) -> float | None:
    """A mean as JSON can have it."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _whole(value: Any) -> int | None:
    return None if finite(value) is None else int(value)


def _rows(connection: sqlite3.Connection, table: str) -> int:
    if not columns_of(connection, table):
        return 0
    return int(connection.execute(f"SELECT count(*) FROM {sql_name(table)}").fetchone()[0])


def _tables(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual') "
        "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
    )
    return [str(name) for (name,) in rows]


def _has_full_text_index(connection: sqlite3.Connection) -> bool:
    rows = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND sql LIKE '%USING%fts%'")
    return rows.fetchone() is not None
