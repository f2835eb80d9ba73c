"""Rows of the target, read in the order of the source's keys."""

from collections.abc import Sequence
from typing import Any

from nimad.source.ranges import Range
from nimad.source.schema import Column, Schema, ValueKind
from nimad.target import ddl as t
from nimad.target.database import Database
from nimad.target.destination import cypher_name

#: What was read, column by column, with values as SQLite's would be.
Columns = Sequence[Sequence[Any]]


def _condition(key: str, wanted: Range) -> str:
    lower = f"{key} > {wanted.after} AND " if wanted.after is not None else ""
    return f"{lower}{key} <= {wanted.upto}"


def _listed(key: str, ids: Sequence[int]) -> str:
    return f"{key} IN [{', '.join(map(str, ids))}]" if ids else "false"


def where(key: str, rows: "Range | Sequence[int]") -> str:
    """A Cypher condition for an id range or a list of ids."""
    return _condition(key, rows) if isinstance(rows, Range) else _listed(key, rows)


def nodes(database: Database, schema: Schema, rows: "Range | Sequence[int]") -> Columns:
    """Nodes: `id`, then the columns that the source has."""
    return _plain(database, t.NODE_TABLE, schema.nodes.columns, rows)


def turns(database: Database, schema: Schema, rows: "Range | Sequence[int]") -> Columns:
    return _plain(database, t.TURN_TABLE, schema.turns.columns if schema.turns else (), rows)


def _plain(database: Database, table: str, columns: Sequence[Column], rows: "Range | Sequence[int]") -> Columns:
    wanted = ", ".join(["n.id", *(f"n.{cypher_name(column.target)}" for column in columns)])
    kinds = [ValueKind.INT64, *(column.kind for column in columns)]
    return database.columns(f"MATCH (n:{table}) WHERE {where('n.id', rows)} RETURN {wanted} ORDER BY n.id", kinds)


def edges(database: Database, schema: Schema, rows: "Range | Sequence[int]") -> Columns:
    """Edges: `edge_id`, both ends, then the properties that the source has."""
    columns = schema.edges.columns if schema.edges else ()
    wanted = ", ".join(["r.edge_id", "a.id", "b.id", *(f"r.{cypher_name(column.target)}" for column in columns)])
    return database.columns(
        f"MATCH (a:{t.NODE_TABLE})-[r:{t.EDGE_TABLE}]->(b:{t.NODE_TABLE}) "
        f"WHERE {where('r.edge_id', rows)} RETURN {wanted} ORDER BY r.edge_id",
        [ValueKind.INT64, ValueKind.INT64, ValueKind.INT64, *(column.kind for column in columns)],
    )


def links(database: Database, link: str, rows: "Range | Sequence[int]") -> list[tuple[int, int]]:
    """Links of one kind as (turn, node)."""
    found = database.ask(
        f"MATCH (n:{t.TURN_TABLE})-[:{link}]->(m:{t.NODE_TABLE}) WHERE {where('n.id', rows)} "
        "RETURN n.id, m.id ORDER BY n.id, m.id"
    )
    return [(int(turn), int(node)) for turn, node in found]


def keys(database: Database, table: str, rows: "Range | Sequence[int]") -> set[int]:
    """Which of the source's keys are in a table already."""
    if table == t.EDGE_TABLE:
        query = f"MATCH ()-[r:{table}]->() WHERE {where('r.edge_id', rows)} RETURN r.edge_id"
    elif table in t.LINK_TABLES:
        query = f"MATCH (n:{t.TURN_TABLE})-[:{table}]->() WHERE {where('n.id', rows)} RETURN n.id"
    else:
        query = f"MATCH (n:{table}) WHERE {where('n.id', rows)} RETURN n.id"
    return {int(row[0]) for row in database.ask(query)}


def found_by_key(database: Database, table: str, wanted: Sequence[int]) -> int:
    """How many of these nodes or turns are found by their key, one by one: a scan would not read the key's index."""
    rows = database.ask(f"UNWIND $keys AS key MATCH (n:{table}) WHERE n.id = key RETURN count(n)", keys=list(wanted))
    return int(rows[0][0])


def node_ids(database: Database) -> set[int]:
    """Every node's id: the ends that an edge may have."""
    return set(database.columns(f"MATCH (n:{t.NODE_TABLE}) RETURN n.id", [ValueKind.INT64])[0])


def edges_without_id(database: Database) -> int:
    """How many edges no key of the source belongs to."""
    rows = database.ask(f"MATCH ()-[r:{t.EDGE_TABLE}]->() WHERE r.edge_id IS NULL RETURN count(*)")
    return int(rows[0][0])
