"""The tally of a quarantine file: how much of what is in it, and which ids."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nimad import command
from nimad.source.ranges import count_shown
from nimad.source.schema import NODES
from nimad.source.values import MIGRATED_AS
from nimad.words import number_of
from nimad.worker.quarantine import entries

#: How many entries are quoted with their reasons.
EXAMPLES = 5


@dataclass(frozen=True)
class Tally:
    """What is in quarantine; `ids` and `converted` by table, with the part where it is not the whole row."""

    rows: int  # whole ones
    parts: int  # of rows that migrated without them
    ranges: int  # of ids that cannot be read
    nodes: int  # whole rows of memory_nodes
    unread_nodes: int | None  # ids of memory_nodes that cannot be read; None where a range has no known end
    ids: Mapping[str, Sequence[str]]
    examples: Sequence[str]
    converted: Mapping[str, int] = field(default_factory=dict)  # parts in whose place the nearest migrated
    lacking: int = 0  # entries that were set aside, and that are not in the file any more or cannot be read

    @classmethod
    def of(cls, path: Path, made: Mapping[str, Any] | None = None) -> "Tally":
        """Of this file; compared with what the run that `made` the target says, where its state is given."""
        rows = parts = ranges = nodes = 0
        unread: int | None = 0
        ids: dict[str, list[str]] = {}
        examples: list[str] = []
        converted: Counter[str] = Counter()
        for entry in entries(path):
            table, part = entry["table"], entry["part"]
            whole, unreadable = part == "row", part == "range"
            rows, ranges, parts = rows + whole, ranges + unreadable, parts + (not whole and not unreadable)
            if unreadable and table == NODES:
                ids_in_range = count_shown(str(entry["id"]))
                unread = None if unread is None or ids_in_range is None else unread + ids_in_range
            nodes += whole and table == NODES
            ids.setdefault(table if whole else f"{table} {part}", []).append(str(entry["id"]))
            if not whole and MIGRATED_AS in str(entry.get("reason")):
                converted[f"{table} {part}"] += 1
            if len(examples) < EXAMPLES:
                examples.append(f"{table} id {entry['id']} ({part}): {entry.get('reason')}")
        said = made.get("quarantined") if made else None
        lacking = max(0, said - rows - parts - ranges) if isinstance(said, int) else 0
        return cls(rows, parts, ranges, nodes, unread, ids, examples, dict(converted), lacking)

    @property
    def entries(self) -> int:
        return self.rows + self.parts + self.ranges

    def lacking_in(self, file: Path, target: Path) -> str | None:
        """What to say of entries that are lacking, and to type."""
        if not self.lacking:
            return None
        entries = number_of(self.lacking, "entry is", "entries are")
        anew = command.line("quarantine", "retry", "--target", target)
        return (
            f"{entries} missing in {file}, or cannot be read, of {self.lacking + self.entries} that were set "
            f"aside; restore the file, or have them set aside anew with: {anew}"
        )
