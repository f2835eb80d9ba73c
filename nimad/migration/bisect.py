"""Bisection: which rows take a worker down, and by which of their values.

Rows are tried in a target of their own that is thrown away each time, in halves of halves, until those that fail
stand alone; and so are the values of such a row, because a memory arrives without one value sooner than not at all.
That costs no space and no time in the staging file, and tells a row that cannot be loaded from a staging file that
cannot take any: what passes here was not the rows' fault.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from nimad.errors import RefusedError, StoppedError
from nimad.events.run import Isolated, Isolating
from nimad.host.disk import discard
from nimad.migration import batch_retry
from nimad.migration.context import Context
from nimad.source import rows as source_rows
from nimad.source.ranges import Range
from nimad.source.schema import EDGE_ENDS
from nimad.supervisor import worker_failure
from nimad.supervisor.outcome import CIRCUMSTANTIAL, Action, WorkerResult
from nimad.supervisor.retry import BATCH_DELAYS_S
from nimad.worker.protocol import Job, Task

#: Before the first row is blamed, so many others from all over a batch of at least that size have a try.
SAMPLE_ROWS = 8
SAMPLED_BATCH = 16
#: Seconds before each further try of a single row, when its failure may be the machine's, and when it hardly is.
CONFIRM_S = BATCH_DELAYS_S[1:]
CONFIRM_CRASH_S = BATCH_DELAYS_S[1:2]
#: Columns by which a row is known again, without which it is no row.
_TELLING_APART = frozenset({"turn_id", *EDGE_ENDS})
#: What a value is left out for while its row is tried.
_TRIED = ("tried", 0, "")


def isolate_range(context: Context, part: Range, failure: worker_failure.ExhaustedError) -> bool:
    """Find the rows of a range that take workers down, and note them for the quarantine; whether there are any."""
    table = context.survey.schema.table(part.table)
    known = context.isolated.get(part.table, {})
    ids = [key for key in context.source.read(lambda c: source_rows.keys_of(c, table, part)) if key not in known]

    def job(piece: Sequence[int]) -> Job:
        after = piece[0] - 1 if piece[0] > -(2**63) else None
        return _job(context, part.table, range=Range(part.table, after, piece[-1], len(piece), part.bytes))

    return _isolate(context, part.table, ids, job, failure)


def isolate_ids(context: Context, table: str, ids: Sequence[int], failure: worker_failure.ExhaustedError) -> bool:
    """The same for rows named by their ids."""
    known = context.isolated.get(table, {})
    rest = sorted(key for key in ids if key not in known)
    return _isolate(context, table, rest, lambda piece: _job(context, table, ids=list(piece)), failure)


def _job(context: Context, table: str, **facts: object) -> Job:
    return context.job(Task.TRIAL_LOAD, target=str(context.files.trial), table=table, **facts)


def _isolate(
    context: Context,
    table: str,
    ids: Sequence[int],
    job: Callable[[Sequence[int]], Job],
    failure: worker_failure.ExhaustedError,
) -> bool:
    if not ids:
        return False
    context.listener(Isolating(table, len(ids), failure.answer.message))
    try:
        return _Search(context, table, ids, job).find(failure.attempts)
    finally:
        discard(context.files.trial)


def _set_aside(context: Context, table: str, key: int, columns: Sequence[str], reason: str, attempts: int) -> None:
    """Note a row, or values of it, for the workers to leave out, and write that to the quarantine for later runs."""
    if context.settings.strict:
        raise RefusedError(
            f"stopped by --strict: {table} id {key} takes down every worker that loads it ({reason}); correct it "
            "in the source, or run without --strict"
        )
    failed = reason, attempts, context.engine_name()
    if columns:
        context.refused.setdefault(table, {}).setdefault(key, {}).update(dict.fromkeys(columns, failed))
    else:
        context.isolated.setdefault(table, {})[key] = failed
    # By a worker, because such a row may be larger than the supervisor is to become. One that fails is no loss: the
    # next that loads this range writes the same line.
    answer = batch_retry.quietly(context, context.job(Task.QUARANTINE, table=table, ids=[key]))
    if answer.ok:
        context.confirmed.update(answer.facts["rejected"])
    for part in columns or ("row",):
        context.listener(Isolated(table, key, reason, attempts, part))


class _Search:
    """One search through a batch that failed."""

    def __init__(self, context: Context, table: str, ids: Sequence[int], job: Callable[[Sequence[int]], Job]) -> None:
        self._context, self._table, self._ids, self._job = context, table, ids, job
        self._passed = 0

    def find(self, attempts: int) -> bool:
        """Set aside the rows that fail alone; whether there are any. `attempts`: of the whole batch before."""
        return self._find(self._ids, attempts)

    def _find(self, ids: Sequence[int], attempts: int) -> bool:
        answer, attempts = self._try(ids), attempts + 1
        if answer.ok:
            return False
        if len(ids) == 1:
            return self._found(ids, answer, attempts)
        half = len(ids) // 2
        in_first = self._find(ids[:half], attempts)
        return self._find(ids[half:], attempts) or in_first

    def _found(self, row: Sequence[int], answer: WorkerResult, attempts: int) -> bool:
        """Set aside what fails of a single row, unless it was chance, or nothing at all can be loaded."""
        for delay in CONFIRM_S if answer.kind in CIRCUMSTANTIAL else CONFIRM_CRASH_S:
            self._context.workers.pause(delay)
            answer, attempts = self._try(row), attempts + 1
            if answer.ok:
                return False
        if not self._passed:
            self._try_the_machine()
        _set_aside(self._context, self._table, row[0], self._guilty(row), answer.message, attempts)
        return True

    def _guilty(self, row: Sequence[int]) -> Sequence[str]:
        """The columns without whose values a row can be loaded, as few as it takes; none where none help."""
        table = self._context.survey.schema.table(self._table)
        guilty = [column.target for column in table.columns if column.name.lower() not in _TELLING_APART]
        if not self._try(row, without=guilty).ok:
            return ()
        while len(guilty) > 1:
            half = len(guilty) // 2
            parts = guilty[:half], guilty[half:]
            fewer = next((part for part in parts if self._try(row, without=part).ok), None)
            if fewer is None:
                break
            guilty = fewer
        for column in guilty if len(guilty) > 1 else ():  # several values, or two that do it together
            others = [each for each in guilty if each != column]
            guilty = others if others and self._try(row, without=others).ok else guilty
        return guilty

    def _try(self, ids: Sequence[int], *, without: Sequence[str] = ()) -> WorkerResult:
        """Load rows into a target of their own; one row also without the values of some columns."""
        discard(self._context.files.trial)
        job = self._job(ids)
        if without:
            refused = {**self._context.refused.get(self._table, {}).get(ids[0], {}), **dict.fromkeys(without, _TRIED)}
            job = replace(job, refused={self._table: {ids[0]: refused}})
        answer = self._context.do(job)
        if answer.ok:
            self._passed += 1
        elif answer.rule.action is Action.STOP:
            raise worker_failure.error_of(answer)
        return answer

    def _try_the_machine(self) -> None:
        """No row has passed yet: a machine on which nothing works is not to be taken for bad rows."""
        discard(self._context.files.trial)
        answer = self._context.do(_job(self._context, self._table))
        if not answer.ok:
            self._blame_the_machine(answer)
        if len(self._ids) < SAMPLED_BATCH:
            return
        for key in self._ids[1 :: len(self._ids) // SAMPLE_ROWS]:
            answer = self._try([key])
            if answer.ok:
                return
        self._blame_the_machine(answer)

    def _blame_the_machine(self, answer: WorkerResult) -> None:
        raise StoppedError(
            f"batches of {self._table} fail at every size ({answer.message}), so it is this machine and not a row: "
            "free some memory and look for errors in its journal (dmesg)"
        )
