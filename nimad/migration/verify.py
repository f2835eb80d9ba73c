"""Verification of the target against the source; rows that changed meanwhile are written again."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nimad.config import Verify
from nimad.errors import DifferenceError, RefusedError
from nimad.events.run import Refused, Verified, Verifying, WrittenAgain
from nimad.migration import batch_retry, bisect
from nimad.migration.context import Context
from nimad.source.schema import EDGE_ENDS, EDGES, NODES, TARGET_TABLES
from nimad.source.sql import sql_name
from nimad.state.left_out import Failed
from nimad.state.paths import replace_bytes
from nimad.state.quarantine import entries, line_key, lines
from nimad.supervisor import worker_failure
from nimad.supervisor.outcome import FailureKind, WorkerResult
from nimad.worker.protocol import Job, Task

#: How often rows that go on changing are brought up to date before they are left as they are.
REFRESH_PASSES = 5
#: How often missing rows are loaded before the run is given up.
MISSING_PASSES = 20
#: Rows of one refreshing batch.
REFRESH_ROWS = 500
#: How often a value was written before it is set aside.
TRIES = 2
#: How many differing values a message names.
NAMED = 5


def verify(context: Context) -> None:
    """Compare, refresh, and compare what was refreshed.

    Raises `DifferenceError` when something is not as it should be, but `UnreadableError` in a file that an earlier run
    left, so that it is started over.
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
    compared, refreshed, removed = _compare_rows(context)
    context.listener(Verified(compared, refreshed, removed, time.monotonic() - began))


def _compare_rows(context: Context) -> tuple[dict[str, int], int, int]:
    found, doubts = _ask(context, {}), Doubts(context)
    compared: dict[str, int] = dict(found["compared"])
    refreshed = removed = passes = 0
    while True:
        _raise_for_damage(context, found)
        for table, ids in found["removed"].items():
            context.check_shrunk(table, len(ids), context.counted.get(TARGET_TABLES[table], 0))
        doubts.hear(found["wrong"])
        passes += 1
        # A row that just goes on changing is right as of a moment ago. A missing one is never left missing.
        work = list(_refreshing(found)) if passes <= REFRESH_PASSES or found["missing"] or found["wrong"] else []
        if not work:
            return compared, refreshed, removed
        if passes > MISSING_PASSES:
            doubts.give_up(found["missing"])
        nodes_came_or_went = bool(found["missing"].get(NODES))
        for table, ids, gone in work:
            taken_out = _refresh(context, table, ids, gone)
            refreshed, removed = refreshed + len(ids), removed + taken_out
            nodes_came_or_went |= table == NODES and taken_out > 0
        # Edges and turns hang on nodes: when one came or went, all is compared, else just the refreshed rows.
        whole = nodes_came_or_went or found["wrongs"] > len(found["wrong"])
        found = _ask(context, {}) if whole else _ask_again(context, found)
        compared.update({name: rows for name, rows in found["compared"].items() if not found["partly"]})


