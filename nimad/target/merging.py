"""Merging: rows into a target that readers have open by turns, and that the agent may have written to itself.

Every statement here is one that the write-ahead log covers, so a transaction of them is there whole or not at all, and
costs what it holds. A COPY, or a checkpoint, would rewrite the node group: 38 MB for three rows.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nimad.source import batch
from nimad.source.rows import Judged
from nimad.source.schema import EDGES, NODES, TARGET_TABLES, Kind, Schema
from nimad.target import loading, parameters, reading
from nimad.target import schema as t
from nimad.target.database import Database
from nimad.target.into import Into, quoted

#: Ids that are listed in a query; for more, all rows are read.
_LISTED = 1_000


@dataclass(frozen=True)
class Edge:
    """An edge without the source's key: one that the agent drew itself. `offset` tells it from its like."""

    start: int
    end: int
    relation: str | None
    offset: int


def keys(database: Database, table: str) -> set[int]:
    """Every id of a table."""
    if table == t.EDGE_TABLE:
        rows = database.columns(f"MATCH ()-[r:{table}]->() RETURN r.edge_id", [Kind.INT64])[0]
        return {key for key in rows if key is not None}
    return set(database.columns(f"MATCH (n:{table}) RETURN n.id", [Kind.INT64])[0])


def columns(database: Database, table: str, names: Sequence[str], ids: Collection[int]) -> dict[int, tuple[Any, ...]]:
    """Some columns of nodes or turns, by id."""
    wanted = ", ".join(["n.id", *(f"n.{name}" for name in names)])
    where = f" WHERE {reading.where('n.id', sorted(ids))}" if len(ids) <= _LISTED else ""
    rows = database.ask(f"MATCH (n:{table}){where} RETURN {wanted}") if ids else []
    return {row[0]: tuple(row[1:]) for row in rows if row[0] in ids}


def edges_of_others(database: Database, *, keyed: bool = True) -> list[Edge]:
    """The edges that no key of the source belongs to: all of them where the table has no column for one."""
    where = " WHERE r.edge_id IS NULL" if keyed else ""
    rows = database.ask(
        f"MATCH (a:{t.NODE_TABLE})-[r:{t.EDGE_TABLE}]->(b:{t.NODE_TABLE}){where} "
        "RETURN a.id, b.id, r.relation, offset(id(r))"
    )
    return [Edge(*row) for row in rows]


def differing(
    database: Database,
    schema: Schema,
    judged: Judged,
    ids: Sequence[int],
    ends: Sequence[tuple[int, int]] = (),
    *,
    nulls: bool = False,
) -> dict[int, set[str]]:
    """By position, the columns in which rows differ from those of these ids in the target; all of a missing one's.

    `ends`: of edges, in the target's ids. Where SQLite has nothing, what the agent put into a node or turn is none,
    but with `nulls`.
    """
    columns = {column.target: column.kind for column in judged.rows.table.columns}
    skip = len(judged.rows.table.ends)
    wanted = dict(zip(columns, judged.columns[skip:], strict=True))
    side = _side(database, schema, judged, ids)
    there: dict[int, list[int]] = {}
    for position, key in enumerate(side[0]):
        there.setdefault(key, []).append(position)
    found: dict[int, set[str]] = {}
    for position, key in enumerate(ids):
        places = there.get(key, [])
        if len(places) != 1 or (ends and (side[1][places[0]], side[2][places[0]]) != ends[position]):
            found[position] = {"id", *columns}
            continue
        got = [column[places[0]] for column in side[-len(columns) :]] if columns else []
        unlike = {
            name
            for (name, kind), value in zip(columns.items(), got, strict=True)
            if not _same(kind, wanted[name][position], value) and (nulls or ends or wanted[name][position] is not None)
        }
        if unlike:
            found[position] = unlike
    return found


def _side(database: Database, schema: Schema, judged: Judged, ids: Sequence[int]) -> reading.Columns:
    """The rows by key, one by one: a condition would have every row read, and its embedding with it."""
    table = judged.rows.table
    if table.name == EDGES:
        return reading.edges(database, schema, ids)
    wanted = ", ".join(["n.id", *(f"n.{quoted(column.target)}" for column in table.columns)])
    kinds = [Kind.INT64, *(column.kind for column in table.columns)]
    listed = ", ".join(map(str, ids))
    match = f"UNWIND [{listed}] AS key MATCH (n:{TARGET_TABLES[table.name]}) WHERE n.id = key"
    return database.columns(f"{match} RETURN {wanted}", kinds) if ids else [[] for _ in kinds]


