"""Upserts into a target that readers open in between and that the agent may have written to.

Every statement here is one that the write-ahead log covers, so a transaction of them is there whole or not at all, and
costs what it holds. A COPY, or a checkpoint, would rewrite the node group: 38 MB for three rows.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nimad.source import batch
from nimad.source.rows import ConvertedRows
from nimad.source.schema import EDGES, NODES, TARGET_TABLES, Schema, Table, ValueKind
from nimad.target import catalog, copy_rows, parameters, read_back
from nimad.target import ddl as t
from nimad.target.database import Database
from nimad.target.destination import Destination, cypher_name

#: Ids that are listed in a query; for more, all rows are read.
_LISTED = 1_000


@dataclass(frozen=True)
class Edge:
    """An edge of the target. `offset` tells it from its like; `keyed`: whether it has the source's key."""

    start: int
    end: int
    relation: str | None
    offset: int
    keyed: bool = False


def keys(database: Database, table: str) -> set[int]:
    """Every id of a table."""
    if table == t.EDGE_TABLE:
        rows = database.columns(f"MATCH ()-[r:{table}]->() RETURN r.edge_id", [ValueKind.INT64])[0]
        return {key for key in rows if key is not None}
    return set(database.columns(f"MATCH (n:{table}) RETURN n.id", [ValueKind.INT64])[0])


def columns(database: Database, table: str, names: Sequence[str], ids: Collection[int]) -> dict[int, tuple[Any, ...]]:
    """Some columns of nodes or turns, by id."""
    wanted = ", ".join(["n.id", *(f"n.{name}" for name in names)])
    where = f" WHERE {read_back.where('n.id', sorted(ids))}" if len(ids) <= _LISTED else ""
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


def rows_of(database: Database, schema: Schema, table: Table, ids: Sequence[int]) -> dict[int, list[tuple[Any, ...]]]:
    """Rows of the target by id, or edges by key: of edges both ends first, then the columns that the source has.

    A row of an id is one at most; an edge's key may be there more than once. Read one by one: a condition would have
    every row read, and its embedding with it.
    """
    if table.name == EDGES:
        side = read_back.edges(database, schema, ids)
    else:
        wanted = ", ".join(["n.id", *(f"n.{cypher_name(column.target)}" for column in table.columns)])
        kinds = [ValueKind.INT64, *(column.kind for column in table.columns)]
        listed = ", ".join(map(str, ids))
        match = f"UNWIND [{listed}] AS key MATCH (n:{TARGET_TABLES[table.name]}) WHERE n.id = key"
        side = database.columns(f"{match} RETURN {wanted}", kinds) if ids else [[] for _ in kinds]
    found: dict[int, list[tuple[Any, ...]]] = {}
    for key, *values in zip(*side, strict=True):
        found.setdefault(key, []).append(tuple(values))
    return found


def differing_columns(table: Table, here: Sequence[Any], there: Sequence[Any]) -> set[str]:
    """The columns in which one row of converted values differs from the target's, without the ends."""
    return {
        column.target
        for column, wanted, got in zip(table.columns, here, there, strict=True)
        if not _same(column.kind, wanted, got)
    }


def keyed_edges(database: Database, keys: Sequence[int]) -> dict[int, Edge]:
    """Edges of the target by the source's key."""
    rows = database.ask(
        f"MATCH (a:{t.NODE_TABLE})-[r:{t.EDGE_TABLE}]->(b:{t.NODE_TABLE}) WHERE {read_back.where('r.edge_id', keys)} "
        "RETURN r.edge_id, a.id, b.id, r.relation, offset(id(r))"
    )
    return {key: Edge(start, end, relation, offset, keyed=True) for key, start, end, relation, offset in rows}


def edge_values(database: Database, table: Table, edges: Sequence[Edge]) -> dict[Edge, tuple[Any, ...]]:
    """The values of edges in the columns that the source has."""
    wanted = ", ".join(
        ["a.id", "b.id", "offset(id(r))", *(f"r.{cypher_name(column.target)}" for column in table.columns)]
    )
    kinds = [ValueKind.INT64, ValueKind.INT64, ValueKind.INT64, *(column.kind for column in table.columns)]
    by_place = {(edge.start, edge.end, edge.offset): edge for edge in edges}
    listed = read_back.where("a.id", sorted({edge.start for edge in edges}))
    match = f"MATCH (a:{t.NODE_TABLE})-[r:{t.EDGE_TABLE}]->(b:{t.NODE_TABLE}) WHERE {listed}"
    rows = zip(*database.columns(f"{match} RETURN {wanted}", kinds), strict=True) if edges else ()
    return {by_place[row[:3]]: row[3:] for row in rows if row[:3] in by_place}


