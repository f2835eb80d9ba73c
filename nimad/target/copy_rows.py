"""COPY of converted rows into the target, each only once.

The protocol rests on measured facts. COPY is fifteen times faster than anything the write-ahead log covers and
arrives whole or not at all, but «arrived» is known only to a process that opens the file afterwards. So every
load first looks which keys are there, copies the others, and leaves the counting to the next process. Doing
the same range again is therefore harmless, whatever happened to the attempt before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from nimad.source import batch
from nimad.source.batch import Batch
from nimad.source.rows import ConvertedRows, Reject, set_aside
from nimad.source.schema import LINKS, TARGET_TABLES, Schema, Table
from nimad.target import ddl as t
from nimad.target import read_back
from nimad.target.database import Database
from nimad.target.destination import Destination


def load_nodes(database: Database, schema: Schema, judged: ConvertedRows) -> int:
    """Copy nodes, or turns without their links; return how many."""
    return _copy(database, into_nodes(judged.rows.table), batch.of_nodes(judged, schema))


def load_slices(database: Database, table: Table, slices: Iterable[Batch], folder: Path) -> int:
    """Copy nodes that come in slices, all with one COPY; return how many. They wait on the disk of `folder`."""
    return database.copy_all(into_nodes(table), slices, folder)


def load_edges(database: Database, schema: Schema, judged: ConvertedRows) -> int:
    """Copy edges, both of whose ends are known to be there; return how many."""
    return _copy(database, into_edges(judged.rows.table), batch.of_edges(judged, schema))


def load_links(database: Database, link: str, pairs: Sequence[tuple[int, int]]) -> int:
    """Copy links of one kind, as (turn, node); return how many."""
    columns = [turn for turn, _ in pairs], [node for _, node in pairs]
    return _copy(database, Destination(link, ends=(t.TURN_TABLE, t.NODE_TABLE)), batch.of_ids(*columns))


def load_node_ids(database: Database, ids: Sequence[int]) -> int:
    """Copy nodes that are nothing but an id, for what hangs on them; return how many."""
    return _copy(database, Destination(t.NODE_TABLE, ["id"]), batch.of_ids(ids))


def _copy(database: Database, into: Destination, rows: Batch) -> int:
    if rows.rows:
        database.copy(into, rows)
    return rows.rows


def into_nodes(table: Table) -> Destination:
    return Destination(TARGET_TABLES[table.name], ["id", *(column.target for column in table.columns)])


def into_edges(table: Table) -> Destination:
    properties = ["edge_id", *(column.target for column in table.columns)]
    return Destination(t.EDGE_TABLE, properties, (t.NODE_TABLE, t.NODE_TABLE))


def without(judged: ConvertedRows, keys: set[int]) -> ConvertedRows:
    """Leave out the rows that are in the target already."""
    if not keys:
        return judged
    return select(judged, [key not in keys for key in judged.rows.keys])


def select(judged: ConvertedRows, keep: Sequence[bool]) -> ConvertedRows:
    columns = [[v for v, flag in zip(column, keep, strict=True) if flag] for column in judged.columns]
    return replace(judged, rows=judged.rows.only(keep), columns=columns)


def with_both_ends(judged: ConvertedRows, nodes: set[int]) -> tuple[ConvertedRows, list[Reject]]:
    """Edges whose ends are both there, with what is set aside of them; and the others with the reason."""
    sources, targets = judged.columns[0], judged.columns[1]
    rejects, keep = [], []
    for position, ends in enumerate(zip(sources, targets, strict=True)):
        missing = [
            _missing(name, node)
            for name, node in zip(judged.rows.table.ends, ends, strict=True)
            if node is None or node not in nodes
        ]
        keep.append(not missing)
        if missing:
            rejects.append(set_aside(judged.rows, position, "row", "; ".join(missing)))
    whole = {reject.id for reject in rejects}
    parts = [reject for reject in judged.rejects if reject.part == "row" or reject.id not in whole]
    return replace(select(judged, keep), rejects=parts), rejects


def link_pairs(judged: ConvertedRows, nodes: set[int]) -> tuple[dict[str, list[tuple[int, int]]], list[Reject]]:
    """The links of turns by kind, as (turn, node), and those whose node is not there."""
    pairs: dict[str, list[tuple[int, int]]] = {link: [] for link in LINKS.values()}
    rejects = []
    for index, end in enumerate(judged.rows.table.ends):
        link = LINKS[end.lower()]
        for position, (turn, node) in enumerate(zip(judged.rows.keys, judged.columns[index], strict=True)):
            if node is None:
                continue
            if node in nodes:
                pairs[link].append((turn, node))
            else:
                rejects.append(set_aside(judged.rows, position, link, _missing(end, node)))
    return pairs, rejects


def _missing(column: str, node: int | None) -> str:
    if node is None:
        return f"{column} is NULL"
    return f"{column} {node} is no node of the target: missing in memory_nodes, in quarantine, or newer than this run"


def update_nodes(database: Database, schema: Schema, judged: ConvertedRows) -> int:
    """Bring nodes that are there up to date, in one transaction that the write-ahead log covers."""
    if not len(judged.rows):
        return 0
    database.update(into_nodes(judged.rows.table), batch.of_nodes(judged, schema))
    return len(judged.rows)


def remove(database: Database, table: str, ids: Sequence[int]) -> None:
    """Take rows out that the source no longer has, or that are about to be copied anew."""
    if not ids:
        return
    if table == t.EDGE_TABLE:
        where = read_back.where("r.edge_id", ids)
        database.run(f"MATCH ()-[r:{t.EDGE_TABLE}]->() WHERE {where} DELETE r")
    else:
        database.run(f"MATCH (n:{table}) WHERE {read_back.where('n.id', ids)} DETACH DELETE n")
    database.checkpoint()
