"""One merge: changed rows of the source are written to the target, table by table.

The agent's writes are kept. An existing row gets only the values that SQLite changed since both sides were last equal
(`worker/sync/three_way.py`). A row that left SQLite is removed only if it is still exactly as it was copied.
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nimad.source import changed_rows
from nimad.source import rows as source_rows
from nimad.source.rows import ConvertedRows, Reject, Rows
from nimad.source.schema import EDGES, LINKS, NODE_DEFAULTS, NODES, TARGET_TABLES, TURNS, Schema
from nimad.source.sqlite_file import SourceFile
from nimad.state.ledger import PlannedId, check_of, packed_checks, unpacked
from nimad.target import copy_rows, read_back, upsert
from nimad.target import ddl as t
from nimad.target.database import Database
from nimad.target.upsert import Edge
from nimad.worker import convert
from nimad.worker.compare.unchanged import still_as_copied
from nimad.worker.identity import natural_key
from nimad.worker.identity.id_map import IdMap, SourceRow, TargetId
from nimad.worker.identity.natural_key import COLUMNS, NaturalKey
from nimad.worker.protocol import Job, Late
from nimad.worker.sync.detect import Notebook
from nimad.worker.sync.merge_edges import EdgeMerge
from nimad.worker.sync.three_way import Base, Resolution, resolve

_TAKEN = "its id {} is another {}'s in the target, and without a turn_id it would not be found under any other"
_INDEXED = "the vector index lets no embedding that is there be changed; make a new target to have it"
_BOTH = "SQLite and the target both changed it; the target has {}"


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
    noted: bool = True  # whether there is a ledger at all
    indexed: bool = False
    rejects: list[Reject] = field(default_factory=list)
    conflicts: list[Reject] = field(default_factory=list)  # values that gave way to others
    aside: dict[str, dict[int, bytes]] = field(default_factory=dict)
    digests: dict[str, dict[int, bytes]] = field(default_factory=dict)  # rows that are there now
    kept: dict[str, dict[int, list[str]]] = field(default_factory=dict)  # columns in which the target's value stays
    undecided: dict[str, dict[int, list[str]]] = field(default_factory=dict)  # of these, what may be the older value
    removed: dict[str, set[int]] = field(default_factory=dict)
    forgotten: dict[str, set[int]] = field(default_factory=dict)  # left the source, and are the agent's now
    plans: dict[str, dict[int, PlannedId]] = field(default_factory=dict)  # of the next write
    changes: dict[str, dict[int, bytes]] = field(default_factory=dict)  # of the next write: checks of what rows will be
    added: dict[str, set[int]] = field(default_factory=dict)
    changed: dict[str, set[int]] = field(default_factory=dict)
    _names: dict[str, IdMap] = field(default_factory=dict)
    edges_of_others: list[Edge] | None = None
    _removals: list[Callable[[], None]] = field(default_factory=list)
    _writes: list[Callable[[], None]] = field(default_factory=list)

    @property
    def schema(self) -> Schema:
        return self.job.needs()

    @property
    def distrust(self) -> bool:
        return (self.job.late or Late()).distrust

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
                "kept": self.kept,
                "undecided": self.undecided,
                "removed": {table: sorted(keys) for table, keys in self.removed.items()},
                "forgotten": {table: sorted(keys) for table, keys in self.forgotten.items()},
            },
        }

    def names(self, table: str) -> IdMap:
        """By which ids the target knows the nodes, or the turns."""
        if table not in self._names:
            target, notes = TARGET_TABLES[table], self.notes[table]
            there = upsert.keys(self.database, target)
            self._names[table] = IdMap(table, notes, there, self._naturals(table, there - notes.target_ids()))
        return self._names[table]

    def _naturals(self, table: str, ids: Collection[int]) -> dict[int, NaturalKey]:
        rows = upsert.columns(self.database, TARGET_TABLES[table], COLUMNS[table], ids)
        return {key: natural_key.natural_key_of(values) for key, values in rows.items()}

    def see(self, table: str, keys: Iterable[int | None]) -> IdMap:
        """Look whose the ids of noted rows are now."""
        names = self.names(table)
        ids = {names.of(key) for key in keys if key is not None} & names.there
        names.ours.update(self._naturals(table, ids - names.ours.keys()))
        return names

    def write(self) -> None:
        """Do what was found to be necessary. To be called in a transaction."""
        for write in (*self._removals, *self._writes):
            write()
        self._removals, self._writes, self.edges_of_others, self.plans, self.changes = [], [], None, {}, {}
        for names in self._names.values():
            names.left()

    @property
    def removes(self) -> bool:
        """Whether something is to be taken out already."""
        return bool(self._removals)

    def later(self, statement: Callable[..., None], *arguments: Any) -> None:
        removes = statement in (upsert.remove, upsert.unlink)
        (self._removals if removes else self._writes).append(partial(statement, self.database, *arguments))

    # Rows that left the source

    def remove(self, gone: Mapping[str, Sequence[int]], left: Mapping[str, Sequence[int]]) -> None:
        """Take out rows that left the source. Edges first: a node takes with it what hangs on it.

        `left`: rows that were taken out before, and are there again in an older copy of the target.
        """
        for table in (EDGES, TURNS, NODES):
            if keys := gone.get(table, ()):
                self._remove(table, keys)
            if keys := left.get(table, ()):
                self._remove_again(table, keys)

    def _remove(self, table: str, keys: Sequence[int]) -> None:
        """Take out what is exactly as it was copied; what the agent changed, or holds on to, is the agent's now."""
        at = {key: self.names(table).of(key) if table != EDGES else key for key in keys}
        as_copied = self._still_as_copied(table, at, {key: self.notes[table].base(key) for key in keys})
        if table != EDGES:
            names, marks = self.see(table, keys), self.notes[table].marks
            gone = {key for key in keys if at[key] not in names.there}
            ours = {key for key in as_copied if key in marks and names.is_ours(key)} | gone
            for key in keys:
                (names.leave if key in ours else names.forget)(key)
            self.later(upsert.remove, TARGET_TABLES[table], sorted(names.going))
        else:
            ours = as_copied | (set(keys) - upsert.keys(self.database, t.EDGE_TABLE))
            self.later(upsert.remove, TARGET_TABLES[table], sorted(ours))
        self.removed.setdefault(table, set()).update(ours)
        self.forgotten.setdefault(table, set()).update(set(keys) - ours)

    def _remove_again(self, table: str, keys: Sequence[int]) -> None:
        left = self.notes[table].left
        at = {key: left[key].id for key in keys}
        again = self._still_as_copied(table, at, {key: unpacked(left[key].checks) for key in keys})
        if table != EDGES:
            names = self.names(table)
            others = {key: names.others.get(at[key]) for key in again}
            again = {k for k, its in others.items() if its and natural_key.has_fingerprint(table, its, left[k].mark)}
            names.going |= {at[key] for key in again}
        self.later(upsert.remove, TARGET_TABLES[table], sorted(at[key] for key in again))

    def _still_as_copied(
        self, table: str, at: Mapping[int, int], bases: Mapping[int, Mapping[str, bytes] | None]
    ) -> set[int]:
        return still_as_copied(self.database, self.schema, table, at, bases, self.notes[TURNS].maybe_ids())

    # Nodes

    def nodes(self, rows: Rows) -> None:
        judged, places = self._placed(rows)
        self._put(judged, places)

    # Edges

    def edges(self, rows: Rows) -> None:
        EdgeMerge(self).bring(rows)

    def without_removed(self, judged: ConvertedRows, there: Collection[int]) -> ConvertedRows:
        """Leave out rows that the agent took out of the target, unless SQLite changed them, or a node came back."""
        table, notes = judged.rows.table.name, self.notes[judged.rows.table.name]
        keep = []
        for position, key in enumerate(judged.rows.keys):
            digest = source_rows.digest(judged.rows.values[position])
            known = notes.absent.get(key) == digest or (not self.distrust and notes.digests.get(key) == digest)
            ends = [column[position] for column in judged.columns[: len(judged.rows.table.ends)]]
            came = table == EDGES and any(self.is_fresh(end) for end in ends)
            keep.append(key in there or not known or came)
        return copy_rows.select(judged, keep)

    def is_fresh(self, node: Any) -> bool:
        """Whether a node of the source is in the target only now, or again."""
        return node not in self.notes[NODES].digests or node in self.added.get(NODES, ())

    # Turns

    def turns(self, rows: Rows) -> None:
        names = self.see(TURNS, rows.keys)
        judged, places = self._placed(rows, {key for key in rows.keys if names.of(key) in names.there})
        self._put(judged, places)
        nodes = self.see(NODES, itertools.chain(*judged.columns[: len(rows.table.ends)]))
        known = {end for column in judged.columns[: len(rows.table.ends)] for end in column if nodes.knows(end)}
        _, dangling = copy_rows.link_pairs(judged, known)
        self.rejects += dangling
        for index, end in enumerate(rows.table.ends):
            self._link(judged, index, LINKS[end.lower()], known)

    def _link(self, judged: ConvertedRows, index: int, kind: str, known: Collection[int]) -> None:
        """Bring the links of one kind to where SQLite moved them. What only the agent linked, or unlinked, stays so."""
        end, turns, nodes = judged.rows.table.ends[index], self.names(TURNS), self.names(NODES)
        there: dict[int, set[int]] = {}
        known_turns = sorted(turns.of(key) for key in judged.rows.keys if key not in self.added.get(TURNS, ()))
        for turn, node in read_back.links(self.database, kind, known_turns) if known_turns else ():
            there.setdefault(turn, set()).add(node)
        keys_at = nodes.keys_at(node for linked in there.values() for node in linked)
        add, lose, linked = [], [], set[int]()
        for key, node in zip(judged.rows.keys, judged.columns[index], strict=True):
            turn, base = turns.of(key), (self.notes[TURNS].base(key) or {}).get(end)
            has, wanted = there.get(turn, set()), {nodes.of(node)} if node in known else set()
            if has == wanted:
                continue
            moved = base is None or base != check_of(node)
            is_ours = self.is_ours(TURNS, key)
            ours = {n: check_of(keys_at[n]) for n in has - wanted if base is not None and n in keys_at}
            copied = {n for n, check in ours.items() if check == base or is_ours(end, check)}
            if wanted - has and (moved or self.distrust or self.is_fresh(node)):
                add += [(turn, other) for other in wanted]
                linked.add(key)
            elif wanted - has:
                self.keep(TURNS, key, [end])
            if copied and (moved or self.distrust):
                lose += [(turn, other) for other in sorted(copied)]
                linked.add(key)
        self.later(upsert.unlink, kind, lose)
        self.later(upsert.link, kind, sorted(add))
        changed = linked - self.added.get(TURNS, set())
        self.plan_changes(judged, [p for p, key in enumerate(judged.rows.keys) if key in changed])
        self.count(TURNS, [], sorted(changed))

    # What nodes and turns have in common

    def judged(self, rows: Rows) -> ConvertedRows:
        judged = convert.convert(self.job, rows, self.schema)
        self.set_aside(rows, judged.rejects)
        return judged

    def set_aside(self, rows: Rows, rejects: Sequence[Reject]) -> None:
        """Note rows that have no place in the target. What is there of an earlier state of them stays."""
        self.rejects += rejects
        table = rows.table.name
        whole = {reject.id for reject in rejects if reject.part == "row" and isinstance(reject.id, int)}
        now = {row[0]: source_rows.digest(row) for row in rows.values if row[0] in whole}
        self.aside.setdefault(table, {}).update(now)
        if table == EDGES and (lost := [key for key in now if key in self.notes[EDGES].digests]):
            self._remove(EDGES, lost)
        elif table != EDGES:  # the ledger does not say longer than the target that it has them
            names = self.see(table, now)
            noted = [key for key in now if key in self.notes[table].digests and key not in names.gone]
            lost = [key for key in noted if names.of(key) not in names.there]
            self.removed.setdefault(table, set()).update(lost)
            others = now.keys() & names.gone & self.notes[table].digests.keys()
            self.forgotten.setdefault(table, set()).update(others - self.removed[table])

    def _placed(self, rows: Rows, there: Collection[int] | None = None) -> tuple[ConvertedRows, list[TargetId]]:
        """The rows that have a place in the target, and which. `there`: keys of those that are, if that matters."""
        judged = self.judged(rows)
        if there is not None:
            judged = self.without_removed(judged, there)
        table = rows.table.name
        names = self.see(table, judged.rows.keys)
        naturals = [
            natural_key.natural_key_of(natural_key.values_of(judged, p, COLUMNS[table]))
            for p in range(len(judged.rows))
        ]
        claimed = self._claimed(table, set().union(*map(names.near, naturals)))
        texts = partial(self._texts, table)
        places = [
            names.place(SourceRow(key, natural, natural_key.values_of(judged, position, ("text",))[0], claimed), texts)
            for position, (key, natural) in enumerate(zip(judged.rows.keys, naturals, strict=True))
        ]
        self.plans.setdefault(table, {}).update(
            {
                key: PlannedId(place.id, natural_key.fingerprint(natural), checks)
                for key, natural, place, checks in zip(
                    judged.rows.keys, naturals, places, packed_checks(judged), strict=True
                )
                if place is not None and not place.there and key not in self.notes[table].digests
            }
        )
        homeless = [position for position, place in enumerate(places) if place is None]
        what = "memory" if table == NODES else "turn"
        reasons = [
            source_rows.set_aside(judged.rows, p, "row", _TAKEN.format(judged.rows.keys[p], what)) for p in homeless
        ]
        self.set_aside(rows, reasons)
        return copy_rows.select(judged, [place is not None for place in places]), [p for p in places if p is not None]

    def _claimed(self, table: str, rivals: set[int]) -> set[int]:
        """Rows of the target that the source has by their own id: they are nobody else's."""
        if not rivals:
            return set()
        source, of = SourceFile(self.job.source_path()), self.schema.table(table)
        there = source.read(lambda c: changed_rows.columns(c, of, COLUMNS[table], sorted(rivals)))
        others, now = self.names(table).others, {key: natural_key.of_source(of, row) for key, row in there.items()}
        return {key for key, its in now.items() if its is not None and natural_key.same(table, its, others[key])}

    def _texts(self, table: str, ids: Collection[int]) -> dict[int, str | None]:
        if table == TURNS:
            return {}
        return {key: row[0] for key, row in upsert.columns(self.database, t.NODE_TABLE, ("text",), ids).items()}

    def _put(self, judged: ConvertedRows, places: Sequence[TargetId]) -> None:
        """Add what is not there, and bring what is to where SQLite moved it."""
        table, keys = judged.rows.table, judged.rows.keys
        new = [not place.there for place in places]
        self.later(upsert.insert, self.schema, copy_rows.select(judged, new), [p.id for p in places if not p.there])
        there = upsert.rows_of(self.database, self.schema, table, [place.id for place in places if place.there])
        found = {
            position: self.resolve(judged, position, there[place.id][0])
            for position, place in enumerate(places)
            if place.there
        }
        found = {position: self._without_index(judged, position, each) for position, each in found.items()}
        self.update(
            judged,
            found,
            lambda part, positions, names: self.later(
                upsert.update, self.schema, part, [places[p].id for p in positions], names
            ),
        )
        again = [p for p, key in enumerate(keys) if new[p] and key in self.notes[table.name].digests]
        self.plan_changes(judged, [*again, *(p for p, each in found.items() if each.take)])
        self.note(judged)
        fresh = [key for key, flag in zip(keys, new, strict=True) if flag]
        self.count(table.name, fresh, [keys[position] for position, each in found.items() if each.take])

    def _without_index(self, judged: ConvertedRows, position: int, found: Resolution) -> Resolution:
        """An embedding that an index has stays as it is; SQLite's is set aside."""
        if not self.indexed or "embedding" not in found.take:
            return found
        self.rejects.append(source_rows.set_aside(judged.rows, position, "embedding", _INDEXED))
        table, key, stays = judged.rows.table.name, judged.rows.keys[position], frozenset({"embedding"})
        self.keep(table, key, sorted(stays))
        self._leave_undecided(table, key, stays)
        return Resolution(found.take - stays, found.keep | stays, found.conflicts, found.undecided | stays)

    def resolve(self, judged: ConvertedRows, position: int, there: Sequence[Any]) -> Resolution:
        """Decide whose values one row gets; `there`: the target's, in order of the table's columns."""
        table, key = judged.rows.table, judged.rows.keys[position]
        here = [column[position] for column in judged.columns[len(table.ends) :]]
        unlike = upsert.differing_columns(table, here, there)
        if not unlike:
            return Resolution()
        names = [column.target for column in table.columns]
        notes = self.notes[table.name]
        checks = notes.base(key) if key in notes.digests else None
        defaults = NODE_DEFAULTS if table.name == NODES else {}
        base = Base(checks, defaults, self.noted, self.is_ours(table.name, key), notes.undecided.get(key, frozenset()))
        sides = dict(zip(names, here, strict=True)), dict(zip(names, there, strict=True))
        found = resolve(*sides, sorted(unlike), base)
        self._record(judged, position, found)
        self.keep(table.name, key, sorted(found.keep))
        self._leave_undecided(table.name, key, found.undecided)
        return found

    def is_ours(self, table: str, key: int) -> Callable[[str, bytes], bool]:
        """What tells whether a value of the target is one that we brought, though it is not the base."""
        return partial(self.notes[table].is_ours, key, older=self.distrust)

    def plan_changes(self, judged: ConvertedRows, positions: Sequence[int]) -> None:
        """Have it noted before the write what rows are to be: a run killed before it looks knows its own values."""
        if positions:
            checks, keys = packed_checks(judged), judged.rows.keys
            self.changes.setdefault(judged.rows.table.name, {}).update({keys[p]: checks[p] for p in positions})

    def _record(self, judged: ConvertedRows, position: int, found: Resolution) -> None:
        """Have the values that give way recorded, each by itself."""
        rows = judged.rows
        for each in found.conflicts:
            winner = "SQLite's value" if each.winner == "sqlite" else "its own"
            what = Reject(
                rows.table.name, rows.keys[position], each.column, _BOTH.format(winner), {each.column: each.lost}
            )
            self.conflicts.append(what)

    def update(
        self,
        judged: ConvertedRows,
        found: Mapping[int, Resolution],
        write: Callable[[ConvertedRows, Sequence[int], Collection[str]], None],
        always: Collection[int] = (),
    ) -> None:
        """Have rows that take the same columns written together. `always`: rows to write though they take none."""
        alike: dict[frozenset[str], list[int]] = {}
        for position, each in found.items():
            if each.take or position in always:
                alike.setdefault(each.take, []).append(position)
        for names, positions in alike.items():
            chosen = set(positions)
            part = copy_rows.select(judged, [position in chosen for position in range(len(judged.rows))])
            write(part, sorted(positions), names)

    def keep(self, table: str, key: int, names: Sequence[str]) -> None:
        if names:
            self.kept.setdefault(table, {}).setdefault(key, []).extend(names)

    def _leave_undecided(self, table: str, key: int, names: Collection[str]) -> None:
        if names:
            self.undecided.setdefault(table, {}).setdefault(key, []).extend(sorted(names))

    def note(self, judged: ConvertedRows) -> None:
        rows = judged.rows
        noted = {key: source_rows.digest(row) for key, row in zip(rows.keys, rows.values, strict=True)}
        self.digests.setdefault(rows.table.name, {}).update(noted)

    def count(self, table: str, added: Sequence[int], changed: Sequence[int]) -> None:
        self.added.setdefault(table, set()).update(added)
        self.changed.setdefault(table, set()).update(changed)
