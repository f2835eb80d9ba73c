"""Edges and links whose node is not in the source: what a dry run can say without a target."""

import sqlite3
from collections.abc import Mapping

from nimad.source.schema import Schema, Table, quoted


def count_dangling(connection: sqlite3.Connection, schema: Schema) -> Mapping[str, int]:
    """By table: edges with an end that is missing or NULL, and links of turns whose node is missing."""
    found = {}
    if schema.edges:
        ends = " OR ".join(f"NOT ({_exists(schema.nodes, end)})" for end in schema.edges.ends)
        found[schema.edges.name] = _count(connection, schema.edges.name, ends)
    if schema.turns:
        found[schema.turns.name] = sum(
            _count(
                connection,
                schema.turns.name,
                f"{quoted(end)} IS NOT NULL AND NOT ({_exists(schema.nodes, end)})",
            )
            for end in schema.turns.ends
        )
    return found


def _exists(nodes: Table, end: str) -> str:
    return f"EXISTS (SELECT 1 FROM {quoted(nodes.name)} n WHERE n.{quoted(nodes.key)} = t.{quoted(end)})"


def _count(connection: sqlite3.Connection, table: str, condition: str) -> int:
    query = f"SELECT count(*) FROM {quoted(table)} t WHERE {condition}"
    return int(connection.execute(query).fetchone()[0])
