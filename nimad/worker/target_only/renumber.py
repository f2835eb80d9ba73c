"""Renumbering: rows of a new target get the ids that they had in the old one.

The agent keeps ids of memories in files of its own; there a memory may have another id than in SQLite. The engine
changes no key, so a row goes out and comes in again, with its edges and links. The file is not published yet: what ends
in between is started over. The ledger keeps the ids, as it does for late arrivals (`worker/identity/id_map.py`).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nimad.source.batch import Batch
from nimad.source.schema import EDGES, LINKS, NODES, TARGET_TABLES, TURNS, Table, ValueKind
from nimad.state import ledger
from nimad.state.ledger import Entry, Notes
from nimad.target import copy_rows, upsert
from nimad.target import ddl as t
from nimad.target.database import Database
from nimad.worker.protocol import Job

#: Rows that are read with one query.
_ROWS = 200

#: By SQLite's key, the id in the target, where that is another.
Ids = Mapping[int, int]


@dataclass(frozen=True)
class KnownIds:
    """What a table of the target before says of ids: of SQLite's rows, and those that other rows have there."""

    ids: Ids = field(default_factory=dict)
    taken: Collection[int] = ()


@dataclass
class Renumbered:
    """What got another id, by source table, and what hangs on it and was drawn anew."""

    ids: dict[str, Ids] = field(default_factory=dict)
    edges: list[int] = field(default_factory=list)
    turns: set[int] = field(default_factory=set)
    bytes: int = 0  # of rows that were written twice


def renumber(job: Job, database: Database, known: Mapping[str, KnownIds]) -> Renumbered:
    """Give rows of SQLite's the ids that are known of them, and others a free one where theirs is taken."""
    there = {name: upsert.keys(database, TARGET_TABLES[name]) for name in (NODES, TURNS) if _has(job, name)}
    done = Renumbered({name: _all_ids(keys, known.get(name, KnownIds())) for name, keys in there.items()})
    if not any(done.ids.values()):
        return done
    nodes, turns = (done.ids.get(name, {}) for name in (NODES, TURNS))
    edges = _edges_at(job, database, nodes)
    links = {kind: _links_at(database, kind, turns, nodes) for kind in LINKS.values()} if _has(job, TURNS) else {}
    for name, ids in done.ids.items():
        done.bytes += _move(job, database, job.needs().table(name), ids, min((0, *there[name], *ids.values())))
    _draw(job, database, edges, nodes)
    for kind, pairs in links.items():
        moved = [(turns.get(turn, turn), nodes.get(node, node)) for turn, node in pairs]
        if moved:
            copy_rows.load_links(database, kind, moved)
    done.edges = sorted(edges)
    done.turns = {*turns, *(turn for pairs in links.values() for turn, _ in pairs)}
    _note(job, done)
    return done


def _has(job: Job, name: str) -> bool:
    return any(table.name == name for table in job.needs().tables())


def _all_ids(there: set[int], known: KnownIds) -> Ids:
    """The ids of rows that are to have another than SQLite's: what is known, or else one below all."""
    ids = {key: at for key, at in known.ids.items() if key in there}
    lowest = min((0, *there, *known.taken, *ids.values()))
    for key in sorted(there & set(known.taken) - ids.keys(), reverse=True):
        lowest -= 1
        ids[key] = lowest
    return ids


# What hangs on them

#: Both ends, and then the columns that the source has.
_Edge = tuple[Any, ...]


def _edges_at(job: Job, database: Database, nodes: Ids) -> dict[int, _Edge]:
    """By key, the edges that such nodes have."""
    if not _has(job, EDGES) or not nodes:
        return {}
    table, pattern = job.needs().table(EDGES), f"(a:{t.NODE_TABLE})-[r:{t.EDGE_TABLE}]->(b:{t.NODE_TABLE})"
    kinds = [ValueKind.INT64] * 3
    rows = zip(*database.columns(f"MATCH {pattern} RETURN r.edge_id, a.id, b.id", kinds), strict=True)
    keys = [key for key, *ends in rows if not nodes.keys().isdisjoint(ends)]
    found: dict[int, _Edge] = {}
    for part in _parts(keys, job.chunk_rows):
        read = upsert.rows_of(database, job.needs(), table, part)
        found.update({key: values[0] for key, values in read.items()})
    return found


def _links_at(database: Database, kind: str, turns: Ids, nodes: Ids) -> list[tuple[int, int]]:
    match = f"MATCH (n:{t.TURN_TABLE})-[:{kind}]->(m:{t.NODE_TABLE})"
    rows = zip(*database.columns(f"{match} RETURN n.id, m.id", [ValueKind.INT64] * 2), strict=True)
    return [(turn, node) for turn, node in rows if turn in turns or node in nodes]


