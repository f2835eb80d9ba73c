"""The rollback export: what a target has and SQLite lacks, as lines of one file.

Both sides are only read; `rollback/writer.py` writes the lines to SQLite. What SQLite has no place for is in the file
too, marked as kept there. A value replaces one of SQLite's only if it is known to be newer: recall figures by
`last_accessed`, any other by the ledger, where SQLite is still as it was copied.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from nimad.source.rows import json_row
from nimad.source.schema import EDGES, LINKS, NODES, TARGET_TABLES, TURNS, Table, ValueKind
from nimad.state.ledger import check_of
from nimad.target import ddl as t
from nimad.target import read_back
from nimad.target.destination import cypher_name
from nimad.worker.compare.compare_rows import RowComparison, has_value
from nimad.worker.compare.differences import RowDifference
from nimad.worker.compare.facts import RECALLED, Listed
from nimad.worker.sync.three_way import CUT, MARKS

#: Rows that are read at the same time; each may have a long text and an embedding.
_ROWS = 200

_CONFLICT = "SQLite has another value, and nothing tells which of the two is newer"
_MORE_LINKS = "it has more than one link of this kind, and SQLite has one column for it"
_NO_MARK = "the agent merged it into another, and SQLite has no column that says so"
_NO_TABLE = "SQLite has no table for it"


class ExportFile:
    """The file, whole and synced once it is closed; without a path, nothing is written and only counted."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            self._file = os.fdopen(descriptor, "w", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def write(self, what: str, table: str, **facts: Any) -> None:
        if self._file is not None:
            line = {"what": what, "table": table, **facts}
            self._file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")


@dataclass
class _Told:
    """What the file tells of, by table."""

    added: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    changed: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    kept: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def note(self, name: str, table: str, key: int, what: str) -> None:
        getattr(self, name).setdefault(table, []).append((key, what))

    def facts(self) -> dict[str, Any]:
        return {
            name: {table: asdict(Listed.of(rows)) for table, rows in tables.items()}
            for name, tables in vars(self).items()
        }


