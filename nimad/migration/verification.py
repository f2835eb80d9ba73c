"""Verification: the target against the source, and rows that changed meanwhile brought up to date."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from nimad.config import Verify
from nimad.errors import DifferenceError
from nimad.migration import isolation, retry
from nimad.migration.context import Context
from nimad.migration.ends import Answer, Kind
from nimad.migration.events import Verified, Verifying
from nimad.migration.files import replace_bytes
from nimad.source.schema import NODES, TARGET_TABLES, quoted
from nimad.worker.job import Job, Task
from nimad.worker.quarantine import entries, line_key, lines

#: How often rows that go on changing are brought up to date before they are left as they are.
MEND_PASSES = 5
#: How often missing rows are loaded before the run is given up.
MISSING_PASSES = 20
#: Rows of one mending batch.
MEND_ROWS = 500
#: How many differing values a message names.
NAMED = 5


def verify(context: Context) -> None:
    """Compare, mend, and compare what was mended.

    Raises `DifferenceError` when something is not as it should be, but `UnreadableError` in a file that an earlier run
    left, so that it is begun anew.
    """
    level = context.settings.verify
    began = time.monotonic()
    context.listener(Verifying(str(level)))
    if level is Verify.NONE:
        return
    if level is Verify.COUNTS:
        compared = _compare_counts(context)
        context.listener(Verified(compared, 0, 0, time.monotonic() - began))
        return
    compared, mended, removed = _compare_rows(context)
    context.listener(Verified(compared, mended, removed, time.monotonic() - began))


def _compare_rows(context: Context) -> tuple[dict[str, int], int, int]:
    found = _ask(context, {})
    compared: dict[str, int] = dict(found["compared"])
    mended = removed = passes = 0
    while True:
        _raise_for_damage(context, found)
        for table, ids in found["removed"].items():
            context.check_shrunk(table, len(ids), context.counted.get(TARGET_TABLES[table], 0))
        passes += 1
        # A row that just goes on changing is right as of a moment ago. A missing one is never left missing.
        work = list(_mending(found)) if passes <= MEND_PASSES or found["missing"] else []
        if not work:
            return compared, mended, removed
        if passes > MISSING_PASSES:
            _raise_for_missing(context, found)
        nodes_came_or_went = bool(found["missing"].get(NODES))
        for table, ids, gone in work:
            taken_out = _mend(context, table, ids, gone)
            mended, removed = mended + len(ids), removed + taken_out
            nodes_came_or_went |= table == NODES and taken_out > 0
        # Edges and turns hang on nodes: when one came or went, all is compared, else just the mended rows.
        found = _ask(context, {}) if nodes_came_or_went else _ask_again(context, found)
        compared.update({name: rows for name, rows in found["compared"].items() if not found["partly"]})


def _ask_again(context: Context, found: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the rows that were mended."""
    merged: dict[str, Any] = {
        "compared": {},
        "changed": {},
        "missing": {},
        "removed": {},
        "damaged": [],
        "damages": 0,
    }
    for table, ids, _ in _mending(found):
        if not ids:
            continue
        part = _ask(context, {"table": table, "ids": ids})
        for name in ("changed", "missing", "removed"):
            for key, values in part[name].items():
                merged[name].setdefault(key, []).extend(values)
        merged["damaged"] += part["damaged"]
        merged["damages"] += part["damages"]
    return {**merged, "partly": True}


def _ask(context: Context, facts: Mapping[str, Any]) -> dict[str, Any]:
    def job(number: int) -> Job:
        rows, size = context.plan.chunk_rows >> number, context.plan.compared_bytes >> number
        bounds = context.bounds()
        return context.job(Task.VERIFY, bounds=bounds, chunk_rows=rows, chunk_bytes=size, **facts)

    answer = retry.attempt_reading(context, job)
    context.note_counts(answer.facts["counts"])
    context.state.free_bytes = answer.facts["free_bytes"]
    if not facts:
        context.confirmed = set(answer.facts["rejected"])
        keep_confirmed(context)
    return {**answer.facts, "partly": bool(facts)}


