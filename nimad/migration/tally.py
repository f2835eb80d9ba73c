"""The tally of a quarantine file: how much of what is in it, and which ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nimad.source.schema import NODES
from nimad.worker.quarantine import entries

#: How many entries are quoted with their reasons.
EXAMPLES = 5


@dataclass(frozen=True)
class Tally:
    """Whole rows and parts of rows in quarantine; `ids` by table, with the part where it is not the whole row."""

    rows: int
    parts: int
    nodes: int  # whole rows of memory_nodes
    ids: Mapping[str, Sequence[str]]
    examples: Sequence[str]

    @classmethod
    def of(cls, path: Path) -> "Tally":
        rows = parts = nodes = 0
        ids: dict[str, list[str]] = {}
        examples: list[str] = []
        for entry in entries(path):
            table, part = entry["table"], entry["part"]
            whole = part == "row"
            rows, parts = rows + whole, parts + (not whole)
            nodes += whole and table == NODES
            ids.setdefault(table if whole else f"{table} {part}", []).append(str(entry["id"]))
            if len(examples) < EXAMPLES:
                examples.append(f"{table} id {entry['id']} ({part}): {entry.get('reason')}")
        return cls(rows, parts, nodes, ids, examples)