def _same(kind: Kind, wanted: Any, got: Any) -> bool:
    # A vector that went as a parameter has been through Python's floats.
    return bool(wanted == got or (kind is Kind.VECTOR and wanted and got and parameters.quieted(wanted) == got))


def insert(database: Database, schema: Schema, judged: Judged, ids: Sequence[int]) -> None:
    """Add nodes, or turns without their links, under these ids."""
    rows = batch.of_nodes(judged, schema)
    rows = replace(rows, columns=[ids, *rows.columns[1:]])
    database.run_each(parameters.inserts(loading.into_nodes(judged.rows.table), rows))


def update(database: Database, schema: Schema, judged: Judged, ids: Sequence[int], keep: Collection[str] = ()) -> None:
    """Give nodes or turns the source's values, where it has any, but for the columns that are to keep theirs."""
    into, rows = loading.into_nodes(judged.rows.table), batch.of_nodes(judged, schema)
    chosen = [index for index, name in enumerate(into.properties) if not index or name not in keep]
    if len(chosen) < 2:  # noqa: PLR2004 - the id alone
        return
    columns = [ids, *(rows.columns[index] for index in chosen[1:])]
    part = replace(rows, kinds=[rows.kinds[index] for index in chosen], columns=columns)
    names = [into.properties[index] for index in chosen]
    database.run_each(parameters.updates(Into(into.table, names), part, nulls=False))


def insert_edges(database: Database, schema: Schema, judged: Judged, ends: Sequence[tuple[int, int]]) -> None:
    """Draw edges between these ends."""
    rows = batch.of_edges(judged, schema)
    rows = replace(rows, columns=[[a for a, _ in ends], [b for _, b in ends], *rows.columns[2:]])
    database.run_each(parameters.inserts(loading.into_edges(judged.rows.table), rows))


def remove(database: Database, table: str, ids: Iterable[int]) -> None:
    """Take rows out by their ids; of nodes and turns, with everything that hangs on them."""
    listed = sorted(ids)
    for start in range(0, len(listed), _LISTED):
        part = listed[start : start + _LISTED]
        if table == t.EDGE_TABLE:
            where = reading.where("r.edge_id", part)
            database.run(f"MATCH (:{t.NODE_TABLE})-[r:{table}]->(:{t.NODE_TABLE}) WHERE {where} DELETE r")
        else:
            database.run(f"MATCH (n:{table}) WHERE {reading.where('n.id', part)} DETACH DELETE n")


def remove_edges(database: Database, edges: Sequence[Edge]) -> None:
    """Take edges out that have no key."""
    rows = [{"c0": edge.start, "c1": edge.end, "c2": edge.offset} for edge in edges]
    match = f"MATCH (a:{t.NODE_TABLE})-[r:{t.EDGE_TABLE}]->(b:{t.NODE_TABLE})"
    database.run_each(_with_rows(match, "offset(id(r)) = row.c2 AND r.edge_id IS NULL DELETE r", rows))


def link(database: Database, kind: str, pairs: Sequence[tuple[int, int]]) -> None:
    """Add links of one kind, as (turn, node)."""
    columns = [turn for turn, _ in pairs], [node for _, node in pairs]
    database.run_each(parameters.inserts(Into(kind, ends=(t.TURN_TABLE, t.NODE_TABLE)), batch.of_ids(*columns)))


def unlink(database: Database, kind: str, pairs: Sequence[tuple[int, int]]) -> None:
    """Take links of one kind out."""
    rows = [{"c0": turn, "c1": node} for turn, node in pairs]
    match = f"MATCH (a:{t.TURN_TABLE})-[r:{kind}]->(b:{t.NODE_TABLE})"
    database.run_each(_with_rows(match, "true DELETE r", rows))


def _with_rows(match: str, rest: str, rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    if rows:
        yield f"UNWIND $rows AS row {match} WHERE a.id = row.c0 AND b.id = row.c1 AND {rest}", rows


def indexed(database: Database) -> bool:
    """Whether the nodes have an index that only an extension can write to."""
    try:
        rows = database.ask("CALL show_indexes() RETURN *")
    except RuntimeError:  # an engine that lists none
        return False
    return any(row[0] == TARGET_TABLES[NODES] and "embedding" in str(row) for row in rows)
