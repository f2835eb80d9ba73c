"""The tables of the target: what readers expect, and every further column of the source."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nimad.engines.packages import OLD_MODULE
from nimad.source.schema import (
    EDGE_KINDS,
    EDGES,
    LINKS,
    NODE_DEFAULTS,
    NODE_KINDS,
    NODES,
    TARGET_TABLES,
    TURN_KINDS,
    TURNS,
    Column,
    Schema,
    ValueKind,
)
from nimad.target.database import Database
from nimad.target.destination import cypher_name

NODE_TABLE = TARGET_TABLES[NODES]
TURN_TABLE = TARGET_TABLES[TURNS]
EDGE_TABLE = TARGET_TABLES[EDGES]
LINK_TABLES = tuple(LINKS.values())

#: What the agent's setup makes beside our tables, and its dream sync writes to: empty, SQLite's rows stay there.
AGENT_TABLES: Mapping[str, str] = {
    "InsightNode": (
        "CREATE NODE TABLE InsightNode(id STRING PRIMARY KEY, content STRING, type STRING, confidence FLOAT, "
        "sources STRING, domains STRING, timestamp STRING, importance FLOAT, validated BOOL)"
    ),
    "PatternNode": (
        "CREATE NODE TABLE PatternNode(id STRING PRIMARY KEY, name STRING, description STRING, occurrences INT64, "
        "domains STRING, examples STRING, first_seen STRING, last_seen STRING, strength DOUBLE)"
    ),
    "DreamNode": (
        "CREATE NODE TABLE DreamNode(id STRING PRIMARY KEY, date STRING, narrative STRING, source_count INT64, "
        "created_at STRING)"
    ),
    "ProtocolNode": (
        "CREATE NODE TABLE ProtocolNode(id STRING PRIMARY KEY, name STRING, rule STRING, "
        "domain STRING DEFAULT 'general', priority INT64 DEFAULT 3, trigger_keywords STRING DEFAULT '[]', "
        "active INT64 DEFAULT 1, created_at STRING, updated_at STRING)"
    ),
    "derived_from": (
        f"CREATE REL TABLE derived_from(FROM InsightNode TO {NODE_TABLE}, FROM DreamNode TO {NODE_TABLE})"
    ),
    "governs": f"CREATE REL TABLE governs(FROM ProtocolNode TO {NODE_TABLE})",
}


#: Those of them that are made with 0.15.3, one try after the other.
_FEWER: Sequence[Sequence[str]] = (
    ("InsightNode", "PatternNode", "DreamNode", "derived_from"),
    ("InsightNode",),
    (),
)


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


def agent_tables(engine: str, rebuilds: int) -> Sequence[str]:
    """Which of the agent's own tables are made beside ours, the more often a file was started over the fewer.

    All but for 0.15.3, which lists free pages twice depending on how many tables there are (`counting.frees_twice`):
    with all of them it always did.
    """
    if engine != OLD_MODULE:
        return tuple(AGENT_TABLES)
    return _FEWER[min(rebuilds, len(_FEWER) - 1)]


def create(database: Database, schema: Schema, agents: Sequence[str] = ()) -> None:
    """Make the tables that are not there yet, and these of the agent's own."""
    present = database.tables()
    statements = {table.name: table.statement for table in tables(schema)}
    for name, statement in (statements | {name: AGENT_TABLES[name] for name in agents}).items():
        if name not in present:
            database.run(statement)


def differences(database: Database, schema: Schema) -> list[str]:
    """In which columns the tables that are there differ from what the source's schema asks for."""
    present = database.tables()
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


def _types(known: Mapping[str, ValueKind], columns: tuple[Column, ...], dimension: int) -> dict[str, str]:
    carried = {column.target: column.kind for column in columns}
    order = [*known, *(name for name in carried if name not in known)]
    return {name: _type(carried.get(name) or known[name], dimension) for name in order}


def _type(kind: ValueKind, dimension: int) -> str:
    return f"FLOAT[{dimension}]" if kind is ValueKind.VECTOR else str(kind)


def _node_table(name: str, columns: Mapping[str, str]) -> TargetTable:
    defaults = NODE_DEFAULTS if name == NODE_TABLE else {}
    parts = ", ".join(["id INT64 PRIMARY KEY", *_declarations(columns, defaults)])
    return TargetTable(name, {"id": "INT64", **columns}, f"CREATE NODE TABLE {name}({parts})")


def _edge_table(name: str, start: str, columns: Mapping[str, str]) -> TargetTable:
    parts = ", ".join([f"FROM {start} TO {NODE_TABLE}", *_declarations(columns, {})])
    return TargetTable(name, columns, f"CREATE REL TABLE {name}({parts})")


def _declarations(columns: Mapping[str, str], defaults: Mapping[str, Any]) -> Iterator[str]:
    for name, kind in columns.items():
        default = f" DEFAULT {literal(defaults[name])}" if name in defaults else ""
        yield f"{cypher_name(name)} {kind}{default}"


def literal(value: Any) -> str:
    """A number or a truth value in Cypher."""
    return str(value).lower() if isinstance(value, bool) else repr(value)
