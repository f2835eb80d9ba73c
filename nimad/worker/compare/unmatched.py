"""Counts of rows that only one side has, for a health check."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from types import ModuleType
from typing import Any

from nimad.source import changed_rows
from nimad.source import rows as source_rows
from nimad.source.schema import EDGES, NODES, TARGET_TABLES, TURNS, Table
from nimad.source.sqlite_file import SourceFile
from nimad.source.stats import ExpectedDifferences, named
from nimad.target import upsert
from nimad.target.database import open_database
from nimad.worker.compare.compare_rows import RowComparison, relation_of
from nimad.worker.compare.edges import Edges
from nimad.worker.engine_limits import limits_of
from nimad.worker.protocol import Job


def unpaired(job: Job, module: ModuleType) -> dict[str, Any]:
    """Return the figures of rows that are on one side alone, for a reason that is known.

    `late`: SQLite got them since; `own`: the target alone ever had them; `removed`: a look noted that the agent removed
    them from the target. A row that is in none of the three, and that one side lacks, was lost or removed there.
    """
    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        rows = _Unpaired(job, RowComparison(job, database))
        for table in job.needs().tables():
            rows.look(table)
        late, removed = rows.figures_here()
        return {"late": asdict(late), "own": asdict(rows.figures_there()), "removed": asdict(removed)}


class _Unpaired:
    def __init__(self, job: Job, compared: RowComparison) -> None:
        self._job, self._compared = job, compared
        self._source = SourceFile(job.source_path())
        self._late: dict[str, list[int]] = {}
        self._removed: dict[str, list[int]] = {}
        self._own: dict[str, list[int]] = {}
        self._nodes: dict[int, int] = {}  # the target's ids by SQLite's
        self._edges_of_others = 0

    def look(self, table: Table) -> None:
        if table.name == EDGES:
            self._look_at_edges(table)
            return
        here, there, pairs = self._compared.pairs(table)
        if table.name == NODES:
            self._nodes = pairs
        self._sort(table.name, here.keys() - pairs.keys(), there.keys() - set(pairs.values()))

    def _sort(self, table: str, here: Collection[int], there: Collection[int]) -> None:
        """Leave out what was set aside or lost on one side: that is a difference, and no arrival."""
        bound, aside = self._job.bounds.get(table), self._job.quarantined.get(table, {})
        self._late[table] = sorted(key for key in here if key not in aside and self._compared.is_late(table, key))
        notes = self._compared.noted(table)
        self._removed[table] = sorted(key for key in here if key in notes.absent)
        known = notes.target_ids() if table != EDGES else notes.digests.keys()
        since = there if known or bound is None else [at for at in there if at > bound]
        self._own[table] = sorted(set(since) - known) if bound is not None else []

    def _look_at_edges(self, table: Table) -> None:
        """Pair edges by their keys, and others by what they say."""
        edges = Edges(self._compared.database, self._compared.fit)
        here = self._source.read(lambda c: source_rows.read_keys(c, table))
        lacking = sorted(here - edges.keyed)
        edges.keyed -= here
        found = {key for part in _parts(lacking, self._job.chunk_rows) for key in self._found(table, part, edges)}
        self._sort(EDGES, set(lacking) - found, edges.keyed)
        self._edges_of_others = len(edges.left())

    def _found(self, table: Table, keys: Sequence[int], edges: Edges) -> set[int]:
        """Which of these edges the target has without their key, or under another one."""
        rows = self._source.read(lambda c: source_rows.read_ids(c, table, keys))
        judged = source_rows.convert_rows(rows, self._compared.fit.schema)
        found = set()
        for position, (key, *ends) in enumerate(zip(judged.rows.keys, *judged.columns[:2], strict=True)):
            if all(end in self._nodes for end in ends):
                what = (self._nodes[ends[0]], self._nodes[ends[1]], relation_of(judged, position))
                if edges.take(what):
                    found.add(key)
                else:
                    edges.wanted.append((key, what))
        free = edges.contents(self._compared.database) if edges.wanted else {}
        for key, what in edges.wanted:
            if free.get(what):
                edges.keyed.discard(free[what].pop())
                found.add(key)
        edges.wanted.clear()
        return found

    # Figures

    def figures_here(self) -> tuple[ExpectedDifferences, ExpectedDifferences]:
        """Of the rows that SQLite alone has: those that came late, and those that the agent removed from the target."""
        return self._of_source(self._late), self._of_source(self._removed)

    def _of_source(self, keys: dict[str, list[int]]) -> ExpectedDifferences:
        nodes, table = keys.get(NODES, []), self._job.needs().nodes
        rows = (
            self._source.read(lambda c: changed_rows.columns(c, table, ("layer", "embedding"), nodes)) if nodes else {}
        )
        return self._figures(keys, rows.values(), len(keys.get(EDGES, ())))

    def figures_there(self) -> ExpectedDifferences:
        nodes, database = self._own.get(NODES, []), self._compared.database
        columns = {column.target for column in self._compared.fit.schema.nodes.columns}
        there = [name for name in ("layer", "embedding") if name in columns]
        found = upsert.columns(database, TARGET_TABLES[NODES], there, nodes) if nodes else {}
        rows = [dict(zip(there, row, strict=True)) for row in found.values()]
        edges = len(self._own.get(EDGES, ())) + self._edges_of_others
        return self._figures(self._own, [(row.get("layer"), row.get("embedding")) for row in rows], edges)

    def _figures(self, keys: dict[str, list[int]], nodes: Iterable[Sequence[Any]], edges: int) -> ExpectedDifferences:
        rows = list(nodes)
        return ExpectedDifferences(
            nodes=len(keys.get(NODES, ())),
            turns=len(keys.get(TURNS, ())),
            edges=edges,
            embeddings=sum(embedding is not None for _, embedding in rows),
            layers=named((layer, 1) for layer, _ in rows),
        )


def _parts(keys: Sequence[int], size: int) -> Iterable[Sequence[int]]:
    return (keys[start : start + size] for start in range(0, len(keys), max(1, size)))