def _draw(job: Job, database: Database, edges: Mapping[int, _Edge], nodes: Ids) -> None:
    table = job.needs().table(EDGES) if edges else None
    for part in _parts(sorted(edges), job.chunk_rows):
        assert table is not None  # noqa: S101 - else there are no edges
        ends = [[nodes.get(edges[key][side], edges[key][side]) for key in part] for side in (0, 1)]
        values = list(zip(*(edges[key][2:] for key in part), strict=True))
        kinds = [ValueKind.INT64] * 3 + [column.kind for column in table.columns]
        database.copy(copy_rows.into_edges(table), Batch(kinds, [*ends, part, *values]))


# The rows themselves


def _move(job: Job, database: Database, table: Table, ids: Ids, lowest: int) -> int:
    """Write rows again under other ids; return how many bytes that were."""
    written = 0
    for moves in in_order(ids, lowest):
        for part in _chunks(job, database, table, moves):
            upsert.remove(database, TARGET_TABLES[table.name], [move[0] for move, _ in part])
            database.checkpoint()
            columns = [[at for (_, at), _ in part], *map(list, zip(*(values for _, values in part), strict=True))]
            kinds = [ValueKind.INT64, *(column.kind for column in table.columns)]
            database.copy(copy_rows.into_nodes(table), Batch(kinds, columns, job.needs().dimension))
            written += sum(_weight(values) for _, values in part)
    return written


#: A row's id, and the one that it is to have.
Move = tuple[int, int]


def in_order(ids: Ids, lowest: int) -> tuple[list[Move], list[Move]]:
    """The moves in an order in which each id is free by then. Of rows that move in a circle one waits below all ids.

    It goes on from there with the second list.
    """
    left, waits = dict(ids), {at: key for key, at in ids.items()}
    first, last = list[Move](), list[Move]()

    def follow(key: int | None) -> None:
        while key is not None and key in left:
            first.append((key, left.pop(key)))
            key = waits.get(key)

    for key, at in ids.items():
        if at not in ids:
            follow(key)
    while left:
        key, at = left.popitem()
        lowest -= 1
        first.append((key, lowest))
        last.append((lowest, at))
        follow(waits.get(key))
    return first, last


def _chunks(
    job: Job, database: Database, table: Table, moves: Sequence[Move]
) -> Iterator[list[tuple[Move, tuple[Any, ...]]]]:
    """Moves with their rows, as many as are to be in memory at the same time."""
    held, weight = list[tuple[Move, tuple[Any, ...]]](), 0
    for part in _parts(moves, min(_ROWS, max(1, job.chunk_rows))):
        rows = upsert.rows_of(database, job.needs(), table, [key for key, _ in part])
        held += [(move, rows[move[0]][0]) for move in part]
        weight += sum(_weight(values[0]) for values in rows.values())
        if len(held) >= job.chunk_rows or weight >= job.chunk_bytes:
            yield held
            held, weight = [], 0
    if held:
        yield held


def _weight(values: Sequence[Any]) -> int:
    return sum(len(value) if isinstance(value, (str, bytes)) else 8 for value in values)


def _parts(rows: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(rows), max(1, size)):
        yield list(rows[start : start + max(1, size)])


# What is said of it


def _note(job: Job, done: Renumbered) -> None:
    """Have the ledger say by which ids the target has them."""
    path = Path(job.ledger)
    notes = ledger.read_notes(path)
    records = [
        ledger.packed(job.needs().table(name), {key: _entry(notes[name], key, at) for key, at in noted.items()})
        for name, noted in _noted(notes, done).items()
    ]
    ledger.append(path, b"".join(records))


def _noted(notes: Mapping[str, Notes], done: Renumbered) -> dict[str, Ids]:
    return {name: {key: at for key, at in ids.items() if key in notes[name].digests} for name, ids in done.ids.items()}


def _entry(notes: Notes, key: int, at: int) -> Entry:
    return Entry(notes.digests[key], notes.checks[key][1], notes.marks.get(key), at)


def applied(job: Job, done: Renumbered) -> dict[str, Any]:
    """What a CONFIRM is to look for: each row that was written again, as the ledger has it."""
    notes = ledger.read_notes(Path(job.ledger))
    rows = {EDGES: done.edges, **{name: ids.keys() for name, ids in done.ids.items()}}
    rows[TURNS] = sorted(done.turns)
    digests = {
        name: {key: notes[name].digests[key].hex() for key in keys if key in notes[name].digests}
        for name, keys in rows.items()
    }
    return {"digests": {name: each for name, each in digests.items() if each}, "aliases": done.ids}
