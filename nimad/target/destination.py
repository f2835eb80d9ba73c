"""The destination of a batch: a table, its properties, and the tables at both ends of a relationship."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Destination:
    """A table of the target and which of its properties a batch has, in order; before them the keys of both ends."""

    table: str
    properties: Sequence[str] = ()
    ends: tuple[str, ...] = ()  # node tables; none for a node table
    keys: tuple[str, str] = ("id", "id")  # of the ends: by which of their properties they are found; COPY has no say

    def __str__(self) -> str:
        """As COPY wants it."""
        if not self.properties:
            return cypher_name(self.table)
        return f"{cypher_name(self.table)}({', '.join(map(cypher_name, self.properties))})"


def cypher_name(name: str) -> str:
    """Quote an identifier of Cypher."""
    return "`" + name.replace("`", "``") + "`"