class RollbackExport:
    """One carrying back, of a comparison that was made."""

    def __init__(self, compared: RowComparison, record: ExportFile) -> None:
        self._compared, self._record = compared, record
        self._database, self._fit = compared.database, compared.fit
        self._keys = {
            name: {at: key for key, at in table.pairs.items()} for name, table in compared.tables.items()
        }  # SQLite's keys by the target's ids
        self._told = _Told()

    def run(self) -> dict[str, Any]:
        """Write everything, and return what it is by number and example."""
        for table in self._fit.schema.tables():
            if not self._fit.has(table.name):
                continue
            if table.name == EDGES:
                self._add_edges(table)
            else:
                self._add_rows(table)
            self._change_rows(table)
        self._keep_beyond()
        self._keep_others()
        return self._told.facts()

    # What SQLite lacks

    def _add_rows(self, table: Table) -> None:
        once = dict(self._compared.tables[table.name].extra)
        for part in _parts(list(once)):
            rows, links = self._rows(table, part), self._links(table, part)
            for at in part:
                row, beyond = rows[at]
                more = {}
                if table.name == TURNS:
                    more["ends"] = {end: self._reference(nodes[0]) for end, nodes in links[at].items() if nodes}
                    self._keep_links(at, links[at])
                self._record.write("add", table.name, id=at, row=json_row(row), **more, **_kept(beyond))
                self._told.note("added", table.name, at, f"{_example(row)}{f' ({once[at]})' if once[at] else ''}")
                if beyond:
                    self._told.note("kept", table.name, at, f"{', '.join(beyond)}: SQLite has no such column")

    def _keep_links(self, at: int, links: Mapping[str, Sequence[int]]) -> None:
        for end, nodes in links.items():
            if len(nodes) > 1:
                self._keep(TURNS, at, {end: list(nodes[1:])}, _MORE_LINKS)

    def _add_edges(self, table: Table) -> None:
        compared = self._compared.tables[EDGES]
        keyed = {at for at, _ in compared.extra}
        nameless = {(edge.start, edge.end, edge.offset) for edge in compared.extra_edges}
        if not keyed and not nameless:
            return
        key = "r.edge_id" if self._fit.keyed else "NULL"
        columns = [*((c.target, c.kind) for c in table.columns)]
        wanted = ", ".join([key, "a.id", "b.id", "offset(id(r))", *(f"r.{cypher_name(name)}" for name, _ in columns)])
        pattern = f"(a:{t.NODE_TABLE})-[r:{t.EDGE_TABLE}]->(b:{t.NODE_TABLE})"
        for edge_id, start, end, offset, *values in self._database.ask(f"MATCH {pattern} RETURN {wanted}"):
            if edge_id not in keyed and (edge_id is not None or (start, end, offset) not in nameless):
                continue
            row = {name: value for (name, _), value in zip(columns, values, strict=True)}
            ends = {name: self._reference(node) for name, node in zip(table.ends, (start, end), strict=True)}
            self._record.write("add", EDGES, id=edge_id, row=json_row(row), ends=ends)
            self._told.note("added", EDGES, start, f"from {start} to {end}: {row.get('relation')}")

    def _reference(self, node: int) -> list[Any]:
        """A node of the target: by SQLite's key, or by its own id where SQLite is to get it."""
        key = self._keys[NODES].get(node)
        return ["id", node] if key is None else ["key", key]

    # What was changed in the target last

    def _change_rows(self, table: Table) -> None:
        for part in _parts(list(self._compared.tables[table.name].differences())):
            ids = [each.at for each in part]
            rows, links = self._rows(table, ids), self._links(table, ids)
            keys = [each.key for each in part]
            ends, values = self._compared.ends(table, keys), self._compared.here(table, keys)
            for each in part:
                drawn = links.get(each.at, {})
                for end, node in ends.get(each.key, {}).items():
                    if node in drawn.get(end, ()):  # SQLite has this one already, and a column has room for one
                        self._keep_links(each.at, {end: [node, *(other for other in drawn[end] if other != node)]})
                        del drawn[end]
                if each.at in rows:
                    row, beyond = rows[each.at]
                    # A ghost's text is a note of the merge: in SQLite, without the mark, it would be the memory's.
                    merged = {name: row.pop(name) for name in sorted(CUT & each.columns) if beyond.get("is_ghost")}
                    if merged:
                        self._keep(table.name, each.key, merged, _NO_MARK)
                    self._change(table, each, (values.get(each.key, {}), row), drawn)

    def _change(
        self,
        table: Table,
        each: RowDifference,
        sides: tuple[Mapping[str, Any], Mapping[str, Any]],
        links: Mapping[str, Sequence[int]],
    ) -> None:
        here, row = sides
        base = self._compared.noted(table.name).base(each.key)
        names = {column.target: column.name for column in table.columns}
        computed = {column.target for column in table.columns if column.is_computed}
        columns: dict[str, Any] = {}
        ends: dict[str, Any] = {}
        conflict: dict[str, Any] = {}
        for name in sorted(each.columns - computed):
            there = links.get(name) if name in links else row.get(name)
            if there is None or there == []:
                continue  # a NULL of the target takes nothing away
            if not _is_newer(each, name, (here.get(name), there), base):
                if base is not None and name not in each.undecided and base.get(name) == check_of(there):
                    continue  # SQLite alone changed it
                if name not in RECALLED or not (each.side or name in MARKS):
                    conflict[name] = there
            elif name in links:
                ends[name] = self._reference(links[name][0])
                self._keep_links(each.at, {name: links[name]})
            else:
                columns[names[name]] = there
        if columns or ends:
            self._record.write("change", table.name, key=each.key, id=each.at, row=json_row(columns), ends=ends)
            self._told.note("changed", table.name, each.key, ", ".join([*columns, *ends]))
        if conflict:
            self._keep(table.name, each.key, conflict, _CONFLICT)

    # What SQLite has no place for

    def _keep(self, table: str, key: Any, row: Mapping[str, Any], why: str) -> None:
        self._record.write("keep", table, id=key, row=json_row(row), why=why, kept=True)
        self._told.note("kept", table, key if isinstance(key, int) else 0, f"{', '.join(row)}: {why}")

    def _keep_beyond(self) -> None:
        """Values of columns that SQLite lacks, of rows that it has."""
        for table, columns in self._fit.beyond.items():
            key = fitting_key(table, keyed=self._fit.keyed)
            pattern = f"()-[n:{t.EDGE_TABLE}]->()" if table == EDGES else f"(n:{TARGET_TABLES[table]})"
            for name, kind in columns.items() if key else ():
                query = f"MATCH {pattern} WHERE {has_value(table, name, kind)} RETURN n.{key}, n.{cypher_name(name)}"
                for at, value in self._database.ask(query):
                    known = at if table == EDGES else self._keys[table].get(at)
                    if known is not None:
                        self._keep(table, known, {name: value}, "SQLite has no such column")

    def _keep_others(self) -> None:
        """Rows of tables that are none of ours."""
        kinds = self._database.tables()
        for table in self._compared.others():
            for number, (row, *ends) in enumerate(self._everything(table, kinds[table]), start=1):
                self._keep(table, number, {**row, **dict(zip(("from", "to"), ends, strict=False))}, _NO_TABLE)

    def _everything(self, table: str, kind: str) -> list[list[Any]]:
        """All rows of a table; of relationships with the ids of their ends, where these have any."""
        if kind != "REL":
            return self._database.ask(f"MATCH (n:{cypher_name(table)}) RETURN n")
        match = f"MATCH (a)-[n:{cypher_name(table)}]->(b) RETURN n"
        with suppress(RuntimeError):
            return self._database.ask(f"{match}, a.id, b.id")
        return self._database.ask(match)

    # Reading

    def _rows(self, table: Table, ids: Sequence[int]) -> dict[int, tuple[dict[str, Any], dict[str, Any]]]:
        """By id: the values of the columns that SQLite has, and those of others."""
        names = [column.target for column in table.columns]
        kinds = [ValueKind.INT64, *(column.kind for column in table.columns)]
        beyond = {} if table.name == EDGES else self._fit.beyond[table.name]
        listed = ", ".join(map(str, ids))
        if table.name == EDGES:
            found = zip(*read_back.edges(self._database, self._fit.schema, ids), strict=True) if ids else ()
            return {key: (dict(zip(names, values, strict=True)), {}) for key, _, _, *values in found}
        match = f"UNWIND [{listed}] AS key MATCH (n:{TARGET_TABLES[table.name]}) WHERE n.id = key"
        wanted = ", ".join(["n.id", *(f"n.{cypher_name(name)}" for name in names)])
        columns = self._database.columns(f"{match} RETURN {wanted}", kinds)
        rows = {key: dict(zip(names, values, strict=True)) for key, *values in zip(*columns, strict=True)}
        others: dict[int, dict[str, Any]] = {}
        for name, kind in beyond.items():
            having = f"{match} AND {has_value(table.name, name, kind)}"
            for key, value in self._database.ask(f"{having} RETURN n.id, n.{cypher_name(name)}"):
                others.setdefault(key, {})[name] = value
        return {key: (row, others.get(key, {})) for key, row in rows.items()}

    def _links(self, table: Table, ids: Sequence[int]) -> dict[int, dict[str, list[int]]]:
        """Of turns, by id: the nodes at each of their ends, by SQLite's names of these."""
        if table.name != TURNS:
            return {}
        found: dict[int, dict[str, list[int]]] = {at: {end: [] for end in table.ends} for at in ids}
        for end in table.ends:
            kind = LINKS[end.lower()]
            for turn, node in read_back.links(self._database, kind, ids) if kind in self._fit.present else ():
                found[turn][end].append(node)
        return found


def fitting_key(table: str, *, keyed: bool) -> str:
    """The column by which rows of a table are named; none for edges without one."""
    if table != EDGES:
        return "id"
    return "edge_id" if keyed else ""


def _is_newer(each: RowDifference, name: str, sides: tuple[Any, Any], base: Mapping[str, bytes] | None) -> bool:
    """Whether the target's value is newer than SQLite's for sure, or the stronger mark. `sides`: SQLite's first."""
    here, there = sides
    if name in each.filled:
        return True
    decided = name not in each.undecided  # else the ledger has SQLite's value, which the target never had
    if decided and base is not None and name in base and base[name] == check_of(here):
        return True
    if name in MARKS:
        return bool(there > (here or 0))
    return each.side == "there" if name in RECALLED else decided and bool(each.unmoved)


def _kept(beyond: Mapping[str, Any]) -> dict[str, Any]:
    return {"beyond": json_row(beyond), "kept": True} if beyond else {}


def _parts(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]


def _example(row: Mapping[str, Any]) -> str:
    """A row in one line, without its text."""
    text = str(row.get("text") or row.get("summary") or "")
    return f"a text of {len(text):,} characters" if text else ""
