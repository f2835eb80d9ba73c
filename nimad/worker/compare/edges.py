"""Edges of a target, identified by their keys, or else by their content."""

from collections import Counter
from typing import Any

from nimad.source.schema import EDGES
from nimad.target import ddl as t
from nimad.target import upsert
from nimad.target.database import Database
from nimad.target.upsert import Edge
from nimad.worker.compare.shared_schema import SharedSchema

#: What an edge says: both ends, by the target's ids, and the relation.
Content = tuple[int, int, Any]


class Edges:
    """The target's edges that no row of SQLite was found for yet."""

    def __init__(self, database: Database, fit: SharedSchema) -> None:
        there = fit.has(EDGES)
        self.keyed = upsert.keys(database, t.EDGE_TABLE) if there and fit.keyed else set()
        self._nameless = upsert.edges_of_others(database, keyed=fit.keyed) if there else []
        self._free = Counter((edge.start, edge.end, edge.relation) for edge in self._nameless)
        self.wanted: list[tuple[int, Content]] = []  # keys of SQLite for which none was found so far, and what they say

    def take(self, what: Content) -> bool:
        """Take an edge without a key that says the same, if there is one."""
        if self._free[what] <= 0:
            return False
        self._free[what] -= 1
        return True

    def contents(self, database: Database) -> dict[Content, list[int]]:
        """By what they say, the keys that are left; the highest first."""
        found: dict[Content, list[int]] = {}
        pattern = f"(a:{t.NODE_TABLE})-[r:{t.EDGE_TABLE}]->(b:{t.NODE_TABLE})"
        query = f"MATCH {pattern} WHERE r.edge_id IS NOT NULL RETURN a.id, b.id, r.relation, r.edge_id"
        for *what, key in sorted(database.ask(query) if self.keyed else (), key=lambda row: -row[3]):
            if key in self.keyed:
                found.setdefault((what[0], what[1], what[2]), []).append(key)
        return found

    def left(self) -> list[Edge]:
        free, found = Counter(self._free), []
        for edge in self._nameless:
            what = (edge.start, edge.end, edge.relation)
            if free[what] > 0:
                free[what] -= 1
                found.append(edge)
        return found
