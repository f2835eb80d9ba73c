"""The target's tables: what the readers expect, and every further column of the source."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nimad.source.schema import (
    EDGE_KINDS,
    EDGES,
    LINKS,
    NODE_KINDS,
    NODES,
    TARGET_TABLES,
    TURN_KINDS,
    TURNS,
    Column,
    Kind,
    Schema,
)
from nimad.target.database import Database
from nimad.target.into import quoted

NODE_TABLE = TARGET_TABLES[NODES]
TURN_TABLE = TARGET_TABLES[TURNS]
EDGE_TABLE = TARGET_TABLES[EDGES]
LINK_TABLES = tuple(LINKS.values())

#: What a reader finds in a column that the source lacks, where that is not NULL.
_DEFAULTS: Mapping[str, str] = {"recall_count": "DEFAULT 0"}


@dataclass(frozen=True)
class TargetTable:
    """One table to be: its columns with the engine's types, key first, and the statement that makes it."""

    name: str
    columns: Mapping[str, str]
    statement: str


def tables(schema: Schema) -> list[TargetTable]:
    """The tables of a target, nodes before the relationships that need them.

    All of them are made whatever the source holds: readers query every one.
    """
    dimension = schema.dimension
    edges = schema.edges.columns if schema.edges else ()
    turns = schema.turns.columns if schema.turns else ()
    node_columns = _types(NODE_KINDS, schema.nodes.columns, dimension)
    turn_columns = _types(TURN_KINDS, turns, dimension)
    edge_columns = {"edge_id": "INT64", **_types(EDGE_KINDS, edges, dimension)}
    made = [
        _node_table(NODE_TABLE, node_columns),
        _node_table(TURN_TABLE, turn_columns),
        _edge_table(EDGE_TABLE, NODE_TABLE, edge_columns),
    ]
    return made + [_edge_table(name, TURN_TABLE, {}) for name in LINK_TABLES]


def create(database: Database, schema: Schema) -> None:
    """Make the tables that are not there yet."""
    present = {row[0] for row in database.ask("CALL show_tables() RETURN name")}
    for table in tables(schema):
        if table.name not in present:
            database.run(table.statement)


def differences(database: Database, schema: Schema) -> list[str]:
    """In which columns the tables that are there differ from what the source's schema asks for."""
    present = {row[0] for row in database.ask("CALL show_tables() RETURN name")}
    found: list[str] = []
    for table in tables(schema):
        if table.name not in present:
            continue
        rows = database.ask(f"CALL table_info('{table.name}') RETURN name, type")
        there = {str(name): str(kind) for name, kind in rows}
        found += [
            f"{table.name}.{column} is {there.get(column, 'missing')}, "
            f"the source asks for {table.columns.get(column, 'none')}"
            for column in sorted(set(there) | set(table.columns))
            if there.get(column) != table.columns.get(column)
        ]
    return found


def _types(known: Mapping[str, Kind], columns: tuple[Column, ...], dimension: int) -> dict[str, str]:
    carried = {column.target: column.kind for column in columns}
    order = [*known, *(name for name in carried if name not in known)]
    return {name: _type(carried.get(name) or known[name], dimension) for name in order}


def _type(kind: Kind, dimension: int) -> str:
    return f"FLOAT[{dimension}]" if kind is Kind.VECTOR else str(kind)


def _node_table(name: str, columns: Mapping[str, str]) -> TargetTable:
    parts = ", ".join(["id INT64 PRIMARY KEY", *_declarations(columns)])
    return TargetTable(name, {"id": "INT64", **columns}, f"CREATE NODE TABLE {name}({parts})")


def _edge_table(name: str, start: str, columns: Mapping[str, str]) -> TargetTable:
    parts = ", ".join([f"FROM {start} TO {NODE_TABLE}", *_declarations(columns)])
    return TargetTable(name, columns, f"CREATE REL TABLE {name}({parts})")


def _declarations(columns: Mapping[str, str]) -> Iterator[str]:
    for name, kind in columns.items():
        yield f"{quoted(name)} {kind} {_DEFAULTS.get(name, '')}".rstrip()