def differing(
    database: Database, schema: Schema, judged: ConvertedRows, ids: Sequence[int], ends: Sequence[tuple[int, int]] = ()
) -> dict[int, set[str]]:
    """By position, the columns in which rows differ from those of these ids in the target; all of a missing one's.

    `ends`: of edges, in the target's ids.
    """
    table = judged.rows.table
    skip = len(table.ends)
    rows = rows_of(database, schema, table, ids)
    wanted = list(zip(*judged.columns[skip:], strict=True)) if table.columns else [()] * len(ids)
    found: dict[int, set[str]] = {}
    for position, key in enumerate(ids):
        got = rows.get(key, [])
        if len(got) != 1 or (ends and got[0][:2] != ends[position]):
            found[position] = {"id", *(column.target for column in table.columns)}
            continue
        values = got[0][2 if table.name == EDGES else 0 :]
        names = differing_columns(table, wanted[position], values)
        if names := names - _empty_on_both(judged, position, values):
            found[position] = names
    return found


def _empty_on_both(judged: ConvertedRows, position: int, values: Sequence[Any]) -> set[str]:
    """The columns in which neither side has anything: there is no difference, whatever the default."""
    columns = enumerate(zip(judged.rows.table.columns, values, strict=True), start=len(judged.rows.table.ends))
    return {c.target for index, (c, value) in columns if value is None and judged.is_null(position, index)}


def _same(kind: ValueKind, wanted: Any, got: Any) -> bool:
    # A vector that went as a parameter has been through Python's floats.
    return bool(wanted == got or (kind is ValueKind.VECTOR and wanted and got and parameters.quieted(wanted) == got))


def insert(database: Database, schema: Schema, judged: ConvertedRows, ids: Sequence[int]) -> None:
    """Add nodes, or turns without their links, under these ids."""
    rows = batch.of_nodes(judged, schema)
    rows = replace(rows, columns=[ids, *rows.columns[1:]])
    database.run_each(parameters.inserts(copy_rows.into_nodes(judged.rows.table), rows))


def update(
    database: Database, schema: Schema, judged: ConvertedRows, ids: Sequence[int], names: Collection[str]
) -> None:
    """Give nodes or turns the source's values in some columns, NULL too."""
    into, rows = copy_rows.into_nodes(judged.rows.table), batch.of_nodes(judged, schema)
    chosen = [index for index, name in enumerate(into.properties) if index and name in names]
    part = replace(
        rows,
        kinds=[rows.kinds[0], *(rows.kinds[index] for index in chosen)],
        columns=[ids, *(rows.columns[index] for index in chosen)],
    )
    properties = [into.properties[0], *(into.properties[index] for index in chosen)]
    database.run_each(parameters.updates(Destination(into.table, properties), part))


def update_edges(
    database: Database, schema: Schema, judged: ConvertedRows, edges: Sequence[Edge], names: Collection[str]
) -> None:
    """Give edges of the target the source's keys, and its values in some columns, NULL too."""
    into, rows = copy_rows.into_edges(judged.rows.table), batch.of_edges(judged, schema)
    skip = len(into.ends)
    chosen = [0, *(index for index, name in enumerate(into.properties) if index and name in names)]
    part = replace(
        rows,
        kinds=[ValueKind.INT64] * 3 + [rows.kinds[skip + index] for index in chosen],
        columns=[
            *([edge.start for edge in edges], [edge.end for edge in edges], [edge.offset for edge in edges]),
            *(rows.columns[skip + index] for index in chosen),
        ],
    )
    properties = [into.properties[index] for index in chosen]
    database.run_each(parameters.edge_updates(Destination(into.table, properties, into.ends), part))


