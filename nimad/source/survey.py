"""The survey: what a memory holds, in one look at one moment."""

import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from nimad.errors import SourceDamagedError, SourceError
from nimad.source import schema as s
from nimad.source.file import Identity, SourceFile
from nimad.source.ranges import weight_of


@dataclass(frozen=True)
class TableSurvey:
    """One table's extent. `last` is its highest key: the bound of a run. `strays` have a key that is no integer."""

    rows: int
    bytes: int
    last: int | None
    strays: int


@dataclass(frozen=True)
class LeftOut:
    """A table that is not migrated, with its rows (None where they cannot be counted) and why."""

    name: str
    rows: int | None
    why: str


@dataclass(frozen=True)
class Survey:
    """A memory at one moment: its schema, extent and layers. Sizes in bytes."""

    identity: Identity
    size: int
    schema: s.Schema
    tables: Mapping[str, TableSurvey]
    layers: Mapping[str, int]
    left_out: tuple[LeftOut, ...]
    schema_version: int  # SQLite's own number, which every CREATE, ALTER and DROP moves

    @property
    def nodes(self) -> TableSurvey:
        return self.tables[s.NODES]

    @property
    def row_bytes(self) -> int:
        return sum(table.bytes for table in self.tables.values())


def survey(source: SourceFile, *, nodes_only: bool = False) -> Survey:
    """Look at every table once. Raises `SourceError` when the file holds no NIMA memory."""
    return source.read(lambda connection: _survey(connection, source, nodes_only=nodes_only))


def _survey(connection: sqlite3.Connection, source: SourceFile, *, nodes_only: bool) -> Survey:
    schema = read_schema(connection, source, nodes_only=nodes_only)
    return Survey(
        identity=source.identity(),
        size=source.size(),
        schema=schema,
        tables={table.name: _extent(connection, table) for table in schema.tables()},
        layers=_layers(connection, schema.nodes),
        left_out=_left_out(connection, schema),
        schema_version=int(connection.execute("PRAGMA schema_version").fetchone()[0]),
    )


def read_schema(connection: sqlite3.Connection, source: SourceFile, *, nodes_only: bool) -> s.Schema:
    nodes = s.read_table(connection, s.NODES, s.NODE_KINDS)
    if nodes is None:
        raise SourceError(
            f"{source.path} has no table memory_nodes, so it is no NIMA memory; name the right file with --source"
        )
    edges = None if nodes_only else s.read_table(connection, s.EDGES, s.EDGE_KINDS, s.EDGE_ENDS)
    if edges is not None and len(edges.ends) < len(s.EDGE_ENDS):
        edges = None  # edges without both ends cannot be drawn; the table is named as left out
    turns = None if nodes_only else s.read_table(connection, s.TURNS, s.TURN_KINDS, tuple(s.LINKS))
    return s.Schema(nodes, edges, turns, _dimension(connection, nodes))


def _dimension(connection: sqlite3.Connection, nodes: s.Table) -> int:
    """The commonest number of floats in an embedding; of two equally common ones, the larger."""
    column = next((column for column in nodes.columns if column.kind is s.Kind.VECTOR), None)
    if column is None:
        return s.DEFAULT_DIMENSION
    name = s.quoted(column.name)
    # Grouped here: in a GROUP BY, or a condition on it, SQLite reads whole embeddings to know their length.
    lengths = connection.execute(f"SELECT length({name}) FROM {s.quoted(nodes.name)} WHERE typeof({name}) = 'blob'")
    found = Counter(length for (length,) in lengths if length and length % s.FLOAT_BYTES == 0)
    length, _ = max(found.items(), key=lambda item: (item[1], item[0]), default=(0, 0))
    return length // s.FLOAT_BYTES or s.DEFAULT_DIMENSION


def _extent(connection: sqlite3.Connection, table: s.Table) -> TableSurvey:
    key = s.quoted(table.key)
    rows, size, last, strays = connection.execute(
        f"SELECT count(*), coalesce(sum({weight_of(table)}), 0), "
        f"max(CASE WHEN typeof({key}) = 'integer' THEN {key} END), "
        f"coalesce(sum(typeof({key}) <> 'integer'), 0) FROM {s.quoted(table.name)}"
    ).fetchone()
    return TableSurvey(rows, size, last, strays)


def _layers(connection: sqlite3.Connection, nodes: s.Table) -> dict[str, int]:
    if not any(column.target == "layer" for column in nodes.columns):
        return {}
    rows = connection.execute(
        f"SELECT layer, count(*) FROM {s.quoted(nodes.name)} GROUP BY layer ORDER BY count(*) DESC, layer"
    )
    return {layer if isinstance(layer, str) else repr(layer): count for layer, count in rows}


def left_out_of_damaged(source: SourceFile, schema: s.Schema) -> tuple[LeftOut, ...]:
    """What is not migrated of a file with damaged pages, as far as it can be read: less than all, or nothing."""
    try:
        return source.read(lambda connection: _left_out(connection, schema))
    except SourceDamagedError:
        return ()


def _left_out(connection: sqlite3.Connection, schema: s.Schema) -> tuple[LeftOut, ...]:
    migrated = {table.name for table in schema.tables()}
    # table_list knows which tables are the innards of a virtual one ("shadow"); it came with SQLite 3.37.
    rows = connection.execute(
        "SELECT name, type FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual') "
        "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
    ).fetchall()
    return tuple(
        LeftOut(name, _count(connection, name), "an index, not data" if kind == "virtual" else "not migrated")
        for name, kind in rows
        if name not in migrated
    )


def _count(connection: sqlite3.Connection, table: str) -> int | None:
    try:
        return int(connection.execute(f"SELECT count(*) FROM {s.quoted(table)}").fetchone()[0])
    except sqlite3.Error:  # a virtual table whose module this SQLite lacks
        return None
