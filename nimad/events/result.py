"""The result of a migration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from nimad.errors import ExitCode


class Outcome(StrEnum):
    """How a run ended."""

    COMPLETE = "complete"
    ALREADY_COMPLETE = "already complete"
    DRY_RUN = "dry run"
    NOT_ASKED = "not asked"  # --auto, and OpenClaw's file does not ask for a migration


@dataclass(frozen=True, kw_only=True)
class Result:
    """The figures of a run that reached its end. Counts are of rows; times in seconds."""

    outcome: Outcome
    target: str
    total_nodes: int = 0
    migrated: int = 0  # nodes counted in the target
    edges: int = 0
    turns: int = 0
    quarantined: int = 0  # whole rows of any table
    quarantined_parts: int = 0  # embeddings and links whose row migrated without them
    quarantined_lacking: int = 0  # entries that an earlier run set aside, and that are not in its file any more
    unread_ranges: int = 0  # of ids of any table, on damaged pages of the source
    unread_nodes: int | None = 0  # ids of nodes in them, each of which may have been one; None where nobody knows
    waiting: bool = False  # for what reached the source later, and could not be brought to a complete target now
    quarantined_ids: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by table, or table and part; the first
    quarantined_counts: Mapping[str, int] = field(default_factory=dict)  # how many those are in all
    failed_batches: int = 0
    retries: int = 0
    batches: int = 0
    elapsed_s: float = 0.0
    batch_s: float = 0.0  # sum of the batches' times
    phases_s: Mapping[str, float] = field(default_factory=dict)
    peaks: Mapping[str, int] = field(default_factory=dict)  # bytes of memory that the largest worker of a phase took

    @property
    def exit_code(self) -> ExitCode:
        if self.waiting and not self.unread_ranges:  # of a damaged source, running again brings nothing
            return ExitCode.INTERRUPTED
        aside = self.quarantined or self.quarantined_parts or self.quarantined_lacking or self.unread_ranges
        return ExitCode.QUARANTINED if aside else ExitCode.COMPLETE

    @property
    def success_rate(self) -> float | None:
        """Share of the source's nodes that are in the target, in percent, to one decimal and never rounded up to all.

        At least so much where some cannot be read. None where nobody knows how many those are.
        """
        if self.unread_nodes is None:
            return None
        total = self.total_nodes + self.unread_nodes
        share = 100.0 * self.migrated / total if total else 100.0
        return min(round(share, 1), 99.9) if self.migrated < total else share