def insert_edges(database: Database, schema: Schema, judged: ConvertedRows, ends: Sequence[tuple[int, int]]) -> None:
    """Draw edges between these ends."""
    rows = batch.of_edges(judged, schema)
    rows = replace(rows, columns=[[a for a, _ in ends], [b for _, b in ends], *rows.columns[2:]])
    database.run_each(parameters.inserts(copy_rows.into_edges(judged.rows.table), rows))


def remove(database: Database, table: str, ids: Iterable[int]) -> None:
    """Take rows out by their ids; of nodes and turns, with everything that hangs on them."""
    listed = sorted(ids)
    for start in range(0, len(listed), _LISTED):
        part = listed[start : start + _LISTED]
        if table == t.EDGE_TABLE:
            where = read_back.where("r.edge_id", part)
            database.run(f"MATCH (:{t.NODE_TABLE})-[r:{table}]->(:{t.NODE_TABLE}) WHERE {where} DELETE r")
        else:
            database.run(f"MATCH (n:{table}) WHERE {read_back.where('n.id', part)} DETACH DELETE n")


def link(database: Database, kind: str, pairs: Sequence[tuple[int, int]]) -> None:
    """Add links of one kind, as (turn, node)."""
    columns = [turn for turn, _ in pairs], [node for _, node in pairs]
    database.run_each(parameters.inserts(Destination(kind, ends=(t.TURN_TABLE, t.NODE_TABLE)), batch.of_ids(*columns)))


def unlink(database: Database, kind: str, pairs: Sequence[tuple[int, int]]) -> None:
    """Take links of one kind out."""
    rows = [{"c0": turn, "c1": node} for turn, node in pairs]
    match = f"MATCH (a:{t.TURN_TABLE})-[r:{kind}]->(b:{t.NODE_TABLE})"
    database.run_each(_with_rows(match, "true DELETE r", rows))


def _with_rows(match: str, rest: str, rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    if rows:
        yield f"UNWIND $rows AS row {match} WHERE a.id = row.c0 AND b.id = row.c1 AND {rest}", rows


def held_by_others(database: Database, ids: Collection[int], turns: Collection[int]) -> set[int]:
    """Which of these nodes have an edge or a link that is not the source's. `turns`: the source's, by id there."""
    if not ids:
        return set()
    kinds = [name for name, kind in database.tables().items() if kind == "REL"]
    found: set[int] = set()
    for kind in kinds:
        where = read_back.where("n.id", sorted(ids))
        if kind == t.EDGE_TABLE:
            query = f"MATCH (n:{t.NODE_TABLE})-[r:{kind}]-(:{t.NODE_TABLE}) WHERE {where} AND r.edge_id IS NULL"
            found |= {row[0] for row in database.ask(f"{query} RETURN n.id")}
        elif kind in t.LINK_TABLES:
            query = f"MATCH (m:{t.TURN_TABLE})-[:{kind}]->(n:{t.NODE_TABLE}) WHERE {where} RETURN n.id, m.id"
            found |= {node for node, turn in database.ask(query) if turn not in turns}
        else:
            query = f"MATCH (n:{t.NODE_TABLE})-[:{cypher_name(kind)}]-() WHERE {where} RETURN n.id"
            found |= {row[0] for row in database.ask(query)}
    return found


def written_beyond(database: Database, table: Table, ids: Collection[int]) -> set[int]:
    """Which rows have a value that is not its default in a column that the source lacks."""
    name = TARGET_TABLES[table.name]
    ours = {"id", "edge_id", *(column.target for column in table.columns)}
    wrote = " OR ".join(each.is_written("n") for each in catalog.columns(database, name) if each.name not in ours)
    if not ids or not wrote:
        return set()
    pattern, key = f"(n:{name})", "n.id"
    if table.name == EDGES:
        pattern, key = f"(:{t.NODE_TABLE})-[n:{name}]->(:{t.NODE_TABLE})", "n.edge_id"
    query = f"MATCH {pattern} WHERE {read_back.where(key, sorted(ids))} AND ({wrote}) RETURN {key}"
    return {row[0] for row in database.ask(query)}


def indexed(database: Database) -> bool:
    """Whether the nodes have an index that only an extension can write to."""
    try:
        rows = database.ask("CALL show_indexes() RETURN *")
    except RuntimeError:  # an engine that lists none
        return False
    return any(row[0] == TARGET_TABLES[NODES] and "embedding" in str(row) for row in rows)
