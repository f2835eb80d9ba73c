"""The model of a run report.

It holds ids, counts, names and reasons, and no text of a memory.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from nimad.plural import number_of
from nimad.source.schema import EDGES, NODES, TURNS
from nimad.state.quarantine_summary import SetAsideCounts
from nimad.state.run_history_reader import RecordedBatch

#: Version of the keys of `--json`.
FORMAT: Final = 1
#: Entries of a quarantine, and failed tries, that are told one by one.
LISTED = 50
COMPLETE, INTERRUPTED, FAILED, UNFINISHED = "complete", "interrupted", "failed", "unfinished"


@dataclass(frozen=True)
class Span:
    """Batches on the time line of all sections, one after the other. Times in seconds from the first one's start."""

    batch: RecordedBatch
    began_s: float
    ended_s: float


@dataclass(frozen=True)
class FailedAttempt:
    """A try that failed. `delay_s`: until the next one; None where there was none."""

    at_s: float
    attempt: int
    message: str
    delay_s: float | None


@dataclass(frozen=True)
class ProcessSection:
    """One process that worked on it. `began`: seconds since the epoch; `at_s`: on the time line."""

    run: str
    began: float
    at_s: float
    seconds: float
    outcome: str
    message: str


@dataclass(frozen=True)
class MovedValue:
    """One table: its rows in SQLite when the run began, those in the target, and whole rows in quarantine."""

    table: str
    source: int | None
    target: int
    aside: int


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """All that is told. Sizes in bytes, durations in seconds, moments in seconds since the epoch."""

    source: str
    target: str
    run: str
    outcome: str
    exit_code: int | None
    message: str
    began: float | None
    seconds: float
    moved: Sequence[MovedValue]
    layers: Mapping[str, int] = field(default_factory=dict)
    left_out: Sequence[Sequence[Any]] = ()
    defaults: Sequence[Sequence[Any]] = ()  # column, default, memories without a value
    processes: Sequence[ProcessSection] = ()
    spans: Sequence[Span] = ()
    failures: Sequence[FailedAttempt] = ()
    failures_in_all: int = 0
    verifying: Sequence[tuple[float, float]] = ()  # from, to, on the time line
    retries: int = 0
    plan: Mapping[str, Any] = field(default_factory=dict)
    phases_s: Mapping[str, float] = field(default_factory=dict)
    peaks: Mapping[str, int] = field(default_factory=dict)
    verification: Mapping[str, Any] = field(default_factory=dict)
    readers: Sequence[str] = ()
    quarantine_file: str = ""
    aside: Sequence[SetAsideCounts] = ()
    aside_in_all: int = 0
    lacking: str = ""
    sizes: Mapping[str, int | None] = field(default_factory=dict)  # source_then, source_now, target_then, target_now
    later: Mapping[str, Any] = field(default_factory=dict)  # since it was published
    versions: Mapping[str, str] = field(default_factory=dict)
    made: float = field(default_factory=time.time)

    @property
    def peak_rss(self) -> int:
        """Bytes of the largest worker of all."""
        return max([*self.peaks.values(), *(span.batch.peak_rss for span in self.spans)], default=0)

    def moved_of(self, table: str) -> MovedValue | None:
        return next((each for each in self.moved if each.table == table), None)

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self), "peak_rss": self.peak_rss}


def headline(told: RunReport) -> str:
    """The whole of it in one sentence."""
    nouns = {NODES: ("memory", "memories"), EDGES: ("edge", "edges"), TURNS: ("turn", "turns")}
    shown = [each for each in told.moved if each.target or each.table == NODES]
    counts = [f"{each.target:,} {nouns[each.table][each.target != 1]}" for each in shown]
    what = f"{', '.join(counts[:-1])} and {counts[-1]}" if len(counts) > 1 else (counts or ["nothing"])[0]
    if told.outcome != COMPLETE:
        return f"{what} so far; {told.outcome}{f': {told.message}' if told.message else ''}"
    compared = {"full": "every row and column was compared", "counts": "their counts were compared"}
    check = compared.get(str(told.verification.get("level")), "they were counted, and not compared")
    aside = f"{number_of(told.aside_in_all, 'entry is', 'entries are')} in quarantine" if told.aside_in_all else ""
    return f"{what} were moved; {check}; {aside or 'nothing was set aside'}"
