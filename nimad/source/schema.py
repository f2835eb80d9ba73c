"""What the source's columns become: names and types in the target, decided once a run."""

import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

NODES = "memory_nodes"
EDGES = "memory_edges"
TURNS = "memory_turns"

#: Floats in an embedding when no row has one: NIMA's own default.
DEFAULT_DIMENSION = 512
FLOAT_BYTES = 4


class Kind(StrEnum):
    """A column's type in the target."""

    INT64 = "INT64"
    DOUBLE = "DOUBLE"
    STRING = "STRING"
    BOOL = "BOOL"
    BLOB = "BLOB"
    VECTOR = "VECTOR"


@dataclass(frozen=True)
class Column:
    """One column of the source and what it is called and typed in the target."""

    name: str
    target: str
    kind: Kind


@dataclass(frozen=True)
class Table:
    """One table of the source. `key` is the column that orders it: `id`, or `rowid` where there is none."""

    name: str
    key: str
    columns: tuple[Column, ...]  # without the key and without the ends of edges and turns
    ends: tuple[str, ...] = ()  # columns that hold ids of nodes


@dataclass(frozen=True)
class Schema:
    """All that is migrated. `dimension`: floats in an embedding."""

    nodes: Table
    edges: Table | None
    turns: Table | None
    dimension: int

    def tables(self) -> tuple[Table, ...]:
        return tuple(table for table in (self.nodes, self.edges, self.turns) if table is not None)

    def table(self, name: str) -> Table:
        return next(table for table in self.tables() if table.name == name)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Schema":
        return cls(
            nodes=_table_from_json(data["nodes"]),
            edges=_table_from_json(data["edges"]) if data["edges"] else None,
            turns=_table_from_json(data["turns"]) if data["turns"] else None,
            dimension=data["dimension"],
        )


def _table_from_json(data: Mapping[str, Any]) -> Table:
    columns = tuple(Column(item["name"], item["target"], Kind(item["kind"])) for item in data["columns"])
    return Table(data["name"], data["key"], columns, tuple(data["ends"]))


#: MemoryNode as nima-core's readers declare it, but for `strength` and `decay_rate`: the readers say FLOAT, we
#: keep the source's 64 bits. A FLOAT column answers `strength >= 0.95` with no row where SQLite gives all.
NODE_KINDS: Mapping[str, Kind] = {
    "timestamp": Kind.INT64,
    "layer": Kind.STRING,
    "text": Kind.STRING,
    "summary": Kind.STRING,
    "who": Kind.STRING,
    "affect_json": Kind.STRING,
    "session_key": Kind.STRING,
    "conversation_id": Kind.STRING,
    "turn_id": Kind.STRING,
    "fe_score": Kind.DOUBLE,
    "embedding": Kind.VECTOR,
    "strength": Kind.DOUBLE,
    "decay_rate": Kind.DOUBLE,
    "last_accessed": Kind.INT64,
    "is_ghost": Kind.BOOL,
    "dismissal_count": Kind.INT64,
    "recall_count": Kind.INT64,
    "memory_type": Kind.STRING,
    "importance": Kind.DOUBLE,
    "emotions": Kind.STRING,
    "themes": Kind.STRING,
    "source_agent": Kind.STRING,
    "model": Kind.STRING,
    "created_at": Kind.STRING,
}
EDGE_KINDS: Mapping[str, Kind] = {"relation": Kind.STRING, "weight": Kind.DOUBLE, "created_at": Kind.STRING}
TURN_KINDS: Mapping[str, Kind] = {
    "turn_id": Kind.STRING,
    "timestamp": Kind.INT64,
    "affect_json": Kind.STRING,
    "created_at": Kind.STRING,
}

EDGE_ENDS = ("source_id", "target_id")
#: What each table becomes.
TARGET_TABLES: Mapping[str, str] = {NODES: "MemoryNode", EDGES: "relates_to", TURNS: "Turn"}
#: A turn's links, by the column of the source that holds the node's id.
LINKS: Mapping[str, str] = {
    "input_node_id": "has_input",
    "contemplation_node_id": "has_contemplation",
    "output_node_id": "has_output",
}

