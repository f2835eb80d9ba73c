"""The survey of a memory: tables, counts and sizes, taken in one snapshot."""

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nimad.errors import SourceDamagedError, SourceError
from nimad.source import embeddings, foreign_wal
from nimad.source import schema as s
from nimad.source.cells import InvalidText
from nimad.source.embeddings import Stored
from nimad.source.ranges import weight_of
from nimad.source.sql import sql_name
from nimad.source.sqlite_file import Identity, SourceFile
from nimad.source.stand_ins import Reading
from nimad.source.stats import named


@dataclass(frozen=True)
class TableSurvey:
    """One table's extent. `last` is its highest key: the bound of a run. `strays` have a key that is no integer.

    `nulls`: how many rows lack a value, by each column in which that becomes a default.
    """

    rows: int
    bytes: int
    last: int | None
    strays: int
    nulls: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LeftOut:
    """A table that is not migrated, with its rows (None where they cannot be counted) and why."""

    name: str
    rows: int | None
    why: str
    is_lost: bool = False  # rows of a memory, which were to be migrated and cannot be


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
    stored: Stored = field(default_factory=Stored)  # its embeddings

    @property
    def nodes(self) -> TableSurvey:
        return self.tables[s.NODES]

    def defaults(self) -> dict[str, tuple[s.Default, int]]:
        """By column of the nodes: the default that NULLs become, and how many; all rows where there is no column."""
        there = {column.target for column in self.schema.nodes.columns}
        counts = {name: self.nodes.nulls.get(name, 0) if name in there else self.nodes.rows for name in s.NODE_DEFAULTS}
        return {name: (s.NODE_DEFAULTS[name], counts[name]) for name in s.FILLED_COLUMNS if counts[name]}

    @property
    def row_bytes(self) -> int:
        return sum(table.bytes for table in self.tables.values())


def survey(source: SourceFile, *, nodes_only: bool = False) -> Survey:
    """Look at every table once. Raises `SourceError` when the file holds no NIMA memory."""
    return source.read(lambda connection: _survey(connection, source, nodes_only=nodes_only))


def _survey(connection: sqlite3.Connection, source: SourceFile, *, nodes_only: bool) -> Survey:
    schema, stored = _read_schema(connection, source, nodes_only=nodes_only)
    return Survey(
        identity=source.identity(),
        size=source.size(),
        schema=schema,
        tables={table.name: _extent(connection, table) for table in schema.tables()},
        layers=_layers(connection, schema.nodes),
        left_out=_left_out(connection, schema),
        stored=stored,
        schema_version=int(connection.execute("PRAGMA schema_version").fetchone()[0]),
    )


def read_schema(connection: sqlite3.Connection, source: SourceFile, *, nodes_only: bool) -> s.Schema:
    return _read_schema(connection, source, nodes_only=nodes_only)[0]


def _read_schema(connection: sqlite3.Connection, source: SourceFile, *, nodes_only: bool) -> tuple[s.Schema, Stored]:
    nodes = s.read_table(connection, s.NODES, s.NODE_KINDS)
    if nodes is None:
        foreign_wal.refuse(source.path, "together without memory_nodes")
        raise SourceError(
            f"{source.path} has no table memory_nodes, so it is no NIMA memory; name the right file with --source"
        )
    edges = None if nodes_only else s.read_table(connection, s.EDGES, s.EDGE_KINDS, s.EDGE_ENDS)
    if edges is not None and len(edges.ends) < len(s.EDGE_ENDS):
        edges = None  # edges without both ends cannot be drawn; the table is named as left out
    turns = None if nodes_only else s.read_table(connection, s.TURNS, s.TURN_KINDS, tuple(s.LINKS))
    stored = embeddings.look_at_embeddings(connection, nodes)
    return s.Schema(nodes, edges, turns, stored.dimension, stored.widths), stored


def _extent(connection: sqlite3.Connection, table: s.Table) -> TableSurvey:
    key = sql_name(table.key)
    filled = [column for column in table.columns if column.default is not None]
    nulls = "".join(f", coalesce(sum({sql_name(column.name)} IS NULL), 0)" for column in filled)
    rows, size, last, strays, *counts = connection.execute(
        f"SELECT count(*), coalesce(sum({weight_of(table)}), 0), "
        f"max(CASE WHEN typeof({key}) = 'integer' THEN {key} END), "
        f"coalesce(sum(typeof({key}) <> 'integer'), 0){nulls} FROM {sql_name(table.name)}"
    ).fetchone()
    found = {column.target: count for column, count in zip(filled, counts, strict=True) if count}
    return TableSurvey(rows, size, last, strays, found)


