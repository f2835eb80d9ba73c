"""Restore of what only the old target held into the new target, before that one is published.

Rows of SQLite first get the ids by which the agent knows them (`worker/target_only/renumber.py`). Then all exported
lines are written in one transaction. A second process confirms each line afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from nimad.source.batch import Batch
from nimad.source.schema import FILLED_COLUMNS, NODE_DEFAULTS, TARGET_TABLES, ValueKind
from nimad.state import ledger
from nimad.target import catalog, parameters, row_counts, upsert
from nimad.target import ddl as t
from nimad.target.catalog import Declared
from nimad.target.database import Database, open_database
from nimad.target.destination import Destination, cypher_name
from nimad.target.parameters import named
from nimad.worker.compare.shared_schema import VECTOR, kind_of
from nimad.worker.engine_limits import limits_of
from nimad.worker.protocol import Applied, Job
from nimad.worker.target_only import renumber
from nimad.worker.target_only.carry_column import as_held
from nimad.worker.target_only.renumber import Ids, KnownIds, Renumbered
from nimad.worker.target_only.rows_file import LineKind, RowReference, TargetOnlyLine, read_lines

_NODE_TABLES = (t.NODE_TABLE, t.TURN_TABLE)
#: Numbers that are given out one by one: what is beyond is no number that the engine gave.
_NUMBERS = 100_000


def take_in(job: Job, module: ModuleType) -> dict[str, Any]:
    """Put what the file `own` holds into the target; return the new ids of rows that got one."""
    with open_database(module, job.target_path(), limits_of(job)) as database:
        path = Path(job.own)
        with database.transaction():  # of its own: a row that went may leave its id to another
            for line in read_lines(path, LineKind.REMOVE):
                upsert.remove(database, TARGET_TABLES[line.table], line.keys)
        known = {line.table: KnownIds(dict(line.ids), line.keys) for line in read_lines(path, LineKind.IDS)}
        moved = renumber.renumber(job, database, known)
        taken = _Import(database, path, _by_target(moved.ids))
        taken.tables()
        with database.transaction():
            taken.rows()
        database.checkpoint()
        _note_removed(job, taken)
        _note_undecided(job, taken)
        counts = row_counts.to_json(row_counts.count(database))
        free, page = row_counts.page_use(database)
    return {
        "ids": taken.ids,
        "applied": {**renumber.applied(job, moved), **_set_values(taken.path, moved)},
        "counts": counts,
        "free_bytes": free * page + moved.bytes,  # a row that went leaves its place as it was
        "left_behind": taken.left_behind,
        "values_left": taken.values_left,
    }


def _by_target(ids: Mapping[str, Ids]) -> dict[str, Ids]:
    return {TARGET_TABLES[name]: each for name, each in ids.items()}


def _set_values(path: Path, moved: Renumbered) -> dict[str, dict[str, dict[int, Sequence[str]]]]:
    """In which columns rows that were written again have values of the agent's, and which of these are undecided."""
    sources = {target: name for name, target in TARGET_TABLES.items()}
    kept: dict[str, dict[int, Sequence[str]]] = {}
    undecided: dict[str, dict[int, Sequence[str]]] = {}
    for line in read_lines(path, LineKind.SET) if any(moved.ids.values()) else ():
        kept.setdefault(sources[line.table], {})[line.key] = list(line.row)
        undecided.setdefault(sources[line.table], {})[line.key] = line.undecided
    return {"kept": kept, "undecided": undecided}


def _note_removed(job: Job, taken: "_Import") -> None:
    """Note rows of SQLite's that the agent took out: they stay out of the new target as well."""
    path = Path(job.ledger)
    digests = ledger.read_digests(path)
    removed = {line.table: line.keys for line in read_lines(taken.path, LineKind.REMOVE)}
    rows = {
        table: {key: digests[table][key] for key in keys if key in digests[table]} for table, keys in removed.items()
    }
    ledger.append(path, b"".join(ledger.packed_aside(table, {}, absent) for table, absent in rows.items()))


def _note_undecided(job: Job, taken: "_Import") -> None:
    """Note of which values that were brought along nothing tells that they are newer than SQLite's."""
    tables = {target: name for name, target in TARGET_TABLES.items()}
    found: dict[str, dict[int, Sequence[str]]] = {}
    for line in read_lines(taken.path, LineKind.SET):
        if line.undecided:
            found.setdefault(tables[line.table], {})[line.key] = line.undecided
    path = Path(job.ledger)
    ledger.append(path, b"".join(ledger.packed_undecided(table, rows) for table, rows in found.items()))


