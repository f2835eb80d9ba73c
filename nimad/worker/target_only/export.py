"""Export of what only the old target holds, before a new one replaces it. Both sides are only read.

Exported are the agent's writes: rows that it added, values that it changed (`worker/sync/three_way.py`) and rows that
it removed. A row that left SQLite and is exactly as it was copied is not exported: the backup has it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from nimad.source import rows as source_rows
from nimad.source.changed_rows import deleted_in_passing
from nimad.source.schema import EDGES, LINKS, NODE_DEFAULTS, NODES, TARGET_TABLES, TURNS, Table, ValueKind
from nimad.source.sqlite_file import SourceFile
from nimad.state import ledger
from nimad.state.ledger import Notes, check_of
from nimad.target import catalog, upsert
from nimad.target import ddl as t
from nimad.target.catalog import Declared
from nimad.target.database import open_database
from nimad.target.destination import cypher_name
from nimad.worker.compare.compare_rows import RowComparison
from nimad.worker.compare.shared_schema import kind_of
from nimad.worker.compare.unchanged import still_as_copied
from nimad.worker.engine_limits import limits_of
from nimad.worker.protocol import Job
from nimad.worker.sync.three_way import Base, resolve
from nimad.worker.target_only.rows_file import LineKind, RowReference, TargetOnlyLine, TargetOnlyWriter

#: Rows that are read at the same time.
_ROWS = 200
_NODE_TABLES = (t.NODE_TABLE, t.TURN_TABLE)
_EDGE_KEY = (t.EDGE_TABLE, "edge_id")  # SQLite's: an edge of the agent's has none
#: The relationships of ours, with the tables that they join; an agent may let them join others as well.
_OURS: Mapping[str, tuple[str, str]] = {
    t.EDGE_TABLE: (t.NODE_TABLE, t.NODE_TABLE),
    **dict.fromkeys(t.LINK_TABLES, (t.TURN_TABLE, t.NODE_TABLE)),
}
#: What is counted as which, where not by its own name.
_SAID: Mapping[str, str] = {t.EDGE_TABLE: EDGES, **dict.fromkeys(t.LINK_TABLES, "links")}


def export(job: Job, module: ModuleType) -> dict[str, Any]:
    """Write what the target of the job alone holds to the file `copy_to`, and return how much that is."""
    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        compared = RowComparison(job, database)
        facts = compared.run()
        with TargetOnlyWriter(Path(job.copy_to)) as writer:
            exported = _Export(compared, writer, ledger.exists(Path(job.ledger)) if job.ledger else False)
            exported.run()
    return {
        **facts,
        "exported": exported.counts,
        "renumbers": exported.renumbers,
        "declares": exported.declares,
        "left_behind": exported.left_behind,
        "put_back": exported.put_back,
    }


@dataclass
class _Export:
    compared: RowComparison
    writer: TargetOnlyWriter
    noted: bool
    counts: dict[str, int] = field(default_factory=dict)
    left_behind: dict[str, int] = field(default_factory=dict)  # rows, or columns of tables, that the backup alone holds
    put_back: dict[str, int] = field(default_factory=dict)  # rows that are missing there: too many to have been removed
    renumbers: bool = False  # whether rows of SQLite's are to have other ids than SQLite's in a new target
    declares: bool = False  # whether the agent made tables, columns or pairs of its own, be they empty
    _references: dict[str, dict[Any, RowReference]] = field(default_factory=dict)  # by table of the target and id there

    def run(self) -> None:
        for table in self._tables(NODES, TURNS):
            self._ids(table)
        others, further = self._other_tables()
        present = self.compared.fit.present
        for name in (*(name for name in _NODE_TABLES if name in present), *others):
            self._declare(name)
        ours = [name for name in _OURS if name in present]
        relationships = {name: self._pairs(name, others) for name in (*ours, *further)}
        for name, pairs in relationships.items():
            self._declare_relationship(name, pairs)
        for table in self._tables(NODES, TURNS):
            self._add(table)
        for table in self._tables(NODES, TURNS, EDGES):
            self._set(table)
        for name in others:
            self._rows(name)
        self._edges()
        self._links()
        for name, pairs in relationships.items():
            for pair in pairs:
                if pair != _OURS.get(name):
                    self._connections(name, pair, _SAID.get(name, name))
        for table in self._tables(EDGES, TURNS, NODES):
            self._removed(table)

    def _tables(self, *names: str) -> list[Table]:
        known = {table.name: table for table in self.compared.fit.schema.tables() if self.compared.fit.has(table.name)}
        return [known[name] for name in names if name in known]

    def _notes(self, name: str) -> Notes:
        return self.compared.noted(name)

    def _write(self, line: TargetOnlyLine, what: str, number: int = 1) -> None:
        self.writer.write(line)
        self.counts[what] = self.counts.get(what, 0) + number

    # What the tables of the target have

    def _info(self, name: str) -> list[Declared]:
        """The columns of a table that can be carried."""
        found = catalog.columns(self.compared.database, name)
        for column in found:
            if kind_of(column.type) is None:
                self.left_behind[f"{name}.{column.name} ({column.type})"] = 1
        return [column for column in found if kind_of(column.type) is not None]

    def _other_tables(self) -> tuple[list[str], list[str]]:
        """The tables of the agent's own that can be carried, and its relationships."""
        database, ours = self.compared.database, {*TARGET_TABLES.values(), *t.LINK_TABLES}
        ours |= catalog.of_indexes(database)
        others = {name: kind for name, kind in database.tables().items() if name not in ours}
        nodes = [name for name, kind in others.items() if kind == "NODE"]
        carried = [name for name in nodes if self._has_key(name)]
        for name in nodes:
            if name not in carried:
                self._leave(name, f"MATCH (n:{cypher_name(name)})")
        return carried, [name for name, kind in others.items() if kind == "REL"]

    def _has_key(self, name: str) -> bool:
        """Whether a table's key is of a type that can be carried: without it there is no row."""
        columns = catalog.columns(self.compared.database, name)
        return any(column.is_key and kind_of(column.type) is not None for column in columns)

    def _leave(self, name: str, match: str) -> None:
        """Name the rows of a table, or of a part of a relationship, that the backup alone will hold."""
        number = int(self.compared.database.ask(f"{match} RETURN count(*)")[0][0])
        self.left_behind[name] = self.left_behind.get(name, 0) + number

    def _pairs(self, name: str, others: Sequence[str]) -> list[tuple[str, str]]:
        """The pairs of tables that a relationship joins, if both can be carried."""
        carried, pairs = {*_NODE_TABLES, *others}, list[tuple[str, str]]()
        for join in catalog.joins(self.compared.database, name):
            if {join.start, join.end} <= carried:
                pairs.append((join.start, join.end))
            else:
                self._leave(
                    name, f"MATCH (:{cypher_name(join.start)})-[n:{cypher_name(name)}]->(:{cypher_name(join.end)})"
                )
        return pairs

    def _declare(self, name: str) -> None:
        info = self._info(name)
        columns = [(column.name, column.type, column.default) for column in info]
        primary = next((column.name for column in info if column.is_key), "")
        self.declares |= self._is_more(name, info)
        self.writer.write(TargetOnlyLine(LineKind.TABLE, name, columns=columns, primary=primary))

    def _is_more(self, name: str, info: Sequence[Declared]) -> bool:
        """Whether a table is none of those that a new target has, or has columns that ours have not."""
        ours = {table.name: table.columns for table in t.tables(self.compared.fit.schema)}
        if name not in ours:
            return name not in t.AGENT_TABLES
        return any(column.name not in ours[name] for column in info)

    def _declare_relationship(self, name: str, pairs: Sequence[tuple[str, str]]) -> None:
        if pairs:
            info = self._info(name)
            columns = [(column.name, column.type, column.default) for column in info]
            self.declares |= self._is_more(name, info) or (name in _OURS and [*pairs] != [_OURS[name]])
            self.writer.write(TargetOnlyLine(LineKind.TABLE, name, columns=columns, pairs=pairs))

    def _values(self, name: str, ids: Iterable[int], columns: Mapping[str, str]) -> dict[int, Any]:
        """Values of memories or turns by id, as rows by name."""
        wanted, found = [*columns], {}
        kinds = [kind for column in wanted if (kind := kind_of(columns[column])) is not None]
        for part in _parts(list(ids)):
            match = f"UNWIND $keys AS key MATCH (n:{cypher_name(name)}) WHERE n.id = key"
            returned = ", ".join(f"n.{cypher_name(column)}" for column in wanted)
            rows = self.compared.database.ask(f"{match} RETURN n.id, {returned}", keys=part)
            for row in rows:
                values = (_plain(value, kind) for value, kind in zip(row[1:], kinds, strict=True))
                found[row[0]] = dict(zip(wanted, values, strict=True))
        return found

    # Memories and turns

    def _ids(self, table: Table) -> None:
        """By which ids the agent knows rows of SQLite's, and which it knows as something else."""
        found = self.compared.tables[table.name]
        ids = [(key, at) for key, at in sorted(found.pairs.items()) if at != key]
        taken = {at for _, at in ids} | {at for at, _ in found.extra}
        lacking = {key for key, _ in (*found.late, *found.lacking)}
        self.renumbers |= bool(ids) or not taken.isdisjoint(lacking)
        if ids or taken:
            self.writer.write(TargetOnlyLine(LineKind.IDS, table.name, keys=sorted(taken), ids=ids))

    def _add(self, table: Table) -> None:
        name, found = TARGET_TABLES[table.name], self.compared.tables[table.name]
        references = self._references.setdefault(name, {})
        references.update({at: RowReference(name, "key", key) for key, at in found.pairs.items()})
        ids = [at for at, _ in found.extra]
        copied = self._as_copied(table, ids)
        if copied:
            self.left_behind[table.name] = len(copied)
        own = [at for at in ids if at not in copied]
        columns = {column.name: column.type for column in self._info(name) if column.name != "id"}
        for at, row in self._values(name, own, columns).items():
            references[at] = RowReference(name, "id", at)
            self._write(TargetOnlyLine(LineKind.ADD, name, row, at), table.name)

    def _as_copied(self, table: Table, ids: Iterable[int]) -> set[int]:
        """Rows that left SQLite and that nobody changed, by their ids in the target."""
        notes = self._notes(table.name)
        keys = {notes.id_of(key): key for key in notes.digests}
        at = {keys[each]: each for each in ids if each in keys}
        bases = {key: notes.base(key) for key in at}
        turns = self._notes(TURNS).maybe_ids()
        database, schema = self.compared.database, self.compared.fit.schema
        return {at[key] for key in still_as_copied(database, schema, table.name, at, bases, turns)} if at else set()

    def _set(self, table: Table) -> None:
        """Values of rows that SQLite has too, as the agent changed them."""
        name, found = TARGET_TABLES[table.name], self.compared.tables[table.name]
        own: dict[int, dict[str, Any]] = {}
        undecided: dict[int, list[str]] = {}
        for part in _parts(list(found.differences())):
            there = upsert.rows_of(self.compared.database, self.compared.fit.schema, table, [each.at for each in part])
            for key, here in self.compared.here(table, [each.key for each in part]).items():
                rows = there.get(found.pairs[key], [])
                if len(rows) == 1:
                    there_now = rows[0][2 if table.name == EDGES else 0 :]
                    own[key], undecided[key] = self._kept(table, key, here, there_now)
        keys = {at: key for key, at in found.pairs.items()}
        for column, values in self._beyond(table).items():
            for at, value in values.items():
                if at in keys:
                    own.setdefault(keys[at], {})[column] = value
        for key, row in own.items():
            if row:
                line = TargetOnlyLine(LineKind.SET, name, row, key, undecided=undecided.get(key, ()))
                self._write(line, "values", len(row))

    def _kept(
        self, table: Table, key: int, here: Mapping[str, Any], there: tuple[Any, ...]
    ) -> tuple[dict[str, Any], list[str]]:
        """The values that stay the target's, and which of them may be older than SQLite's."""
        unlike = upsert.differing_columns(table, list(here.values()), there)
        sides = here, dict(zip(here, there, strict=True))
        notes, defaults = self._notes(table.name), NODE_DEFAULTS if table.name == NODES else {}
        base = Base(notes.base(key), defaults, self.noted, undecided=notes.undecided.get(key, frozenset()))
        found = resolve(*sides, sorted(unlike), base)
        return {name: sides[1][name] for name in sorted(found.keep)}, sorted(found.undecided)

    def _beyond(self, table: Table) -> dict[str, dict[int, Any]]:
        """Values in columns that SQLite lacks, but for their defaults, by column and id."""
        name = TARGET_TABLES[table.name]
        ours = {"id", "edge_id", *(column.target for column in table.columns)}
        pattern, key = f"(n:{name})", "n.id"
        if table.name == EDGES:
            pattern, key = f"(:{t.NODE_TABLE})-[n:{name}]->(:{t.NODE_TABLE})", "n.edge_id"
        found = {}
        for column in self._info(name):
            if column.name not in ours:
                returned = f"{key}, n.{cypher_name(column.name)}"
                rows = self.compared.database.ask(f"MATCH {pattern} WHERE {column.is_written('n')} RETURN {returned}")
                found[column.name] = {row[0]: _plain(row[1], kind_of(column.type)) for row in rows}
        return found

    # What hangs on them

    def _edges(self) -> None:
        for table in self._tables(EDGES):
            found = self.compared.tables[EDGES]
            keys = {at for at, _ in found.extra}
            copied = self._as_copied(table, keys)
            if copied:
                self.left_behind[EDGES] = len(copied)
            places = {(edge.start, edge.end, edge.offset) for edge in found.extra_edges}
            keyed = upsert.keyed_edges(self.compared.database, sorted(keys - copied)) if keys - copied else {}
            places |= {(edge.start, edge.end, edge.offset) for edge in keyed.values()}
            self._connections(t.EDGE_TABLE, (t.NODE_TABLE, t.NODE_TABLE), EDGES, places)

    def _connections(
        self, name: str, ends: tuple[str, str], what: str, places: set[tuple[int, int, int]] | None = None
    ) -> None:
        """Write the edges of a relationship table, or those at these places, whose ends are both in the new target."""
        columns = {each.name: kind_of(each.type) for each in self._info(name) if (name, each.name) != _EDGE_KEY}
        primary = [self._primary(end) for end in ends]
        wanted = ", ".join(
            [f"a.{cypher_name(primary[0])}", f"b.{cypher_name(primary[1])}", "offset(id(r))"]
            + [f"r.{cypher_name(column)}" for column in columns]
        )
        match = f"MATCH (a:{cypher_name(ends[0])})-[r:{cypher_name(name)}]->(b:{cypher_name(ends[1])})"
        for start, end, offset, *values in self.compared.database.ask(f"{match} RETURN {wanted}"):
            if places is not None and (start, end, offset) not in places:
                continue
            references = [self._reference(ends[0], start), self._reference(ends[1], end)]
            if None not in references:
                row = {name: _plain(value, kind) for (name, kind), value in zip(columns.items(), values, strict=True)}
                self._write(TargetOnlyLine(LineKind.LINK, name, row, ends=[each for each in references if each]), what)

    def _primary(self, name: str) -> str:
        return next((column.name for column in self._info(name) if column.is_key), "id")

    def _reference(self, name: str, value: Any) -> RowReference | None:
        if name in (t.NODE_TABLE, t.TURN_TABLE):
            return self._references.get(name, {}).get(value)
        return RowReference(name, "primary", value)

    def _links(self) -> None:
        """Links of turns that are not SQLite's."""
        for table in self._tables(TURNS):
            pairs = {at: key for key, at in self.compared.tables[TURNS].pairs.items()}
            nodes = {at: key for key, at in self.compared.tables[NODES].pairs.items()}
            ends = self.compared.ends(table, list(pairs.values()))
            for end in table.ends:
                kind = LINKS[end.lower()]
                written = self._written_to_links(kind)
                for turn, node in self._all_links(kind):
                    row = written.get((turn, node), {})
                    key = pairs.get(turn)
                    base = (self._notes(TURNS).base(key) or {}).get(end) if key is not None else None
                    ours = key is not None and ends.get(key, {}).get(end) == node
                    copied = base is not None and node in nodes and base == check_of(nodes[node])
                    references = self._reference(t.TURN_TABLE, turn), self._reference(t.NODE_TABLE, node)
                    if not references[0] or not references[1]:
                        continue
                    line = TargetOnlyLine(LineKind.LINK, kind, row, ends=[references[0], references[1]])
                    if ours and row:
                        self._write(line, "values", len(row))
                    elif not ours and not copied:
                        self._write(line, "links")
                    elif row:
                        self.left_behind[kind] = self.left_behind.get(kind, 0) + 1

    def _written_to_links(self, kind: str) -> dict[tuple[int, int], dict[str, Any]]:
        """Values of links, by their ends: links of ours have no columns."""
        found: dict[tuple[int, int], dict[str, Any]] = {}
        match = f"MATCH (a:{t.TURN_TABLE})-[n:{kind}]->(b:{t.NODE_TABLE})"
        for column in self._info(kind) if kind in self.compared.fit.present else ():
            returned = f"a.id, b.id, n.{cypher_name(column.name)}"
            rows = self.compared.database.ask(f"{match} WHERE {column.is_written('n')} RETURN {returned}")
            for turn, node, value in rows:
                found.setdefault((turn, node), {})[column.name] = _plain(value, kind_of(column.type))
        return found

    def _all_links(self, kind: str) -> list[tuple[int, int]]:
        if kind not in self.compared.fit.present:
            return []
        match = f"MATCH (n:{t.TURN_TABLE})-[:{kind}]->(m:{t.NODE_TABLE})"
        return [(turn, node) for turn, node in self.compared.database.ask(f"{match} RETURN n.id, m.id")]

    # Tables that SQLite has nothing for, and what the agent took out

    def _rows(self, name: str) -> None:
        columns = {column.name: kind_of(column.type) for column in self._info(name)}
        wanted = ", ".join(f"n.{cypher_name(column)}" for column in columns)
        for values in self.compared.database.ask(f"MATCH (n:{cypher_name(name)}) RETURN {wanted}"):
            row = {name: _plain(value, kind) for (name, kind), value in zip(columns.items(), values, strict=True)}
            self._write(TargetOnlyLine(LineKind.ROW, name, row), name)

    def _removed(self, table: Table) -> None:
        """What the agent took out: as looks noted it, and since then no more than may go in passing."""
        notes, found = self._notes(table.name), self.compared.tables[table.name]
        lacking = [key for key, _ in found.lacking if key in notes.absent]
        since = [key for key, _ in found.lacking if key in notes.digests]
        if len(since) > deleted_in_passing(len(notes.digests)):
            self.put_back[table.name] = len(since)
            since = []
        lacking += since
        if not lacking:
            return
        source = SourceFile(self.compared.job.source_path())
        whole = self.compared.job.needs().table(table.name)
        rows = source.read(lambda c: source_rows.read_ids(c, whole, lacking))
        keys = [row[0] for row in rows.values if not notes.is_news(row[0], source_rows.digest(row))]
        if keys:
            self._write(TargetOnlyLine(LineKind.REMOVE, table.name, keys=keys), "removed", len(keys))


def _plain(value: Any, kind: ValueKind | None) -> Any:
    from nimad.target.parameters import vector_bytes

    return vector_bytes(value) if kind is ValueKind.VECTOR and value is not None else value


def _parts(rows: list[Any]) -> Iterable[list[Any]]:
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]