def _layers(connection: sqlite3.Connection, nodes: s.Table) -> dict[str, int]:
    if not any(column.target == "layer" for column in nodes.columns):
        return {}
    rows = connection.execute(
        # By the bytes: the column's own collation may be one that only the agent has, or fold two layers into one.
        f"SELECT layer COLLATE BINARY, count(*) FROM {sql_name(nodes.name)} GROUP BY 1 ORDER BY count(*) DESC, 1"
    )
    return named(rows)


def undefined(connection: sqlite3.Connection) -> dict[str, str]:
    """Which edges or turns cannot be read at all, and why. A view that ends at some row is known by `read_schema`."""
    return {name: why for name in (s.EDGES, s.TURNS) if (why := s.why_undefined(connection, name))}


def left_out_of_damaged(source: SourceFile, schema: s.Schema) -> tuple[LeftOut, ...]:
    """What is not migrated of a file with damaged pages, as far as it can be read: less than all, or nothing."""

    def read(connection: sqlite3.Connection) -> tuple[LeftOut, ...]:
        connection.execute("PRAGMA writable_schema = ON")  # as for `salvage`: one broken line would hide all of them
        return _left_out(connection, schema)

    try:
        return source.read(read)
    except SourceDamagedError:
        return ()


def _left_out(connection: sqlite3.Connection, schema: s.Schema) -> tuple[LeftOut, ...]:
    migrated = {_folded(table.name) for table in schema.tables()}
    # table_list knows which tables are the innards of a virtual one ("shadow"); it came with SQLite 3.37.
    rows = connection.execute(
        "SELECT name, type FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual') "
        "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
    ).fetchall()
    lost = undefined(connection)
    named = [(_name(name), kind) for name, kind in rows if name not in lost]
    tables = [_of_table(connection, name, kind) for name, kind in named if _folded(name) not in migrated]
    tables += [LeftOut(name, None, f"it cannot be read: {why}", is_lost=True) for name, why in lost.items()]
    return (*tables, *_unparsed(connection), *_not_computed(connection, schema), *_unspelled(connection, schema))


def _of_table(connection: sqlite3.Connection, name: str, kind: str) -> LeftOut:
    rows = _count(connection, name)
    there = {column.lower() for column, _ in s.columns_of(connection, name)} if _folded(name) == s.EDGES else set()
    lacking = [end for end in s.EDGE_ENDS if there and end not in there]
    if lacking:
        return LeftOut(name, rows, f"it has no column {lacking[0]}", is_lost=bool(rows))
    return LeftOut(name, rows, "an index, not data" if kind == "virtual" else "not migrated")


def _name(name: str | InvalidText) -> str:
    return name.readable if isinstance(name, InvalidText) else name


def _folded(name: str) -> str:
    """A name as SQLite compares it: it folds the case of ASCII alone."""
    return name.encode().lower().decode()


def _unparsed(connection: sqlite3.Connection) -> Iterator[LeftOut]:
    """Tables whose definitions this SQLite passes over, because it cannot parse them."""
    if isinstance(connection, Reading) and connection.reads_past_definitions:
        rows = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
            "AND name NOT IN (SELECT name FROM pragma_table_list WHERE schema = 'main')"
        )
        why = f"SQLite {sqlite3.sqlite_version} cannot parse its definition"
        yield from (LeftOut(_name(name), None, why) for (name,) in rows)


def _not_computed(connection: sqlite3.Connection, schema: s.Schema) -> Iterator[LeftOut]:
    """Generated columns that have no value here; a copy of what can be read of a damaged file lacks others, too."""
    for table in schema.tables():
        carried = {table.key, *table.ends, *(column.name for column in table.columns)}
        for name in s.generated(connection, table.name):
            if name not in carried:
                why = s.why_not_computed(connection, table.name, name) or "not computed"
                yield LeftOut(f"{table.name}.{name}", None, f"a generated column: {why}")


def _unspelled(connection: sqlite3.Connection, schema: s.Schema) -> Iterator[LeftOut]:
    """Columns whose names are no UTF-8, which SQL cannot spell."""
    for table in schema.tables():
        for (name,) in connection.execute("SELECT name FROM pragma_table_xinfo(?, 'main')", (table.name,)):
            if isinstance(name, InvalidText):
                yield LeftOut(f"{table.name}.{name.readable}", None, "its name is not valid UTF-8")


def _count(connection: sqlite3.Connection, table: str) -> int | None:
    try:
        return int(connection.execute(f"SELECT count(*) FROM {sql_name(table)}").fetchone()[0])
    except sqlite3.Error:  # a virtual table whose module this SQLite lacks
        return None