#: Names the engine keeps for itself. `from` and `to` are worse than refused in a relationship table: COPY
#: fills them with the ends' ids and reports success (measured with 0.22.0).
_RESERVED = frozenset({"_id", "_label", "_src", "_dst"})
_RESERVED_IN_EDGES = _RESERVED | {"from", "to", "edge_id"}


def quoted(name: str) -> str:
    """Quote an SQLite identifier."""
    return '"' + name.replace('"', '""') + '"'


def key_of(names: list[str]) -> str:
    return next((name for name in names if name.lower() == "id"), "rowid")


def columns_of(connection: sqlite3.Connection, table: str) -> list[tuple[str, str]]:
    """Name and declared type of each column, in the file's order; empty when there is no such table."""
    # xinfo is table_info and the generated columns; 1 marks a virtual table's hidden ones, which hold no data.
    rows = connection.execute("SELECT name, type FROM pragma_table_xinfo(?) WHERE hidden <> 1", (table,))
    return [(str(name), str(declared or "")) for name, declared in rows]


def moved_columns(connection: sqlite3.Connection, table: Table) -> list[str]:
    """Which columns came, and then which went, since a table was read."""
    now = {name for name, _ in columns_of(connection, table.name)} - {table.key}
    then = {*table.ends, *(column.name for column in table.columns)}
    return [*(f"{name} came" for name in sorted(now - then)), *(f"{name} went" for name in sorted(then - now))]


def read_table(
    connection: sqlite3.Connection, name: str, known: Mapping[str, Kind], ends: tuple[str, ...] = ()
) -> Table | None:
    """What table `name` becomes, or None when the source has no such table, or not the ends it needs."""
    declared = columns_of(connection, name)
    if not declared:
        return None
    key = key_of([column for column, _ in declared])
    by_name = {column.lower(): column for column, _ in declared}
    present_ends = tuple(by_name[end] for end in ends if end in by_name)
    carried = [(column, kind) for column, kind in declared if column != key and column not in present_ends]
    taken: set[str] = {"id"}
    reserved = _RESERVED_IN_EDGES if name == EDGES else _RESERVED
    columns = []
    for column, declared_type in carried:
        kind = known.get(column.lower()) or _nearest_kind(connection, name, column, declared_type)
        target = _free_name(column, known, reserved, taken)
        taken.add(target.lower())
        columns.append(Column(column, target, kind))
    return Table(name, key, tuple(columns), present_ends)


def _free_name(column: str, known: Mapping[str, Kind], reserved: frozenset[str], taken: set[str]) -> str:
    name = column.lower() if column.lower() in known else column
    while name.lower() in reserved or name.lower() in taken or not name:
        name += "_"
    return name


def _nearest_kind(connection: sqlite3.Connection, table: str, column: str, declared: str) -> Kind:
    """The type nearest to a declared one, by SQLite's affinity rules (sqlite.org/datatype3.html, 3.1)."""
    upper = declared.upper()
    if "INT" in upper:
        return Kind.INT64
    if any(word in upper for word in ("CHAR", "CLOB", "TEXT")):
        return Kind.STRING
    if "BLOB" in upper:
        return Kind.BLOB
    if any(word in upper for word in ("REAL", "FLOA", "DOUB")):
        return Kind.DOUBLE
    return _kind_of_values(connection, table, column)


def _kind_of_values(connection: sqlite3.Connection, table: str, column: str) -> Kind:
    """NUMERIC (DATETIME, BOOLEAN, …) and undeclared columns say nothing: the values that are there decide."""
    name = quoted(column)
    found = {
        row[0]
        for row in connection.execute(f"SELECT DISTINCT typeof({name}) FROM {quoted(table)} WHERE {name} IS NOT NULL")
    }
    if found == {"integer"}:
        return Kind.INT64
    if found and found <= {"integer", "real"}:
        return Kind.DOUBLE
    if found == {"blob"}:
        return Kind.BLOB
    return Kind.STRING
