"""Comparison of a LadybugDB file with SQLite, row by row; nothing is changed.

Unlike a verification before publishing (`worker/verify_rows.py`), neither side is believed: the agent may have gone on
writing to both, and to the target under ids of its own. So rows are paired first (`worker/identity/match.py`), and what
differs is told by which side moved.
"""

import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nimad.source import changed_rows
from nimad.source import rows as source_rows
from nimad.source.ranges import LAST_KEY
from nimad.source.row_numbers import is_numbered
from nimad.source.rows import ConvertedRows, Reject, Rows
from nimad.source.schema import (
    EDGES,
    LINKS,
    NODE_DEFAULTS,
    NODE_KINDS,
    NODES,
    TARGET_TABLES,
    TURN_KINDS,
    TURNS,
    Table,
    ValueKind,
)
from nimad.source.sql import sql_name as quoted_in_sql
from nimad.source.sqlite_file import SourceFile
from nimad.state import ledger
from nimad.state.ledger import Notes
from nimad.target import catalog, copy_rows, read_back, upsert
from nimad.target import ddl as t
from nimad.target.database import Database
from nimad.target.destination import cypher_name
from nimad.worker import convert
from nimad.worker.compare import shared_schema
from nimad.worker.compare.differences import ComparedTable, RowDifference
from nimad.worker.compare.edges import Edges
from nimad.worker.identity import match, natural_key, recognize
from nimad.worker.identity.natural_key import COLUMNS, NaturalKey
from nimad.worker.protocol import Job

#: Columns whose names need no quotes.
_PLAIN = NODE_KINDS.keys() | TURN_KINDS.keys()


