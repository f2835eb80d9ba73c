"""The dry run: every row is read and converted, and nothing is written."""

import os
import time
from collections.abc import Callable
from typing import Any

from nimad.errors import CannotWriteError, RefusedError, StoppedError
from nimad.events.run import DryRun
from nimad.migration import batch_retry, large_pages, name_conflicts, publish, resume
from nimad.migration.context import Context
from nimad.source.ranges import Range, next_range
from nimad.source.schema import NODES, Table
from nimad.state.paths import check_folder, check_plain, check_size, not_for_us
from nimad.supervisor import worker_failure
from nimad.supervisor.outcome import Action
from nimad.worker.protocol import Task

#: How many rejected rows are named.
NAMED = 10
#: A whole migration takes about this many times as long as reading and converting every row (docs/PLAN.md).
EXPECTED_FACTOR = 7.0


def dry_run(context: Context) -> None:
    """Convert every row in workers, then say what a real run would do."""
    began = time.monotonic()
    rejects: list[list[Any]] = []
    unread = [[each.table, each.id, each.part, each.reason] for each in context.memory.rejects]
    lost: list[int] = []
    for table in context.survey.schema.tables():
        found, gone = _convert_table(context, table, lost)
        rejects += found
        if table.name == NODES:
            lost = gone
    seconds = time.monotonic() - began
    aside = [*unread, *rejects]
    rows, ranges = (sum(reject[2] == part for reject in aside) for part in ("row", "range"))
    nodes = sum(each[0] == NODES and each[2] == "row" for each in aside)
    facts = {
        "rows": {name: extent.rows for name, extent in context.survey.tables.items()},
        "schema": {table.name: _columns(table) for table in context.survey.schema.tables()},
        "dimension": context.survey.schema.dimension,
        "quarantine_rows": rows,
        "quarantine_parts": len(aside) - rows - ranges,
        "quarantine_ranges": ranges,
        "examples": [f"{table} id {key} ({part}): {reason}" for table, key, part, reason in aside[:NAMED]],
        "obstacles": _obstacles(context),
        "unpublished": _refusal(lambda: context.check_set_aside(nodes)),
        "warnings": large_pages.warnings(context.choice),
        "seconds_converting": round(seconds, 2),
        "seconds_expected": round(seconds * EXPECTED_FACTOR, 1),
        "plan": context.plan.to_json(),
    }
    context.listener(DryRun(str(context.files.target), facts))
    if context.settings.strict and rejects:
        raise RefusedError(
            f"--strict would stop at {rejects[0][0]} id {rejects[0][1]}: {rejects[0][3]}; correct it in the source, "
            "or run without --strict"
        )


def _obstacles(context: Context) -> list[str]:
    """All that would keep a real run from beginning: what is mended of them one by one would be found one by one."""
    files, plan, settings = context.files, context.plan, context.settings
    empty = [] if settings.replaces else name_conflicts.found(context)
    checks = [
        lambda: publish.check_links(context, empty),
        lambda: check_folder(files.target),
        lambda: check_plain(files.target),
        lambda: plan.check_disk(files.staging.parent),
    ]
    if not settings.force:
        checks += [plan.check_memory, lambda: check_size(files.staging.parent, plan.disk_anew)]
    found = [context.choice.refusal] if context.choice.refusal else []
    found += [why for check in checks if (why := _refusal(check))]
    if files.target in empty:
        return found
    if files.target.exists() and not settings.replaces and not os.access(files.target, os.R_OK, effective_ids=True):
        found.append(str(not_for_us(files.target, "Permission denied")))
    elif other := _refusal(lambda: resume.check_same_memory(context)):
        found.append(other)
    elif files.target.exists() and not settings.replaces:
        found.append(f"{files.target} is there already; a finished one is left alone, --replace makes a new one")
    return found


def _refusal(check: Callable[[], None]) -> str:
    try:
        check()
    except (CannotWriteError, RefusedError) as error:
        return str(error)
    return ""


def _columns(table: Table) -> list[str]:
    """What was found and what it becomes, column by column."""
    return [table.key, *table.ends, *(f"{c.name} {c.kind}" for c in table.columns)]


def _convert_table(context: Context, table: Table, lost: list[int]) -> tuple[list[list[Any]], list[int]]:
    """What of a table would be set aside, and which ids would then be missing; `lost` are such ids of nodes."""
    extent = context.survey.tables[table.name]
    plan, after = context.plan, None
    rejects: list[list[Any]] = []
    gone: list[int] = []
    strays = extent.strays > 0
    while extent.last is not None or strays:
        last = extent.last or 0
        wanted = context.source.read(
            lambda c, after=after, last=last: next_range(c, table, after, last, plan.largest_batch, plan.batch_bytes)  # type: ignore[misc]
        )
        if wanted is None:
            if not strays:
                break
            wanted = Range(table.name, last, last, 0, 0)
        job = context.job(Task.CONVERT, range=wanted, strays=strays, removed=lost)
        answer = batch_retry.quietly(context, job)
        if not answer.ok:
            raise (
                worker_failure.error_of(answer) if answer.rule.action is Action.STOP else StoppedError(answer.message)
            )
        rejects += answer.facts["rejects"]
        gone += answer.facts["lost"]
        after, strays = wanted.upto, False
    return rejects, gone
