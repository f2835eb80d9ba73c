"""What is noted of source and target between two rounds of sync, and what a difference means."""

import sqlite3
from collections.abc import Mapping
from typing import Any

from nimad.host.disk import mount_number
from nimad.source.row_numbers import is_numbered
from nimad.source.schema import (
    TARGET_TABLES,
    Schema,
    Table,
    ValueKind,
    with_columns,
)
from nimad.state import target_state
from nimad.state.paths import Files

Shape = tuple[int, tuple[bool, ...]]


def shape_of(connection: sqlite3.Connection) -> Shape:
    """SQLite's number of its schema, and of which tables the ids are numbers of ours, with a column for the others."""
    (number,) = connection.execute("PRAGMA schema_version").fetchone()
    return number, tuple(is_numbered(connection, table) for table in TARGET_TABLES)


def which_target(made: Mapping[str, Any], files: Files) -> tuple[Any, Any]:
    """Which target this is: when it was made, its file, and on which mount that is."""
    return made.get("started"), (target_state.which(files.target), mount_number(files.target))


def has_lost(files: Files, made: Mapping[str, Any]) -> bool:
    """Whether the target may lack what is noted of it, though the agent took nothing out."""
    target = files.target
    return bool(made.get("distrust")) or target_state.lost_log(target, made) or target_state.is_older(target, made)


def stamps_before(files: Files) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The target's stamps, twice; first None in their place where its log is not ours alone."""
    made = target_state.of_target(files)
    own = target_state.has_own_log(files.target, made)
    # What somebody writes between here and the moment when the worker opens the target is taken for ours.
    before = target_state.stamps_of(files.target)
    return (before if own else None), (before if own else {**before, "log": {}})


def note_seen(files: Files, made: Mapping[str, Any], left: Mapping[str, Any]) -> None:
    """Note a look that found nothing to bring."""
    facts = {name: value for name, value in left.items() if made.get(name, {}) != value}
    if made.get("distrust"):
        facts["distrust"] = False
    if facts:
        target_state.note(files, made, facts)


def with_later_columns(known: Schema, now: Schema, made: Mapping[str, Any]) -> Schema:
    """A schema with the columns that the source has now, but for those that the target's cannot hold."""
    left = {(str(table), str(column)) for table, column in made.get("columns_left_out", ())}

    def of(table: Table | None, new: Table | None) -> Table | None:
        if table is None or new is None:
            return table
        return with_columns(table, new, {column for name, column in left if name == table.name})

    nodes = of(known.nodes, now.nodes) or known.nodes
    dimension = known.dimension if has_vector(known) else now.dimension
    return Schema(nodes, of(known.edges, now.edges), of(known.turns, now.turns), dimension)


def has_vector(schema: Schema) -> bool:
    return any(column.kind is ValueKind.VECTOR for column in schema.nodes.columns)
