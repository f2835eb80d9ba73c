"""The shared schema: columns that SQLite and a target both have, with their types."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from nimad.source.schema import EDGES, NODES, TARGET_TABLES, TURNS, Schema, Table, ValueKind
from nimad.target import catalog
from nimad.target.database import Database

#: The engine's types whose values can be held against SQLite's. `SERIAL`: an INT64 that the engine counts up itself.
_KINDS: Mapping[str, ValueKind] = {
    **dict.fromkeys(("INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8"), ValueKind.INT64),
    "SERIAL": ValueKind.INT64,
    **dict.fromkeys(("DOUBLE", "FLOAT"), ValueKind.DOUBLE),
    "STRING": ValueKind.STRING,
    "BOOL": ValueKind.BOOL,
    "BLOB": ValueKind.BLOB,
}
VECTOR = re.compile(r"FLOAT\[(\d+)\]")
#: The key of each table in the target; it is no column of its own.
KEYS: Mapping[str, str] = {NODES: "id", TURNS: "id", EDGES: "edge_id"}


@dataclass(frozen=True)
class SharedSchema:
    """What can be compared. `narrow`: numbers that the target holds in 32 bits, by table and its name for them."""

    schema: Schema
    present: frozenset[str]  # tables of the target
    keyed: bool  # whether edges have the source's key
    narrow: frozenset[tuple[str, str]]
    remarks: tuple[str, ...]  # columns that are not in the target as they should be
    beyond: Mapping[str, Mapping[str, str]]  # columns of the target that SQLite lacks, with their types, by its tables

    def has(self, table: str) -> bool:
        """Whether the target has what a table of SQLite becomes."""
        return TARGET_TABLES[table] in self.present


def shared_schema_of(database: Database, schema: Schema) -> SharedSchema:
    """Look which columns are on both sides."""
    present = frozenset(database.tables())
    narrow: set[tuple[str, str]] = set()
    remarks: list[str] = []
    beyond: dict[str, dict[str, str]] = {}
    tables: dict[str, Table] = {}
    dimension = schema.dimension
    keyed = False
    for table in schema.tables():
        if TARGET_TABLES[table.name] not in present:
            remarks.append(f"{TARGET_TABLES[table.name]} is missing")
            tables[table.name] = replace(table, columns=())
            continue
        there = types(database, TARGET_TABLES[table.name])
        columns = []
        for column in table.columns:
            kind, floats = _kind(there.get(column.target, ""))
            if kind is None:
                found = there.get(column.target, "missing")
                remarks.append(f"{TARGET_TABLES[table.name]}.{column.target} is {found}")
                continue
            if kind is ValueKind.VECTOR:
                dimension = floats
            if there[column.target] == "FLOAT":
                narrow.add((table.name, column.target))
                remarks.append(f"{TARGET_TABLES[table.name]}.{column.target} is FLOAT, and SQLite has 64 bits")
            columns.append(replace(column, kind=kind))
        tables[table.name] = replace(table, columns=tuple(columns))
        keyed |= table.name == EDGES and KEYS[EDGES] in there
        carried = {KEYS[table.name], *(column.target for column in table.columns)}
        beyond[table.name] = {name: kind for name, kind in there.items() if name not in carried}
    fitted = replace(schema, nodes=tables[NODES], edges=tables.get(EDGES), turns=tables.get(TURNS), dimension=dimension)
    return SharedSchema(fitted, present, keyed, frozenset(narrow), tuple(remarks), beyond)


def types(database: Database, table: str) -> dict[str, str]:
    """The columns of a table of the target, with the engine's types."""
    return {column.name: column.type for column in catalog.columns(database, table)}


def kind_of(declared: str) -> ValueKind | None:
    """What a type of the engine's is for us; None for one whose values SQLite has no equal of."""
    return _kind(declared)[0]


def _kind(declared: str) -> tuple[ValueKind | None, int]:
    """What a type of the engine's is for us, and how many floats a vector has."""
    if vector := VECTOR.fullmatch(declared):
        return ValueKind.VECTOR, int(vector[1])
    return _KINDS.get(declared), 0
