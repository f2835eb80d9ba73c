"""Edges of one merge, identified by the source's key, or else by ends and relation."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nimad.source.rows import ConvertedRows, Rows
from nimad.source.schema import EDGES, NODES
from nimad.state.ledger import PlannedId, check_of, packed_checks
from nimad.target import copy_rows, upsert
from nimad.target import ddl as t
from nimad.target.upsert import Edge
from nimad.worker.identity import natural_key

if TYPE_CHECKING:
    from nimad.worker.sync.merge import Merge
    from nimad.worker.sync.three_way import Resolution


class EdgeMerge:
    """What `Merge` does with edges."""

    def __init__(self, merge: "Merge") -> None:
        self._merge = merge

    def bring(self, rows: Rows) -> None:
        judged = self._merge.judged(rows)
        names = self._merge.see(NODES, itertools.chain(*judged.columns[:2]))
        ends = {end for column in judged.columns[:2] for end in column if names.knows(end)}
        judged, dangling = copy_rows.with_both_ends(judged, ends)
        self._merge.set_aside(rows, dangling)
        there = upsert.keyed_edges(self._merge.database, list(judged.rows.keys))
        judged = self._merge.without_removed(judged, there)
        drawn = [(names.of(a), names.of(b)) for a, b in zip(judged.columns[0], judged.columns[1], strict=True)]
        keys = list(judged.rows.keys)
        edges: list[Edge | None] = [
            there.get(key) or self._take_like(*drawn[p], self._relation(judged, p)) for p, key in enumerate(keys)
        ]
        new = [edge is None for edge in edges]
        plans = zip(keys, new, packed_checks(judged), strict=True)
        self._merge.plans.setdefault(EDGES, {}).update(
            {key: PlannedId(key, None, checks) for key, flag, checks in plans if flag}
        )
        self._merge.later(
            upsert.insert_edges,
            self._merge.schema,
            copy_rows.select(judged, new),
            [d for d, n in zip(drawn, new, strict=True) if n],
        )
        self._settle(judged, drawn, edges)
        self._merge.note(judged)

    def _settle(self, judged: ConvertedRows, drawn: Sequence[tuple[int, int]], edges: Sequence[Edge | None]) -> None:
        """Give edges that are there the values that SQLite changed, and the source's key to those that had none."""
        table, keys = judged.rows.table, judged.rows.keys
        values = upsert.edge_values(self._merge.database, table, [edge for edge in edges if edge is not None])
        found: dict[int, Resolution] = {}
        moved: set[int] = set()
        for position, edge in enumerate(edges):
            if edge is None:
                continue
            found[position] = self._merge.resolve(judged, position, values[edge])
            if (edge.start, edge.end) != drawn[position]:
                if self._sqlite_moved(judged, position, edge) and not found[position].keep:
                    moved.add(position)
                else:  # a value of the agent's own would not outlive it
                    self._merge.keep(EDGES, keys[position], table.ends)
        self._redraw(judged, drawn, sorted(moved))
        self._merge.update(
            judged,
            {p: r for p, r in found.items() if p not in moved},
            lambda part, positions, names: self._merge.later(
                upsert.update_edges, self._merge.schema, part, [edges[p] for p in positions], names
            ),
            always={p for p, edge in enumerate(edges) if edge is not None and not edge.keyed},
        )
        changed = [p for p, each in found.items() if each.take or p in moved]
        self._merge.plan_changes(judged, changed)
        added = [keys[p] for p, edge in enumerate(edges) if edge is None]
        self._merge.count(EDGES, added, sorted(keys[p] for p in changed))

    def _redraw(self, judged: ConvertedRows, drawn: Sequence[tuple[int, int]], positions: Sequence[int]) -> None:
        """Draw edges anew whose ends SQLite changed."""
        chosen = [position in positions for position in range(len(drawn))]
        self._merge.later(upsert.remove, t.EDGE_TABLE, [judged.rows.keys[position] for position in positions])
        self._merge.later(
            upsert.insert_edges, self._merge.schema, copy_rows.select(judged, chosen), [drawn[p] for p in positions]
        )

    def _sqlite_moved(self, judged: ConvertedRows, position: int, edge: Edge) -> bool:
        """Whether SQLite changed an end of an edge since it was reconciled; not known of one without a base."""
        key, ends = judged.rows.keys[position], judged.rows.table.ends
        base, is_ours = self._merge.notes[EDGES].base(key) or {}, self._merge.is_ours(EDGES, key)
        if any(base.get(name) != check_of(judged.columns[at][position]) for at, name in enumerate(ends) if base):
            return True
        keys_at = self._merge.names(NODES).keys_at([edge.start, edge.end])
        there = zip(ends, (edge.start, edge.end), strict=True)
        return all(base.get(name) == (now := check_of(keys_at.get(at))) or is_ours(name, now) for name, at in there)

    def _take_like(self, start: int, end: int, relation: Any) -> Edge | None:
        """An edge that the agent drew between the same ends; it is not to be taken again."""
        if self._merge.edges_of_others is None:
            self._merge.edges_of_others = upsert.edges_of_others(self._merge.database)
        for edge in self._merge.edges_of_others:
            if (edge.start, edge.end, edge.relation) == (start, end, relation):
                self._merge.edges_of_others.remove(edge)
                return edge
        return None

    def _relation(self, judged: ConvertedRows, position: int) -> Any:
        return natural_key.values_of(judged, position, ("relation",))[0]