class RowComparison:
    """One comparison, table by table; `run` does it, and the tables stay for whoever carries rows back."""

    def __init__(self, job: Job, database: Database) -> None:
        self.job, self.database = job, database
        self.fit = shared_schema.shared_schema_of(database, job.needs())
        self.tables: dict[str, ComparedTable] = {}
        self._source = SourceFile(job.source_path())
        self._notes = ledger.read_notes(Path(job.ledger)) if job.ledger else {}
        if job.strange and not recognize.is_ledger_of(database, self._notes):
            self._notes = {}  # they tell of another target
        tables = job.needs().tables()
        self._numbered = self._source.read(lambda c: {each.name for each in tables if is_numbered(c, each.name)})
        self._nodes: set[int] = set()  # keys of SQLite's nodes that have a place in the target, there or not

    def run(self) -> dict[str, Any]:
        """Compare everything and return the facts for an answer."""
        for table in self.fit.schema.tables():
            self.tables[table.name] = ComparedTable(
                rows=self._source.number(f"SELECT count(*) FROM {quoted_in_sql(table.name)}"),
                there=count(self.database, TARGET_TABLES[table.name]) if self.fit.has(table.name) else 0,
            )
        if not self.job.counts_only:
            for table in self.fit.schema.tables():
                self._compare(table)
        return {
            "tables": {name: asdict(compared.facts()) for name, compared in self.tables.items()},
            "remarks": list(self.fit.remarks),
            "beyond": self._beyond(),
            "others": self.others(),
        }

    def here(self, table: Table, keys: Sequence[int]) -> dict[int, dict[str, Any]]:
        """SQLite's converted values by key and column, without the ends."""
        rows = self._source.read(lambda c: source_rows.read_ids(c, table, keys))
        judged = source_rows.convert_rows(rows, self.fit.schema)
        columns = dict(zip((column.target for column in table.columns), judged.columns[len(table.ends) :], strict=True))
        return {key: {name: column[at] for name, column in columns.items()} for at, key in enumerate(judged.rows.keys)}

    def ends(self, table: Table, keys: Sequence[int]) -> dict[int, dict[str, int]]:
        """The nodes at the ends of turns of SQLite, by the target's ids, as far as it has them."""
        if table.name != TURNS:
            return {}
        rows, nodes = self._source.read(lambda c: source_rows.read_ids(c, table, keys)), self.tables[NODES].pairs
        return {
            row[0]: {end: nodes[node] for end, node in zip(table.ends, row[1:], strict=False) if node in nodes}
            for row in rows.values
        }

    def noted(self, table: str) -> Notes:
        return self._notes.get(table, Notes())

    def is_late(self, table: str, key: int) -> bool:
        """Whether a row that the target lacks came after the run that made it."""
        return self.noted(table).came_since(key, self.job.bounds.get(table), numbered=table in self._numbered)

    # Table by table

    def pairs(self, table: Table) -> tuple[Mapping[int, NaturalKey], Mapping[int, NaturalKey], match.Pairs]:
        """What nodes or turns are here and there, by their ids, and which are the same ones."""
        here, there = self._naturals_here(table), self._naturals_there(table)
        texts, wholes = self._texts(table), self._texts(table, every=True)
        return here, there, match.pair(table.name, here, there, texts, self.noted(table.name), wholes)

    def _compare(self, table: Table) -> None:
        found, here = self.tables[table.name], set[int]()
        edges = Edges(self.database, self.fit) if table.name == EDGES else None
        there: Mapping[int, NaturalKey] = {}
        if table.name in COLUMNS:
            _, there, found.pairs = self.pairs(table)
        for rows in self._chunks(table):
            here.update(rows.keys)
            judged = convert.convert(self.job, rows, self.fit.schema)
            self._set_aside(table, judged.rejects)
            if edges is not None:
                self._compare_edges(judged, edges)
            else:
                self._compare_rows(judged)
        strays = self._source.read(lambda c: source_rows.read_strays(c, table))
        self._set_aside(table, source_rows.convert_strays(strays))
        if table.name == NODES:
            self._nodes = here - found.whole
        if edges is None:
            own, known = set(found.pairs.values()), self.noted(table.name).target_ids()
            found.extra = [(at, "was in SQLite once" if at in known else "") for at in sorted(there.keys() - own)]
        else:
            self._match_edges(edges)
            found.extra = [(key, "") for key in sorted(edges.keyed)]
            found.extra_edges = edges.left()

    def _chunks(self, table: Table) -> Iterator[Rows]:
        after: int | None = None
        size = self.job.chunk_rows, self.job.chunk_bytes
        while True:
            rows = self._source.read(lambda c, after=after: source_rows.read_next(c, table, after, LAST_KEY, size))  # type: ignore[misc]
            if rows is None:
                return
            yield rows
            after = rows.keys[-1]

    def _naturals_here(self, table: Table) -> dict[int, NaturalKey]:
        rows = self._source.read(
            lambda c: changed_rows.columns(c, table, COLUMNS[table.name], sorted(source_rows.read_keys(c, table)))
        )
        return {key: natural_key.of_source(table, values) for key, values in rows.items()}

    def _naturals_there(self, table: Table) -> dict[int, NaturalKey]:
        if not self.fit.has(table.name):
            return {}
        there = {column.target for column in table.columns}
        wanted = ", ".join(f"n.{name}" if name in there else "NULL" for name in COLUMNS[table.name])
        rows = self.database.ask(f"MATCH (n:{TARGET_TABLES[table.name]}) RETURN n.id, {wanted}")
        return {row[0]: natural_key.natural_key_of(row[1:]) for row in rows}

    def _texts(self, table: Table, *, every: bool = False) -> tuple[match.Texts, match.Texts]:
        """What tells rows of the same moment apart: the text, or every column that has one."""
        there = [
            column.target for column in table.columns if column.kind is ValueKind.STRING and column.target in _PLAIN
        ]
        names = there if every else [name for name in ("text",) if name in there]

        def of(rows: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
            return {key: row if every else row[0] for key, row in rows.items()}

        def here(keys: Collection[int]) -> Mapping[int, Any]:
            rows = self._source.read(lambda c: changed_rows.columns(c, table, names, sorted(keys)))
            return of({key: tuple(v if isinstance(v, str) else None for v in row) for key, row in rows.items()})

        def target(ids: Collection[int]) -> Mapping[int, Any]:
            return of(upsert.columns(self.database, TARGET_TABLES[table.name], names, ids))

        return (here, target) if names else ((lambda _: {}), (lambda _: {}))

    # Rows that the target has no place for, or does not have

    def _set_aside(self, table: Table, rejects: Sequence[Reject]) -> None:
        found = self.tables[table.name]
        for reject in rejects:
            key = reject.id if isinstance(reject.id, int) else 0
            if reject.part == "row" and key in found.pairs:  # it could be represented once, and stays as it was
                nothing: frozenset[str] = frozenset()
                found.since_here.append(RowDifference(key, found.pairs[key], nothing, nothing, note=reject.reason))
                continue
            if reject.part == "row":
                found.whole.add(key)
            found.aside.append((key, reject.reason))

    def _miss(self, table: str, key: int) -> None:
        """Note a row that the target does not have."""
        found = self.tables[table]
        if (why := self.job.quarantined.get(table, {}).get(key)) is not None:
            found.whole.add(key)
            found.aside.append((key, why))
        elif self.is_late(table, key):
            found.late.append((key, ""))
        else:
            was_there = key in self.noted(table).digests
            found.gone += was_there
            found.lacking.append((key, "is gone from the target" if was_there else ""))

    # Rows that both have

    def _compare_rows(self, judged: ConvertedRows) -> None:
        table = judged.rows.table
        pairs = self.tables[table.name].pairs
        for key in judged.rows.keys:
            if key not in pairs:
                self._miss(table.name, key)
        judged = copy_rows.select(judged, [key in pairs for key in judged.rows.keys])
        ids = [pairs[key] for key in judged.rows.keys]
        unlike = upsert.differing(self.database, self.fit.schema, self._narrowed(judged), ids)
        columns = {judged.rows.keys[p]: names for p, names in unlike.items()}
        filled = {judged.rows.keys[p]: _empty(judged, p) & names for p, names in unlike.items()}
        if table.name == TURNS:
            self._compare_links(judged, columns, filled)
        self._sort(
            table,
            [
                RowDifference(k, pairs[k], frozenset(v), frozenset(filled.get(k, ())))
                for k, v in sorted(columns.items())
            ],
        )

    def _narrowed(self, judged: ConvertedRows) -> ConvertedRows:
        """The values as they would be in columns of 32 bits, where the target has such."""
        table, skip = judged.rows.table, len(judged.rows.table.ends)
        columns = list(judged.columns)
        for index, column in enumerate(table.columns):
            if (table.name, column.target) in self.fit.narrow:
                columns[skip + index] = [_narrow(value) for value in columns[skip + index]]
        return replace(judged, columns=columns)

    def _compare_links(self, judged: ConvertedRows, columns: dict[int, set[str]], filled: dict[int, set[str]]) -> None:
        """Hold the ends of turns against their links."""
        pairs, nodes = self.tables[TURNS].pairs, self.tables[NODES].pairs
        at = {pairs[key]: key for key in judged.rows.keys}
        for index, end in enumerate(judged.rows.table.ends):
            kind = LINKS[end.lower()]
            there: dict[int, set[int]] = {}
            for turn, node in read_back.links(self.database, kind, sorted(at)) if kind in self.fit.present else ():
                there.setdefault(at[turn], set()).add(node)
            for key, node in zip(judged.rows.keys, judged.columns[index], strict=True):
                wanted = {nodes[node]} if node in nodes else set()
                if node is not None and node not in self._nodes:
                    self.tables[TURNS].aside.append((key, f"{kind}: {end} {node} has no place in the target"))
                if there.get(key, set()) != wanted:
                    columns.setdefault(key, set()).add(end)
                    if node is None:
                        filled.setdefault(key, set()).add(end)

    def _sort(self, table: Table, differences: Sequence[RowDifference]) -> None:
        """Tell by which side's doing rows differ."""
        if not differences:
            return
        found, still = self.tables[table.name], self._unmoved(table, [each.key for each in differences])
        recalls = self._recalls(table, [each for each in differences if each.recalled])
        lists = {"here": found.since_here, "there": found.since_there}
        for difference in differences:
            undecided = self.noted(table.name).undecided.get(difference.key, frozenset())
            each = replace(difference, unmoved=still.get(difference.key), undecided=undecided)
            if each.recalled:  # where the moments do not tell, the target was written to if SQLite was not
                written = each.unmoved and not each.recalled & undecided
                each = replace(each, side=recalls.get(each.key) or ("there" if written else ""))
            side = "there" if not each.recalled else each.side
            lists.get("" if each.essential else side, found.differing).append(each)

    def _unmoved(self, table: Table, keys: Sequence[int]) -> dict[int, bool]:
        """Of rows that the ledger tells of, whether SQLite holds what was copied."""
        digests = self.noted(table.name).digests
        whole = self.job.needs().table(table.name)
        known = [key for key in keys if key in digests]
        rows = self._source.read(lambda c: source_rows.read_ids(c, whole, known))
        return {row[0]: source_rows.digest(row) == digests[row[0]] for row in rows.values}

    def _recalls(self, table: Table, differences: Sequence[RowDifference]) -> dict[int, str]:
        """On which side the last recall was later: `here`, `there`, or none of it where they are equal."""
        if not differences or not any(column.target == "last_accessed" for column in table.columns):
            return {}
        keys = {each.key: each.at for each in differences}
        rows = self._source.read(lambda c: changed_rows.columns(c, table, ("last_accessed",), sorted(keys)))
        there = upsert.columns(self.database, TARGET_TABLES[table.name], ("last_accessed",), set(keys.values()))
        found = {}
        for key, at in keys.items():
            ours, theirs = _moment(rows.get(key)), _moment(there.get(at))
            if ours != theirs:
                found[key] = "there" if theirs > ours else "here"
        return found

    # Edges

    def _compare_edges(self, judged: ConvertedRows, edges: Edges) -> None:
        found, nodes = self.tables[EDGES], self.tables[NODES].pairs
        drawn, keep = [], []
        for position, (key, *ends) in enumerate(
            zip(judged.rows.keys, judged.columns[0], judged.columns[1], strict=True)
        ):
            joined = all(end in nodes for end in ends)
            keep.append(joined)
            if joined:
                drawn.append((nodes[ends[0]], nodes[ends[1]]))
            elif all(end in self._nodes and end is not None for end in ends):
                self._miss(EDGES, key)
            else:
                _, rejects = copy_rows.with_both_ends(
                    copy_rows.select(judged, [p == position for p in range(len(judged.rows))]), self._nodes
                )
                self._set_aside(judged.rows.table, rejects)
        judged = copy_rows.select(judged, keep)
        unlike: Mapping[int, set[str]] = {position: {"id"} for position in range(len(drawn))}
        if self.fit.keyed:
            keys = list(judged.rows.keys)
            unlike = upsert.differing(self.database, self.fit.schema, self._narrowed(judged), keys, drawn)
        differences = []
        for position, key in enumerate(judged.rows.keys):
            names = unlike.get(position, set())
            if "id" not in names:
                edges.keyed.discard(key)
                found.pairs[key] = key
                empty = frozenset(_empty(judged, position))
                differences += [RowDifference(key, key, frozenset(names), empty)] if names else []
            elif edges.take(what := (*drawn[position], relation_of(judged, position))):
                found.pairs[key] = key  # drawn by the agent in both of them: what it says is the same
            else:
                edges.wanted.append((key, what))
        self._sort(judged.rows.table, differences)

    def _match_edges(self, edges: Edges) -> None:
        """Pair what has another key there, once it is known which keys are left."""
        free = edges.contents(self.database) if edges.wanted else {}
        for key, what in edges.wanted:
            if free.get(what):
                at = free[what].pop()
                edges.keyed.discard(at)
                self.tables[EDGES].pairs[key] = at
            else:
                self._miss(EDGES, key)

    # What the target has beyond that

    def _beyond(self) -> dict[str, dict[str, int]]:
        """How many values the target has in columns that SQLite lacks."""
        found: dict[str, dict[str, int]] = {}
        for table, columns in self.fit.beyond.items():
            for name, kind in columns.items():
                values = count(self.database, TARGET_TABLES[table], has_value(table, name, kind))
                if values:
                    found.setdefault(TARGET_TABLES[table], {})[name] = values
        return found

    def others(self) -> dict[str, int]:
        """Rows of tables of the target that SQLite has none for."""
        ours = self.fit.schema.tables()
        known = {TARGET_TABLES[table.name] for table in ours}
        known |= set(t.LINK_TABLES) if self.fit.schema.turns is not None else set()
        theirs = sorted(self.fit.present - known - catalog.of_indexes(self.database))
        found = {table: count(self.database, table) for table in theirs}
        return {table: rows for table, rows in found.items() if rows}


def has_value(table: str, column: str, kind: str) -> str:
    """A condition for rows that have a value in a column which SQLite lacks, and not just its default."""
    name = f"n.{cypher_name(column)}"
    default = NODE_DEFAULTS.get(column) if table == NODES else None
    # Cast, for a column of 32 bits holds another 0.01.
    beside = "" if default is None else f" AND {name} <> CAST({t.literal(default)} AS {kind})"
    return f"{name} IS NOT NULL{beside}"


def count(database: Database, table: str, condition: str = "true") -> int:
    """Rows of a table of nodes or of relationships."""
    kinds = database.tables()
    pattern = f"()-[n:{cypher_name(table)}]->()" if kinds.get(table) == "REL" else f"(n:{cypher_name(table)})"
    return int(database.ask(f"MATCH {pattern} WHERE {condition} RETURN count(*)")[0][0])


def relation_of(judged: ConvertedRows, position: int) -> Any:
    """The relation of an edge of SQLite's."""
    at = {column.target: len(judged.rows.table.ends) + i for i, column in enumerate(judged.rows.table.columns)}
    return judged.columns[at["relation"]][position] if "relation" in at else None


def _empty(judged: ConvertedRows, position: int) -> set[str]:
    """The columns in which a row of SQLite has nothing."""
    skip = len(judged.rows.table.ends)
    return {
        column.target
        for index, column in enumerate(judged.rows.table.columns)
        if judged.is_null(position, skip + index)
    }


def _moment(row: Sequence[Any] | None) -> int:
    return row[0] if row is not None and isinstance(row[0], int) else 0


def _narrow(value: Any) -> Any:
    if isinstance(value, float):
        with suppress(OverflowError):
            return struct.unpack("<f", struct.pack("<f", value))[0]
    return value