def _ask_again(context: Context, found: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the rows that were refreshed."""
    merged: dict[str, Any] = {
        "compared": {},
        "changed": {},
        "missing": {},
        "removed": {},
        "damaged": [],
        "damages": 0,
        "wrong": [],
        "wrongs": 0,
    }
    for table, ids, _ in _refreshing(found):
        if not ids:
            continue
        part = _ask(context, {"table": table, "ids": ids})
        for name in ("changed", "missing", "removed"):
            for key, values in part[name].items():
                merged[name].setdefault(key, []).extend(values)
        for name in ("damaged", "damages", "wrong", "wrongs"):
            merged[name] += part[name]
    return {**merged, "partly": True}


def _ask(context: Context, facts: Mapping[str, Any]) -> dict[str, Any]:
    def job(number: int) -> Job:
        rows, size = context.plan.chunk_rows >> number, context.plan.compared_bytes >> number
        bounds = context.bounds()
        return context.job(Task.VERIFY, bounds=bounds, chunk_rows=rows, chunk_bytes=size, **facts)

    answer = batch_retry.attempt_reading(context, job)
    context.note_counts(answer.facts["counts"])
    context.state.free_bytes = answer.facts["free_bytes"]
    if facts:
        context.confirmed |= set(answer.facts["rejected"])
    else:
        context.confirmed = set(answer.facts["rejected"])
        keep_confirmed(context)
    return {**answer.facts, "partly": bool(facts)}


def _refreshing(found: Mapping[str, Any]) -> Iterator[tuple[str, list[int], list[int]]]:
    """What is to be brought up to date: table, ids that changed or are missing, ids that are gone. Nodes first."""
    for name in TARGET_TABLES:
        wrong = (key for table, key, _ in found["wrong"] if table == name)
        ids = sorted({*found["changed"].get(name, ()), *found["missing"].get(name, ()), *wrong})
        gone = found["removed"].get(name, [])
        for start in range(0, max(len(ids), len(gone)), REFRESH_ROWS):
            yield name, ids[start : start + REFRESH_ROWS], gone[start : start + REFRESH_ROWS]


def _refresh(context: Context, table: str, ids: list[int], gone: list[int]) -> int:
    """Bring rows up to date; return how many were taken out, which may be more than were known to be gone."""

    def job(halvings: int) -> Job:  # what a smaller one leaves out, the next comparison finds again
        return context.job(Task.REFRESH, table=table, ids=ids[: max(1, len(ids) >> halvings)], removed=gone)

    while True:
        try:
            answer = batch_retry.attempt(context, job)
        except worker_failure.ExhaustedError as failure:
            if not bisect.isolate_ids(context, table, ids, failure):
                raise
        else:
            return int(answer.facts["removed"])


def _raise_for_damage(context: Context, found: Mapping[str, Any]) -> None:
    """Raise for what no refresh fixes: a file that contradicts itself, or any difference an earlier run left."""
    places, count = list(found["damaged"]), found["damages"]
    if context.adopted:
        places, count = places + found["wrong"], count + found["wrongs"]
    if not count:
        return
    named = "; ".join(f"{table} id {key}: {column}" for table, key, column in places[:NAMED])
    if count > NAMED:
        named += f"; and {count - NAMED} more"
    raise _difference(context, f"differs from the source in {count} places ({named})")


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
            "has lost: keep a copy of it, then start over with --restart"
        )
    return batch_retry.UnreadableError(WorkerResult(FailureKind.DAMAGED, f"left by an earlier run, it {what}"))


class Doubts:
    """Values that came back otherwise than they were written.

    They are written again first. One that comes back otherwise once more is set aside alone, and its row whole where
    that does not help either.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._heard: set[tuple[str, int, str]] = set()
        self._rows: dict[tuple[str, int], str] = {}  # to be set aside whole

    def hear(self, wrong: Sequence[tuple[str, int, str]]) -> None:
        """Take note of what a comparison found, and decide what becomes of it when it is written again."""
        found = {(table, key, column) for table, key, column in wrong}
        fresh = found - self._heard
        if fresh:
            self._context.listener(WrittenAgain(len(fresh), _named(sorted(fresh))))
        for table, key, column in sorted(found & self._heard):
            what = f"{column}: it comes back as another value, each time that it is written"
            if self._is_left_out(table, key):
                raise _difference(self._context, f"differs from the source ({table} id {key}: {what})")
            self._refuse(table, key, column, what)
        for (table, key), what in self._rows.items():
            self._leave_out(table, key, what)
        self._rows.clear()
        self._heard |= found

    def give_up(self, missing: Mapping[str, Sequence[int]]) -> None:
        """Set rows aside that were written again and again, and are never there."""
        for table, keys in missing.items():
            for key in keys:
                if self._is_left_out(table, key):
                    raise _difference(self._context, f"does not keep {table} id {key}")
                self._leave_out(table, key, "the target does not keep it")

    def _leave_out(self, table: str, key: int, what: str) -> None:
        self._set_aside(table, key, "row", what)
        self._context.isolated.setdefault(table, {})[key] = self._failed(what)

    def _is_left_out(self, table: str, key: int) -> bool:
        return key in self._context.isolated.get(table, ())

    def _refuse(self, table: str, key: int, column: str, what: str) -> None:
        """Leave the value out from now on; the whole row, where that was done or cannot be."""
        columns = self._context.refused.setdefault(table, {}).setdefault(key, {})
        if (table == EDGES and column.lower() in EDGE_ENDS) or column in columns:
            self._rows.setdefault((table, key), what)
            return
        self._set_aside(table, key, column, what)
        columns[column] = self._failed(what)

    def _failed(self, what: str) -> Failed:
        return what, TRIES, self._context.engine_name()

    def _set_aside(self, table: str, key: int, part: str, what: str) -> None:
        if self._context.settings.strict:
            raise RefusedError(
                f"stopped by --strict: {table} id {key}: {what}; write with another engine (--engine), or run without "
                "--strict"
            )
        self._context.listener(Refused(table, key, part, what))


def _named(places: Sequence[tuple[str, int, str]]) -> list[str]:
    return [f"{table} id {key}: {column}" for table, key, column in places[:NAMED]]


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

    A file of an earlier run is not started over for it: a count does not tell damage from rows that left the source.
    """
    parts = ((entry["table"], entry["part"]) for entry in entries(context.files.quarantining))
    aside = Counter(table for table, part in parts if part == "row" and table in TARGET_TABLES)
    for table in context.survey.schema.tables():
        rows = context.survey.tables[table.name].rows
        # Rows that salvaging could not copy are listed too, and are none of the copy's rows.
        whole = aside[table.name] - sum(
            reject.table == table.name and reject.part == "row" for reject in context.memory.rejects
        )
        counted = context.counted.get(TARGET_TABLES[table.name], 0)
        now = _rows_now(context, table.name, table.key)
        # The source may have lost or gained rows below the bound meanwhile, before they were copied or after.
        if not min(rows, now) <= counted + whole <= max(rows, now):
            raise DifferenceError(
                f"{table.name} has {rows} rows, of which {counted} are in the target and {whole} in quarantine; "
                "nothing was published. Compare every row with --verify full, or start over with --restart"
            )
    return {name: context.counted.get(target, 0) for name, target in TARGET_TABLES.items()}


def _rows_now(context: Context, table: str, key: str) -> int:
    bound = context.survey.tables[table].last
    query = f"SELECT count(*) FROM {sql_name(table)} WHERE {sql_name(key)} <= ? OR typeof({sql_name(key)}) <> 'integer'"
    return context.source.number(query, bound)
