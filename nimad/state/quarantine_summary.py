"""Summary of a quarantine file: counts, ids and examples."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nimad.config import command
from nimad.plural import number_of
from nimad.source.ranges import count_shown
from nimad.source.schema import NODES
from nimad.source.values import MIGRATED_AS
from nimad.state.quarantine import entry_of, lines

#: How many entries are quoted with their reasons: in messages, and in all.
EXAMPLES: Final = 5
FIRST: Final = 50
#: How many lines are read as what they say; of the rest, some twenty times as fast, only whether it is a whole row.
READ: Final = 300_000
_WHOLE: Final = re.compile(rb'\{"table": "(\w+)", "id": [^,]*, "part": "row"')
#: How many ids are kept of each table and part, and how many tables and parts are told apart: we write no more.
IDS: Final = 1_000
PARTS: Final = 2_100
#: Characters of what an entry says, and of an id: two of SQLite's and a hyphen.
_CHARS: Final = 400
_ID_CHARS: Final = 41


@dataclass(frozen=True)
class SetAsideCounts:
    """An entry of the quarantine, without the row."""

    table: str
    id: str
    part: str
    reason: str


@dataclass(frozen=True)
class QuarantineSummary:
    """What is in quarantine, counted in one passage and in bounded memory, however long the file is.

    `counts`, `ids` and `converted` by table, with the part where it is not the whole row; of `ids` the first.
    """

    rows: int  # whole ones
    parts: int  # of rows that migrated without them
    ranges: int  # of ids that cannot be read
    nodes: int  # whole rows of memory_nodes
    unread_nodes: int | None  # ids of memory_nodes that cannot be read; None where a range has no known end
    counts: Mapping[str, int]
    ids: Mapping[str, Sequence[str]]
    first: Sequence[SetAsideCounts]
    converted: Mapping[str, int] = field(default_factory=dict)  # parts in whose place the nearest migrated
    lacking: int = 0  # entries that were set aside, and that are not in the file any more or cannot be read

    @classmethod
    def of(cls, path: Path, made: Mapping[str, Any] | None = None) -> "QuarantineSummary":
        """Of this file; compared with what the run that `made` the target says, where its state is given."""
        rows = parts = ranges = nodes = 0
        unread: int | None = 0
        counts: Counter[str] = Counter()
        ids: dict[str, list[str]] = {}
        first: list[SetAsideCounts] = []
        converted: Counter[str] = Counter()
        for number, line in enumerate(lines(path)):
            if number >= READ:
                known = _WHOLE.match(line)
                rows, parts = rows + (known is not None), parts + (known is None)
                nodes += known is not None and known[1] == NODES.encode()
                continue
            if (entry := entry_of(line)) is None:
                continue
            aside = _aside(entry)
            table, part = aside.table, aside.part
            whole, unreadable = part == "row", part == "range"
            rows, ranges, parts = rows + whole, ranges + unreadable, parts + (not whole and not unreadable)
            if unreadable and table == NODES:
                ids_in_range = count_shown(aside.id)
                unread = None if unread is None or ids_in_range is None else unread + ids_in_range
            nodes += whole and table == NODES
            what = table if whole else f"{table} {part}"
            if what in counts or len(counts) < PARTS:
                counts[what] += 1
                if counts[what] <= IDS:
                    ids.setdefault(what, []).append(aside.id)
                if not whole and MIGRATED_AS in str(entry.get("reason")):
                    converted[what] += 1
            if len(first) < FIRST:
                first.append(aside)
        lacking = lacking_of(made, rows + parts + ranges)
        return cls(rows, parts, ranges, nodes, unread, dict(counts), ids, first, dict(converted), lacking)

    @property
    def entries(self) -> int:
        return self.rows + self.parts + self.ranges

    @property
    def examples(self) -> list[str]:
        return [f"{each.table} id {each.id} ({each.part}): {each.reason}" for each in self.first[:EXAMPLES]]

    def lacking_in(self, file: Path, target: Path) -> str | None:
        """What to say of entries that are lacking, and to type."""
        return say_lacking(self.lacking, self.entries, file, target)


def lacking_of(made: Mapping[str, Any] | None, count: int) -> int:
    """How many entries are lacking in a file that has so many, by what the run says that made the target."""
    said = made.get("quarantined") if made else None
    return max(0, said - count) if isinstance(said, int) else 0


def say_lacking(lacking: int, count: int, file: Path, target: Path) -> str | None:
    if not lacking:
        return None
    entries = number_of(lacking, "entry is", "entries are")
    anew = command.line("quarantine", "retry", "--target", target)
    return (
        f"{entries} missing in {file}, or cannot be read, of {lacking + count} that were set "
        f"aside; restore the file, or have them set aside anew with: {anew}"
    )


def _aside(entry: Mapping[str, Any]) -> SetAsideCounts:
    table, part, reason = (_shortened(str(entry.get(name, ""))) for name in ("table", "part", "reason"))
    return SetAsideCounts(table, str(entry["id"])[:_ID_CHARS], part, reason)


def _shortened(text: str) -> str:
    text = " ".join(text[: _CHARS * 2].split())
    return text if len(text) <= _CHARS else f"{text[: _CHARS - 1]}…"
