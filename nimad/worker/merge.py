"""One merge: rows of the source put where the target has them, or is to have them, table by table."""

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nimad.source import late
from nimad.source import rows as source_rows
from nimad.source.file import SourceFile
from nimad.source.rows import Judged, Reject, Rows
from nimad.source.schema import EDGES, LINKS, NODES, TARGET_TABLES, TURNS, Schema
from nimad.target import loading, merging, reading
from nimad.target import schema as t
from nimad.target.database import Database
from nimad.target.merging import Edge
from nimad.worker import identity
from nimad.worker.candidates import Notebook
from nimad.worker.identity import COLUMNS, Natural
from nimad.worker.job import Job, Late
from nimad.worker.naming import Names, Place, Wanted

_TAKEN = "its id {} is another {}'s in the target, and without a turn_id it would not be found under any other"
_INDEXED = "the vector index lets no embedding that is there be changed; make a new target to have it"


@dataclass
class Merge:
    """What a merge knows and does, by source table.

    First everything is looked up, then `write` does it, with what is removed first: at a row that was added in the same
    transaction, 0.15.3 finds the links of another. What left the source goes in a transaction before: only after it are
    its ids free.
    """

    job: Job
    database: Database
    notes: Notebook
    indexed: bool = False
    rejects: list[Reject] = field(default_factory=list)
    aside: dict[str, dict[int, bytes]] = field(default_factory=dict)
    digests: dict[str, dict[int, bytes]] = field(default_factory=dict)  # rows that are there now
    removed: dict[str, set[int]] = field(default_factory=dict)
    forgotten: dict[str, set[int]] = field(default_factory=dict)  # left the source; whose ids are another's now
    plans: dict[str, dict[int, tuple[int, bytes | None]]] = field(
        default_factory=dict
    )  # ids and marks of the next write
    added: dict[str, set[int]] = field(default_factory=dict)
    changed: dict[str, set[int]] = field(default_factory=dict)
    _names: dict[str, Names] = field(default_factory=dict)
    _edges_of_others: list[Edge] | None = None
    _removals: list[Callable[[], None]] = field(default_factory=list)
    _writes: list[Callable[[], None]] = field(default_factory=list)

    @property
    def schema(self) -> Schema:
        return self.job.needs()

    @property
    def add_only(self) -> bool:
        return (self.job.late or Late()).add_only

    def to_json(self) -> dict[str, Any]:
        aliases = {
            table: {key: names.of(key) for key in self.digests.get(table, ()) if names.of(key) != key}
            for table, names in self._names.items()
        }
        return {
            "added": {table: sorted(keys) for table, keys in self.added.items()},
            "changed": {table: sorted(keys) for table, keys in self.changed.items()},
            "applied": {
                "digests": {table: {k: d.hex() for k, d in rows.items()} for table, rows in self.digests.items()},
                "aliases": aliases,
                "removed": {table: sorted(keys) for table, keys in self.removed.items()},
                "forgotten": {table: sorted(keys) for table, keys in self.forgotten.items()},
            },
        }

    def names(self, table: str) -> Names:
        """By which ids the target knows the nodes, or the turns."""
        if table not in self._names:
            target, notes = TARGET_TABLES[table], self.notes[table]
            there = merging.keys(self.database, target)
            self._names[table] = Names(table, notes, there, self._naturals(table, there - notes.target_ids()))
        return self._names[table]

    def _naturals(self, table: str, ids: Collection[int]) -> dict[int, Natural]:
        rows = merging.columns(self.database, TARGET_TABLES[table], COLUMNS[table], ids)
        return {key: identity.natural(values) for key, values in rows.items()}

    def _see(self, table: str, keys: Iterable[int | None]) -> Names:
        """Look whose the ids of noted rows are now."""
        names = self.names(table)
        ids = {names.of(key) for key in keys if key is not None} & names.there
        names.ours.update(self._naturals(table, ids - names.ours.keys()))
        return names

    def write(self) -> None:
        """Do what was found to be necessary. To be called in a transaction."""
        for write in (*self._removals, *self._writes):
            write()
        self._removals, self._writes, self._edges_of_others, self.plans = [], [], None, {}
        for names in self._names.values():
            names.left()

    @property
    def removes(self) -> bool:
        """Whether something is to be taken out already."""
        return bool(self._removals)

    def _later(self, statement: Callable[..., None], *arguments: Any) -> None:
        removes = statement in (merging.remove, merging.remove_edges, merging.unlink)
        (self._removals if removes else self._writes).append(partial(statement, self.database, *arguments))

    def remove(self, gone: Mapping[str, Sequence[int]], left: Mapping[str, Sequence[int]]) -> None:
        """Take out rows that left the source. Edges first: a node takes with it what hangs on it.

        `left`: rows that were taken out before, and may be there again.
        """
        for table in (EDGES, TURNS, NODES):
            if keys := gone.get(table, ()):
                self._remove(table, keys)
            if keys := left.get(table, ()):
                self._remove_again(table, keys)

    def _remove(self, table: str, keys: Sequence[int]) -> None:
        if table == EDGES:
            self._later(merging.remove, TARGET_TABLES[table], keys)
            self.removed.setdefault(table, set()).update(keys)
            return
        names, marks = self._see(table, keys), self.notes[table].marks
        for key in keys:
            at = names.of(key)
            if at in names.there and not (key in marks and names.is_ours(key)):
                self.forgotten.setdefault(table, set()).add(key)  # whose it is cannot be told, or is somebody else's
                names.forget(key)
            else:
                self.removed.setdefault(table, set()).add(key)
                names.leave(key)
        self._later(merging.remove, TARGET_TABLES[table], sorted(names.going))

    def _remove_again(self, table: str, keys: Sequence[int]) -> None:
        if table == EDGES:
            self._later(merging.remove, TARGET_TABLES[table], keys)
            return
        names, left = self.names(table), self.notes[table].left
        again = {at for at, mark in map(left.__getitem__, keys) if self._is_left(names, at, mark)}
        names.going |= again
        self._later(merging.remove, TARGET_TABLES[table], sorted(again))

    def _is_left(self, names: Names, at: int, mark: bytes) -> bool:
        """Whether a row of the target is one that was taken out before, and nobody else's."""
        return at in names.others and identity.is_marked(names.table, names.others[at], mark)

    def nodes(self, rows: Rows) -> None:
        judged, places = self._placed(rows)
        unlike = self._put(judged, places, keep=("embedding",) if self.indexed else ())
        if self.indexed:
            self.rejects += [
                source_rows.set_aside(judged.rows, position, "embedding", _INDEXED)
                for position, columns in unlike.items()
                if "embedding" in columns
            ]

    def edges(self, rows: Rows) -> None:
        judged = self._judged(rows)
        names = self._see(NODES, itertools.chain(*judged.columns[:2]))
        ends = {end for column in judged.columns[:2] for end in column if names.knows(end)}
        judged, dangling = loading.with_both_ends(judged, ends)
        self._set_aside(rows, dangling)
        drawn = [(names.of(a), names.of(b)) for a, b in zip(judged.columns[0], judged.columns[1], strict=True)]
        keys = list(judged.rows.keys)
        there = reading.keys(self.database, t.EDGE_TABLE, keys)
        unlike = merging.differing(self.database, self.schema, judged, keys, drawn)
        fresh = [position for position, key in enumerate(keys) if key not in there]
        own = {(*drawn[p], self._relation(judged, p)): p for p in fresh}
        adopted = [edge for edge in self._others() if (edge.start, edge.end, edge.relation) in own]
        write = sorted(unlike)
        if self.add_only:
            taken = {own[edge.start, edge.end, edge.relation] for edge in adopted}
            write = [position for position in fresh if position not in taken]
        else:
            adopted = self._one_each(adopted, [(*drawn[p], self._relation(judged, p)) for p in fresh])
            self._later(merging.remove_edges, adopted)
            self._later(merging.remove, t.EDGE_TABLE, [keys[p] for p in write if keys[p] in there])
        chosen = loading.select(judged, [position in write for position in range(len(keys))])
        self.plans.setdefault(EDGES, {}).update({keys[p]: (keys[p], None) for p in fresh if p in write})
        self._later(merging.insert_edges, self.schema, chosen, [drawn[position] for position in write])
        self._note(judged, [*write] if self.add_only else range(len(keys)))
        self._count(EDGES, [keys[p] for p in write if p in fresh], [keys[p] for p in write if p not in fresh])

    def turns(self, rows: Rows) -> None:
        judged, places = self._placed(rows)
        self._put(judged, places)
        nodes, turns = self._see(NODES, itertools.chain(*judged.columns[: len(rows.table.ends)])), self.names(TURNS)
        known = {end for column in judged.columns[: len(rows.table.ends)] for end in column if nodes.knows(end)}
        pairs, dangling = loading.link_pairs(judged, known)
        self.rejects += dangling
        ids = {turns.of(key): key for key in judged.rows.keys}
        for kind in LINKS.values():
            wanted = {(turns.of(turn), nodes.of(node)) for turn, node in pairs[kind]}
            there = set(reading.links(self.database, kind, sorted(ids)))
            ours = {} if self.add_only else self.notes[TURNS].digests
            mine = self._ours(node for _, node in there - wanted)  # nima-core links its own nodes to our turns
            lost = sorted(pair for pair in there - wanted if ids[pair[0]] in ours and pair[1] in mine)
            self._later(merging.unlink, kind, lost)
            self._later(merging.link, kind, sorted(wanted - there))
            linked = {ids[turn] for turn, _ in [*lost, *(wanted - there)]}
            self._count(TURNS, [], sorted(linked - self.added.get(TURNS, set())))

    def _ours(self, nodes: Iterable[int]) -> set[int]:
        """Which nodes of the target are the source's."""
        keys = self.names(NODES).keys_at(nodes)
        names = self._see(NODES, keys.values())
        return {node for node, key in keys.items() if names.knows(key)}

    def _judged(self, rows: Rows) -> Judged:
        judged = source_rows.judge(rows, self.schema, self.job.isolated_of(rows.table.name))
        self._set_aside(rows, judged.rejects)
        return judged

    def _set_aside(self, rows: Rows, rejects: Sequence[Reject]) -> None:
        """Note rows that have no place in the target. What is there of an earlier state of them stays."""
        self.rejects += rejects
        table = rows.table.name
        whole = {reject.id for reject in rejects if reject.part == "row" and isinstance(reject.id, int)}
        now = {row[0]: source_rows.digest(row) for row in rows.values if row[0] in whole}
        self.aside.setdefault(table, {}).update(now)
        if table == EDGES and (lost := [key for key in now if key in self.notes[EDGES].digests]):
            self._remove(EDGES, lost)
        elif table != EDGES:  # the ledger does not say longer than the target that it has them
            names = self._see(table, now)
            noted = [key for key in now if key in self.notes[table].digests and key not in names.gone]
            lost = [key for key in noted if names.of(key) not in names.there]
            self.removed.setdefault(table, set()).update(lost)
            others = now.keys() & names.gone & self.notes[table].digests.keys()
            self.forgotten.setdefault(table, set()).update(others - self.removed[table])

    def _placed(self, rows: Rows) -> tuple[Judged, list[Place]]:
        """The rows that have a place in the target, and which."""
        judged = self._judged(rows)
        table = rows.table.name
        names = self._see(table, judged.rows.keys)
        naturals = [identity.natural(_values(judged, p, COLUMNS[table])) for p in range(len(judged.rows))]
        claimed = self._claimed(table, set().union(*map(names.near, naturals)))
        texts = partial(self._texts, table)
        places = [
            names.place(Wanted(key, natural, _values(judged, position, ("text",))[0], claimed), texts)
            for position, (key, natural) in enumerate(zip(judged.rows.keys, naturals, strict=True))
        ]
        self.plans.setdefault(table, {}).update(
            {
                key: (place.id, identity.mark(natural))
                for key, natural, place in zip(judged.rows.keys, naturals, places, strict=True)
                if place is not None and not place.there and key not in self.notes[table].digests
            }
        )
        homeless = [position for position, place in enumerate(places) if place is None]
        what = "memory" if table == NODES else "turn"
        reasons = [
            source_rows.set_aside(judged.rows, p, "row", _TAKEN.format(judged.rows.keys[p], what)) for p in homeless
        ]
        self._set_aside(rows, reasons)
        return loading.select(judged, [place is not None for place in places]), [p for p in places if p is not None]

    def _claimed(self, table: str, rivals: set[int]) -> set[int]:
        """Rows of the target that the source has by their own id: they are nobody else's."""
        if not rivals:
            return set()
        source, of = SourceFile(self.job.source_path()), self.schema.table(table)
        there = source.read(lambda c: late.columns(c, of, COLUMNS[table], sorted(rivals)))
        others, now = self.names(table).others, {key: identity.of_source(of, row) for key, row in there.items()}
        return {key for key, its in now.items() if its is not None and identity.same(table, its, others[key])}

    def _texts(self, table: str, ids: Collection[int]) -> dict[int, str | None]:
        if table == TURNS:
            return {}
        return {key: row[0] for key, row in merging.columns(self.database, t.NODE_TABLE, ("text",), ids).items()}

    def _put(self, judged: Judged, places: Sequence[Place], keep: Sequence[str] = ()) -> dict[int, set[str]]:
        """Add what is not there, and bring what is to the source's state; return what of it was otherwise, by row."""
        table = judged.rows.table.name
        ids = [place.id for place in places]
        new = [not place.there for place in places]
        self._later(merging.insert, self.schema, loading.select(judged, new), [p.id for p in places if not p.there])
        unlike: dict[int, set[str]] = {}
        if not self.add_only and not all(new):
            unlike = merging.differing(self.database, self.schema, judged, ids)
            unlike = {position: columns for position, columns in unlike.items() if not new[position]}
            chosen = [position in unlike for position in range(len(ids))]
            part = loading.select(judged, chosen)
            self._later(merging.update, self.schema, part, [ids[position] for position in sorted(unlike)], keep)
        fresh = [position for position, flag in enumerate(new) if flag]
        self._note(judged, fresh if self.add_only else range(len(ids)))
        keys = judged.rows.keys
        self._count(table, [keys[position] for position in fresh], [keys[position] for position in unlike])
        return unlike

    def _others(self) -> list[Edge]:
        if self._edges_of_others is None:
            self._edges_of_others = merging.edges_of_others(self.database)
        return self._edges_of_others

    def _one_each(self, edges: Sequence[Edge], wanted: Sequence[tuple[int, int, Any]]) -> list[Edge]:
        """For each edge of the source one that the agent drew between the same ends; it is not to be taken again."""
        left, found = list(wanted), []
        for edge in edges:
            if (edge.start, edge.end, edge.relation) in left:
                left.remove((edge.start, edge.end, edge.relation))
                self._others().remove(edge)
                found.append(edge)
        return found

    def _relation(self, judged: Judged, position: int) -> Any:
        return _values(judged, position, ("relation",))[0]

    def _note(self, judged: Judged, positions: Sequence[int]) -> None:
        rows = judged.rows
        noted = {rows.keys[p]: source_rows.digest(rows.values[p]) for p in positions}
        self.digests.setdefault(rows.table.name, {}).update(noted)

    def _count(self, table: str, added: Sequence[int], changed: Sequence[int]) -> None:
        self.added.setdefault(table, set()).update(added)
        self.changed.setdefault(table, set()).update(changed)


def _values(judged: Judged, position: int, names: Sequence[str]) -> tuple[Any, ...]:
    """Some of a row's values by their columns' names in the target; None for a column that the source lacks."""
    table = judged.rows.table
    at = {column.target: len(table.ends) + index for index, column in enumerate(table.columns)}
    return tuple(judged.columns[at[name]][position] if name in at else None for name in names)
