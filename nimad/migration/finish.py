"""The end of a run: its result and its last events."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from nimad.config import Verify
from nimad.events import run
from nimad.events.result import Outcome, Result
from nimad.migration.context import Context
from nimad.source.schema import NODES, TARGET_TABLES
from nimad.state.quarantine_summary import QuarantineSummary
from nimad.state.target_state import of_target


def finish(context: Context) -> Result:
    state, counted = context.state, context.counted
    tally = QuarantineSummary.of(context.files.quarantine)
    migrated = counted.get(TARGET_TABLES[NODES], 0)
    total = context.survey.nodes.rows
    if context.settings.verify is Verify.FULL:  # then these are proven to be all, however many left the source
        total = migrated + tally.nodes
    result = replace(
        _with_quarantine(context, Outcome.COMPLETE, tally),
        total_nodes=total,
        migrated=migrated,
        edges=counted.get("relates_to", 0),
        turns=counted.get("Turn", 0),
        failed_batches=state.failed_batches,
        retries=state.retries,
        batches=context.batches,
        elapsed_s=time.monotonic() - context.began,
        batch_s=context.batch_s,
        phases_s=_rounded(state.phases_s),
        peaks=dict(state.peaks),
    )
    state.phase, state.eta_s, state.replaces = "complete", 0.0, {}
    with suppress(OSError):  # what was published stood in it before the rename
        state.write()
    context.listener(run.Finished(result))
    return result


def _rounded(phases: Mapping[str, float]) -> dict[str, float]:
    return {name: round(seconds, 3) for name, seconds in phases.items()}


def nothing_done(context: Context) -> Result:
    tally = QuarantineSummary.of(context.files.quarantine, of_target(context.files))
    return replace(_with_quarantine(context, Outcome.ALREADY_COMPLETE, tally), quarantined_lacking=tally.lacking)


def _with_quarantine(context: Context, outcome: Outcome, tally: QuarantineSummary) -> Result:
    return Result(
        outcome=outcome,
        target=str(context.files.target),
        total_nodes=context.survey.nodes.rows,
        quarantined=tally.rows,
        quarantined_parts=tally.parts,
        unread_ranges=tally.ranges,
        unread_nodes=tally.unread_nodes,
        quarantined_ids=tally.ids,
        quarantined_counts=tally.counts,
    )


def waiting(context: Context) -> Result:
    """A complete target to which nothing could be brought.

    OpenClaw's hook takes any status but 0 for a migration that failed, and the agent may have the target open by then.
    """
    return replace(nothing_done(context), waiting=not context.settings.auto)


def report_quarantine(context: Context, tally: QuarantineSummary) -> None:
    context.state.quarantined = tally.rows + tally.parts + tally.ranges
    if tally.entries:
        file = str(context.files.quarantine)
        counts = (tally.rows, tally.parts, tally.ranges)
        context.listener(run.Quarantined(file, *counts, tally.examples, tally.converted))


def report_late_arrivals(context: Context) -> None:
    last = context.survey.nodes.last
    rows = context.nodes_above(-(2**63) if last is None else last)
    if rows:
        context.listener(run.LateArrivals(rows))
