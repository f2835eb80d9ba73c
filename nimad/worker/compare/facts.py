"""The facts of a comparison, as they go from worker to supervisor.

Standard library only, as `worker/protocol.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Rows of one kind that an answer names; their number is always whole.
NAMED = 20
#: What a recall changes in a memory.
RECALLED = frozenset({"strength", "decay_rate", "last_accessed", "recall_count", "dismissal_count", "is_ghost"})


@dataclass(frozen=True)
class Listed:
    """How many rows, and the first of them: an id, with columns and a remark where there is something to say."""

    count: int = 0
    first: tuple[tuple[int, str], ...] = ()

    @classmethod
    def of(cls, rows: Iterable[tuple[int, str]]) -> "Listed":
        found = sorted(rows)
        return cls(len(found), tuple(found[:NAMED]))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Listed":
        return cls(data["count"], tuple((key, what) for key, what in data["first"]))


@dataclass(frozen=True)
class TableCompared:
    """One table of SQLite held against the target. Ids are SQLite's, but for those of `extra`."""

    rows: int  # of SQLite
    there: int  # of the target
    same: int
    renamed: int = 0  # of them, rows that the target has under another id
    lacking: Listed = field(default_factory=Listed)  # not in the target, for no reason that is known
    late: Listed = field(default_factory=Listed)  # reached SQLite after the target was made
    aside: Listed = field(default_factory=Listed)  # rows, or parts of rows, that the target has no place for
    differing: Listed = field(default_factory=Listed)
    since_here: Listed = field(default_factory=Listed)  # recalled in SQLite since
    since_there: Listed = field(default_factory=Listed)  # recalled, or filled in, in the target since
    extra: Listed = field(default_factory=Listed)  # rows that only the target has
    by_target: int = 0  # of those that lack or differ: by the ledger, the target alone was written to
    by_source: int = 0  # of those that differ: SQLite was

    @property
    def paired(self) -> int:
        """Rows that both sides have, whatever each of them says in them."""
        return self.same + self.differing.count + self.since_here.count + self.since_there.count

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "TableCompared":
        lists = {name: Listed.from_json(value) for name, value in data.items() if isinstance(value, dict)}
        counts: dict[str, Any] = {name: value for name, value in data.items() if isinstance(value, int)}
        return cls(**counts | lists)
