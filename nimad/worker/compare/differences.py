"""Differences that a comparison found in one table, row by row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nimad.target.upsert import Edge
from nimad.worker.compare.facts import RECALLED, Listed, TableCompared
from nimad.worker.identity.match import Pairs


@dataclass(frozen=True)
class RowDifference:
    """A row that both sides have, and not the same. `filled`: columns in which SQLite has nothing."""

    key: int
    at: int  # its id in the target
    columns: frozenset[str]  # by their names in the target, and a turn's ends by SQLite's
    filled: frozenset[str]
    unmoved: bool | None = None  # whether SQLite holds what was copied, by the ledger; None where that does not tell
    side: str = ""  # where it was recalled last: `here` is SQLite, `there` the target
    note: str = ""
    undecided: frozenset[str] = frozenset()  # columns in which the target never had what was copied

    @property
    def is_of_target(self) -> bool | None:
        """Whether the target alone was written to, by the ledger; None where that does not tell."""
        return None if self.columns & self.undecided else self.unmoved

    @property
    def why(self) -> str:
        words = {True: "SQLite is as it was copied", False: "SQLite changed since", None: ""}
        return self.note or words[self.is_of_target]

    @property
    def essential(self) -> frozenset[str]:
        """What neither a recall nor a filling-in explains."""
        return self.columns - self.filled - RECALLED

    @property
    def recalled(self) -> frozenset[str]:
        return (self.columns - self.filled) & RECALLED


@dataclass
class ComparedTable:
    """What came of one table; ids are SQLite's, but for those of `extra` and `extra_edges`."""

    rows: int = 0
    there: int = 0
    pairs: Pairs = field(default_factory=dict)
    lacking: list[tuple[int, str]] = field(default_factory=list)
    gone: int = 0  # of them, rows that were in the target once
    late: list[tuple[int, str]] = field(default_factory=list)
    aside: list[tuple[int, str]] = field(default_factory=list)
    whole: set[int] = field(default_factory=set)  # of `aside`, what is set aside as a whole row
    differing: list[RowDifference] = field(default_factory=list)
    since_here: list[RowDifference] = field(default_factory=list)
    since_there: list[RowDifference] = field(default_factory=list)
    extra: list[tuple[int, str]] = field(default_factory=list)
    extra_edges: list[Edge] = field(default_factory=list)  # without the source's key

    def differences(self) -> Iterator[RowDifference]:
        yield from (*self.differing, *self.since_here, *self.since_there)

    def facts(self) -> TableCompared:
        unlike = len(self.differing) + len(self.since_here) + len(self.since_there)
        drawn = ((edge.start, f"from {edge.start} to {edge.end}: {edge.relation}") for edge in self.extra_edges)
        extra = [*self.extra, *drawn]
        return TableCompared(
            rows=self.rows,
            there=self.there,
            same=len(self.pairs) - unlike,
            renamed=sum(key != at for key, at in self.pairs.items()),
            lacking=Listed.of(self.lacking),
            late=Listed.of(self.late),
            aside=Listed.of(self.aside),
            differing=_listed(self.differing),
            since_here=_listed(self.since_here),
            since_there=_listed(self.since_there),
            extra=Listed.of(extra),
            by_target=self.gone + sum(each.is_of_target is True for each in self.differing),
            by_source=sum(each.is_of_target is False for each in self.differing),
        )


def _listed(found: Sequence[RowDifference]) -> Listed:
    return Listed.of(
        (each.key, f"{', '.join(sorted(each.columns))}{f' ({each.why})' if each.why else ''}".strip()) for each in found
    )