def _mending(found: Mapping[str, Any]) -> Iterator[tuple[str, list[int], list[int]]]:
    """What is to be brought up to date: table, ids that changed or are missing, ids that are gone. Nodes first."""
    names = [name for name in TARGET_TABLES if any(name in found[k] for k in ("changed", "missing", "removed"))]
    for name in names:
        ids = sorted({*found["changed"].get(name, ()), *found["missing"].get(name, ())})
        gone = found["removed"].get(name, [])
        for start in range(0, max(len(ids), len(gone)), MEND_ROWS):
            yield name, ids[start : start + MEND_ROWS], gone[start : start + MEND_ROWS]


def _mend(context: Context, table: str, ids: list[int], gone: list[int]) -> int:
    """Bring rows up to date; return how many were taken out, which may be more than were known to be gone."""

    def job(halvings: int) -> Job:  # what a smaller one leaves out, the next comparison finds again
        return context.job(Task.MEND, table=table, ids=ids[: max(1, len(ids) >> halvings)], removed=gone)

    while True:
        try:
            answer = retry.attempt(context, job)
        except retry.ExhaustedError as failure:
            if not isolation.isolate_ids(context, table, ids, failure):
                raise
        else:
            return int(answer.facts["removed"])


def _raise_for_damage(context: Context, found: Mapping[str, Any]) -> None:
    if not found["damages"]:
        return
    named = "; ".join(f"{table} id {key}: {column}" for table, key, column in found["damaged"][:NAMED])
    if found["damages"] > NAMED:
        named += f"; and {found['damages'] - NAMED} more"
    raise _difference(context, f"differs from the source in {found['damages']} places ({named})")


def _difference(context: Context, what: str) -> Exception:
    """What to raise for a difference that nobody's change of the source explains.

    In what this run wrote by itself, it is a bug or bad hardware, and somebody has to know. What an earlier run wrote
    may have come back otherwise after a power cut, and SQLite still has all of it.
    """
    if not context.adopted:
        return DifferenceError(f"the target {what}; nothing was published. Begin again with --restart")
    if context.memory.salvaged:
        return DifferenceError(
            f"the target {what}; nothing was published. {context.files.staging} may hold rows that the damaged source "
            "has lost: keep a copy of it, then begin again with --restart"
        )
    return retry.UnreadableError(Answer(Kind.DAMAGED, f"left by an earlier run, it {what}"))


def _raise_for_missing(context: Context, found: Mapping[str, Any]) -> None:
    missing = [(table, key) for table, keys in found["missing"].items() for key in keys]
    if missing:
        named = ", ".join(f"{table} id {key}" for table, key in missing[:NAMED])
        raise _difference(context, f"does not keep {len(missing)} rows ({named})")


def keep_confirmed(context: Context) -> None:
    """Take out of the quarantine what an interrupted run put there and the source gives no reason for any more."""
    path, confirmed = context.files.quarantining, context.confirmed | context.losses
    if all(line_key(line) in confirmed for line in lines(path)):
        return
    if confirmed:
        replace_bytes(path, (line for line in lines(path) if line_key(line) in confirmed))
    else:
        path.unlink()


def _compare_counts(context: Context) -> dict[str, int]:
    """Hold the count of each table against the source's, less what is in quarantine.

    A file of an earlier run is not begun anew for it: a count does not tell damage from rows that left the source.
    """
    aside = list(entries(context.files.quarantining))
    for table in context.survey.schema.tables():
        rows = context.survey.tables[table.name].rows
        whole = sum(entry["table"] == table.name and entry["part"] == "row" for entry in aside)
        # Rows that salvaging could not copy are listed too, and are none of the copy's rows.
        whole -= sum(reject.table == table.name and reject.part == "row" for reject in context.memory.rejects)
        counted = context.counted.get(TARGET_TABLES[table.name], 0)
        now = _rows_now(context, table.name, table.key)
        # The source may have lost or gained rows below the bound meanwhile, before they were copied or after.
        if not min(rows, now) <= counted + whole <= max(rows, now):
            raise DifferenceError(
                f"{table.name} has {rows} rows, of which {counted} are in the target and {whole} in quarantine; "
                "nothing was published. Compare every row with --verify full, or begin again with --restart"
            )
    return {name: context.counted.get(target, 0) for name, target in TARGET_TABLES.items()}


def _rows_now(context: Context, table: str, key: str) -> int:
    bound = context.survey.tables[table].last
    query = f"SELECT count(*) FROM {quoted(table)} WHERE {quoted(key)} <= ? OR typeof({quoted(key)}) <> 'integer'"
    return context.source.number(query, bound)