def find(job: Job, module: ModuleType) -> dict[str, Any]:
    """Look for what the file `own` holds in the target; return how many lines are not there as they should be."""
    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        taken = _Import(database, Path(job.own), _by_target((job.applied or Applied()).aliases))
        taken.ids = {table: dict(ids) for table, ids in job.own_ids.items()}
        counts = row_counts.to_json(row_counts.count(database))
        return {"missing": taken.missing(), "counts": counts}


@dataclass
class _Import:
    database: Database
    path: Path
    names: Mapping[str, Ids]  # by table: ids here, by SQLite's keys, where they are others
    ids: dict[str, dict[int, int]] = field(default_factory=dict)  # by table: ids here, by those in the old target
    left_behind: dict[str, int] = field(default_factory=dict)  # values that a column here cannot hold
    values_left: int = 0  # those of them that the agent set in a row that SQLite has too
    _columns: dict[str, dict[str, Declared]] = field(default_factory=dict)
    _primary: dict[str, str] = field(default_factory=dict)
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict)  # the last of a column that numbers its rows

    def __post_init__(self) -> None:
        declared = read_lines(self.path, LineKind.TABLE)
        #: The types in the old target, by table.
        self._before = {line.table: {name: kind for name, kind, _ in line.columns} for line in declared}

    # Tables

    def tables(self) -> None:
        """See that each table is there, with each of its columns."""
        present = self.database.tables()
        for line in read_lines(self.path, LineKind.TABLE):
            self._primary[line.table] = line.primary
            if line.table not in present:
                self.database.run(_statement(line))
                continue
            there, name = self._there(line.table), cypher_name(line.table)
            for column in (Declared(*each) for each in line.columns):
                if column.name in there:
                    if not self._is_free(line.table, there[column.name], column):
                        continue
                    self.database.run(f"ALTER TABLE {name} DROP {cypher_name(column.name)}")
                self.database.run(f"ALTER TABLE {name} ADD {column.declaration}")
            del self._columns[line.table]
            joined = {(join.start, join.end) for join in catalog.joins(self.database, line.table)} if line.pairs else ()
            for start, end in line.pairs:
                if (start, end) not in joined:
                    self.database.run(f"ALTER TABLE {name} ADD FROM {cypher_name(start)} TO {cypher_name(end)}")

    def _is_free(self, table: str, here: Declared, before: Declared) -> bool:
        """Whether embeddings can have the number of floats that they had before: there is none of another yet."""
        if here.type == before.type or not (VECTOR.fullmatch(here.type) and VECTOR.fullmatch(before.type)):
            return False
        match = f"MATCH (n:{cypher_name(table)}) WHERE n.{cypher_name(here.name)} IS NOT NULL"
        return table in _NODE_TABLES and not self.database.ask(f"{match} RETURN 1 LIMIT 1")

    def _there(self, table: str) -> dict[str, Declared]:
        """The columns of a table of the target."""
        if table not in self._columns:
            self._columns[table] = {column.name: column for column in catalog.columns(self.database, table)}
        return self._columns[table]

    # Rows

    def rows(self) -> None:
        keys = {name: upsert.keys(self.database, name) for name in _NODE_TABLES}
        for line in read_lines(self.path, LineKind.ADD, LineKind.SET, LineKind.ROW, LineKind.LINK):
            self._note_left(line)
        for line in read_lines(self.path, LineKind.ADD):
            at = line.key if line.key not in keys[line.table] else min(0, *keys[line.table]) - 1
            keys[line.table].add(at)
            self.ids.setdefault(line.table, {})[line.key] = at
            self._insert(line.table, {"id": at, **self._held(line)})
        for line in read_lines(self.path, LineKind.SET):
            self._set(line)
        for line in read_lines(self.path, LineKind.ROW):
            self._put(line)
        self._count_on()
        for line in read_lines(self.path, LineKind.LINK):
            self._link(line)

    def _at(self, table: str, key: Any) -> Any:
        """The id here of a row of SQLite's."""
        return self.names.get(table, {}).get(key, key)

    def _held(self, line: TargetOnlyLine) -> dict[str, Any]:
        """The row of a line as this target is to hold it, without what a column here cannot hold."""
        here, before, held = self._there(line.table), self._before.get(line.table, {}), dict[str, Any]()
        filled = FILLED_COLUMNS if (line.what, line.table) == (LineKind.ADD, t.NODE_TABLE) else ()
        for name, value in line.row.items():
            if name in here:
                given = NODE_DEFAULTS[name] if value is None and name in filled else value
                fits = as_held(given, before.get(name, ""), here[name].type)
                if fits is not None or value is None:
                    held[name] = fits
        return held

    def _note_left(self, line: TargetOnlyLine) -> None:
        """Name the values of a line that this target cannot hold."""
        held = self._held(line)
        for name, value in line.row.items():
            if name not in held and value is not None:
                here, before = self._there(line.table).get(name), self._before.get(line.table, {}).get(name, "")
                what = f"{line.table}.{name} ({before}; it is {here.type if here else 'missing'} now)"
                self.left_behind[what] = self.left_behind.get(what, 0) + 1
                self.values_left += line.what is LineKind.SET

    def _insert(self, table: str, row: Mapping[str, Any]) -> None:
        names, batch = self._batch(table, row)
        self.database.run_each(parameters.inserts(Destination(table, names), batch, self._nulls(table, row)))

    def _nulls(self, table: str, row: Mapping[str, Any]) -> list[str]:
        """The columns that a row has a NULL in where the engine would put a default."""
        there = self._there(table)
        return [name for name, value in row.items() if value is None and there[name].has_default]

    def _batch(
        self, table: str, row: Mapping[str, Any], ends: Sequence[tuple[str, Any]] = ()
    ) -> tuple[list[str], Batch]:
        """One row as a batch."""
        there = [self._there(table)[name].type for name in row]
        kinds = [kind_of(kind) or ValueKind.STRING for kind in [*(kind for kind, _ in ends), *there]]
        dimension = next((int(found[1]) for kind in there if (found := VECTOR.fullmatch(kind))), 0)
        columns = [[value] for _, value in ends] + [[value] for value in row.values()]
        return list(row), Batch(kinds, columns, dimension)

    def _set(self, line: TargetOnlyLine) -> None:
        if line.table == t.EDGE_TABLE:
            edge = upsert.keyed_edges(self.database, [line.key]).get(line.key)
            if edge is not None:
                place = [("INT64", each) for each in (edge.start, edge.end, edge.offset)]
                names, batch = self._batch(line.table, self._held(line), place)
                into = Destination(line.table, names, (t.NODE_TABLE, t.NODE_TABLE))
                self.database.run_each(parameters.edge_updates(into, batch))
            return
        names, batch = self._batch(line.table, {"id": self._at(line.table, line.key), **self._held(line)})
        self.database.run_each(parameters.updates(Destination(line.table, names), batch))

    def _put(self, line: TargetOnlyLine) -> None:
        """Add a row of a table of the agent's own, unless it is there."""
        primary = self._primary_of(line.table)
        if not self._is_there(line.table, primary, line.row.get(primary)):
            self._insert(line.table, self._held(line))
        for column in self._there(line.table).values():
            if column.type == "SERIAL":
                place = line.table, column.name
                self._numbers[place] = max(self._numbers.get(place, -1), line.row.get(column.name) or 0)

    def _count_on(self) -> None:
        """Let columns that number their rows go on after the last number: the engine would give it out again."""
        for (table, column), last in self._numbers.items():
            sequence = catalog.as_text(f"{table}_{column}_serial")
            for _ in range(min(last + 1, _NUMBERS)):
                self.database.ask(f"RETURN nextval({sequence})")

    def _primary_of(self, table: str) -> str:
        if not self._primary.get(table):
            columns = self._there(table).values()
            self._primary[table] = next((column.name for column in columns if column.is_key), "id")
        return self._primary[table]

    def _is_there(self, table: str, primary: str, value: Any) -> bool:
        wanted, key = named("key", value)
        match = f"MATCH (n:{cypher_name(table)}) WHERE n.{cypher_name(primary)} = {wanted}"
        return bool(self.database.ask(f"{match} RETURN 1 LIMIT 1", key=key))

    # Edges and links

    def _link(self, line: TargetOnlyLine) -> None:
        start, end = self._place(line.ends[0]), self._place(line.ends[1])
        if start is None or end is None:
            return
        tables = line.ends[0].table, line.ends[1].table
        keys = self._primary_of(tables[0]), self._primary_of(tables[1])
        place = [(self._there(table)[key].type, at) for table, key, at in zip(tables, keys, (start, end), strict=True)]
        row = self._held(line)
        names, batch = self._batch(line.table, row, place)
        into = Destination(line.table, names, tables, keys)
        if tables == (t.TURN_TABLE, t.NODE_TABLE) and (found := self._links(line, ["offset(id(r))"])):
            names, batch = self._batch(line.table, row, [*place, ("INT64", found[0][0])])
            self.database.run_each(parameters.edge_updates(Destination(line.table, names, tables), batch))
            return
        self.database.run_each(parameters.inserts(into, batch, self._nulls(line.table, row)))

    def _place(self, end: RowReference) -> Any:
        """The primary key of a row at an end, in this target; None where it is not there."""
        if end.by == "id":
            return self.ids.get(end.table, {}).get(end.value)
        value = self._at(end.table, end.value) if end.by == "key" else end.value
        return value if self._is_there(end.table, self._primary_of(end.table), value) else None

    # Looking for it

    def missing(self) -> int:
        """Lines that are not in the target as they should be."""
        return sum(
            not self._is_as_said(line)
            for line in read_lines(self.path, LineKind.ADD, LineKind.SET, LineKind.ROW, LineKind.LINK)
        )

    def _is_as_said(self, line: TargetOnlyLine) -> bool:
        if line.what is LineKind.LINK:
            return self._is_linked(line)
        if line.table == t.EDGE_TABLE:
            edge = upsert.keyed_edges(self.database, [line.key]).get(line.key)
            if edge is None:
                return True  # its node is not SQLite's any more
            row = self._values(f"MATCH ()-[n:{line.table}]->() WHERE n.edge_id = {line.key}", line)
            return row is not None and self._are_equal(line, row)
        key: Any = self._at(line.table, line.key)
        primary = "id" if line.what is not LineKind.ROW else self._primary_of(line.table)
        if line.what is LineKind.ADD:
            key = self.ids.get(line.table, {}).get(line.key)
        elif line.what is LineKind.ROW:
            key = line.row.get(primary)
        wanted, given = named("key", key)
        row = self._values(
            f"MATCH (n:{cypher_name(line.table)}) WHERE n.{cypher_name(primary)} = {wanted}", line, key=given
        )
        return row is not None and (line.what is LineKind.ROW or self._are_equal(line, row))

    def _values(self, match: str, line: TargetOnlyLine, **given: Any) -> list[Any] | None:
        wanted = ", ".join(f"n.{cypher_name(name)}" for name in self._held(line)) or "1"
        rows = self.database.ask(f"{match} RETURN {wanted} LIMIT 1", **given)
        return rows[0] if rows else None

    def _are_equal(self, line: TargetOnlyLine, row: list[Any]) -> bool:
        return all(_same(wanted, value) for wanted, value in zip(self._held(line).values(), row, strict=False))

    def _is_linked(self, line: TargetOnlyLine) -> bool:
        if None in map(self._place, line.ends):
            return True
        held = self._held(line)
        rows = self._links(line, [f"r.{cypher_name(name)}" for name in held] or ["1"])
        return any(self._are_equal(line, row) for row in rows)

    def _links(self, line: TargetOnlyLine, wanted: Sequence[str]) -> list[list[Any]]:
        """What is wanted of the edges or links that lead from one end of a line to the other."""
        start, end = map(self._place, line.ends)
        columns = [self._primary_of(each.table) for each in line.ends]
        (first, a), (second, b) = named("a", start), named("b", end)
        one, other = (cypher_name(each.table) for each in line.ends)
        match = (
            f"MATCH (a:{one})-[r:{cypher_name(line.table)}]->(b:{other}) "
            f"WHERE a.{cypher_name(columns[0])} = {first} AND b.{cypher_name(columns[1])} = {second}"
        )
        return self.database.ask(f"{match} RETURN {', '.join(wanted)}", a=a, b=b)


def _same(wanted: Any, got: Any) -> bool:
    if isinstance(wanted, bytes) and isinstance(got, list):
        return parameters.vector_bytes(got) == parameters.quieted(wanted)
    if isinstance(wanted, float) and isinstance(got, float):
        return wanted == got or (wanted != wanted and got != got)  # noqa: PLR0124 - NaN
    return bool(wanted == got)


def _statement(line: TargetOnlyLine) -> str:
    columns = [Declared(*column).declaration for column in line.columns]
    if line.pairs:
        pairs = [f"FROM {cypher_name(start)} TO {cypher_name(end)}" for start, end in line.pairs]
        return f"CREATE REL TABLE {cypher_name(line.table)}({', '.join([*pairs, *columns])})"
    return (
        f"CREATE NODE TABLE {cypher_name(line.table)}({', '.join(columns)}, PRIMARY KEY({cypher_name(line.primary)}))"
    )
