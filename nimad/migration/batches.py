"""Loading in batches, table by table; each batch is counted by the next process."""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from nimad.errors import StoppedError
from nimad.events.run import BatchLoaded, BatchLost, EngineComplained, TableLoaded
from nimad.host import machine
from nimad.migration import batch_retry, bisect, compact
from nimad.migration.context import Context
from nimad.source.ranges import Range, next_range
from nimad.source.schema import NODES, TARGET_TABLES, TURNS, Table
from nimad.source.sql import sql_name
from nimad.supervisor import worker_failure
from nimad.supervisor.outcome import FailureKind, WorkerResult
from nimad.supervisor.plan import LIGHT_ROWS, SPOOL_FACTOR, batch_disk, rewritten
from nimad.worker.protocol import Job, Task

#: How often batches may be found missing before the machine, and not chance, is to blame.
LOSSES_ALLOWED = 5


@dataclass(frozen=True)
class Part:
    """A range that a worker put into the target, and how many of its rows the next process must find there."""

    range: Range
    held: Mapping[str, int]
    seconds: float
    peak_rss: int
    before: int = 0  # rows of the table up to the range, which were there already


#: Ranges that one worker loads, each with the rows of its table up to there, which were there already.
Along = Mapping[Range, int]


class Loader:
    """Loads the tables in order, and redoes a batch that the next process does not find."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._unconfirmed: Sequence[Part] = ()
        self._along: dict[str, Part] = {}  # by table, what was brought along with the last nodes
        self._rows = context.plan.proven_size(context.counted.get(TARGET_TABLES[NODES], 0))
        self._offset = 0
        self._losses = 0

    def load_all(self) -> None:
        """Bring every row up to the run's bounds into the staging file, counted but for the last batch."""
        for table in self._context.survey.schema.tables():
            with self._context.phase(f"loading {table.name}"):
                self._load_table(table)

    def confirm_last(self) -> None:
        """Have a fresh process count the staging file, and find the latest batch in it."""
        context = self._context
        while True:
            parts, self._unconfirmed = self._unconfirmed, ()
            count = context.job(Task.COUNT, previous=[part.range for part in parts], unfinished=True)
            answer = batch_retry.attempt_reading(context, batch_retry.same(count))
            context.note_counts(answer.facts["counts"])
            context.state.free_bytes = answer.facts["free_bytes"]
            if self._confirmed(parts, answer.facts["previous"]):
                return

    def _confirmed(self, parts: Sequence[Part], found: Mapping[str, int]) -> bool:
        """Whether a later process found all of a batch; a part that it did not find is done again."""
        lost = [part for part in parts if any(found[name] != rows for name, rows in part.held.items())]
        for part in lost:
            self._count_loss(part, found)
            self._redo(part.range)
        return not lost

    def _count_loss(self, part: Part, found: Mapping[str, int]) -> None:
        context, name = self._context, TARGET_TABLES[part.range.table]
        context.listener(BatchLost(part.range.table, part.held[name], found[name]))
        context.state.retries += 1
        self._losses += 1
        if self._losses > LOSSES_ALLOWED:
            raise StoppedError(
                f"batches of {part.range.table} keep vanishing after they were written; check the disk "
                "(dmesg), then run again"
            )
        self._rows = context.plan.first_batch

    def _redo(self, lost: Range) -> None:
        """Load a whole range again, in as many parts as it takes."""
        table, after = self._context.survey.schema.table(lost.table), lost.after
        while (part := self._cut(table, after, lost.upto, max(1, lost.rows))) is not None:
            after = self._load_range(part, strays=False).range.upto

    def _load_table(self, table: Table) -> None:
        context = self._context
        extent = context.survey.tables[table.name]
        along = self._along.pop(table.name, None)
        after, done = self._resume_point(table) if along is None else (None, along.before)
        began, done_before = time.monotonic(), done
        number = 0
        # An empty memory is loaded too: somebody has to make the tables.
        strays = extent.strays > 0 or "MemoryNode" not in context.counted
        while extent.last is not None or strays:
            if along is None:
                wanted = self._next(table, after, extent.last, extent.rows - done)
                if wanted is None:
                    if not strays:
                        break
                    wanted = Range(table.name, extent.last, extent.last or 0, 0, 0)  # empty: only the strays
                part = self._load_range(wanted, strays=strays, along=self._companions(wanted))
            else:
                part, along = along, None
                context.clock_instead(f"loading {table.name}", part.seconds, f"loading {NODES}")
            strays = False
            after, done, number = part.range.upto, min(done + part.range.rows, extent.rows), number + 1
            self._check_shrunk(table, after)
            rate = (done - done_before) / max(time.monotonic() - began, part.seconds, 1e-6)
            self._report(table, part, number, done, rate)
        counted = context.counted.get(TARGET_TABLES[table.name], 0)
        context.listener(TableLoaded(table.name, counted, extent.rows))

    def _check_shrunk(self, table: Table, upto: int) -> None:
        """Hold what is copied against what the source still has up to there."""
        target = TARGET_TABLES[table.name]
        copied = self._context.counted.get(target, 0)
        last = max(upto, self._context.last_keys.get(target, upto))  # a table that is judged anew starts over
        self._context.check_shrunk(table.name, copied - self._rows_up_to(table, last), copied)

    def _rows_up_to(self, table: Table, last: int) -> int:
        key = sql_name(table.key)
        query = f"SELECT count(*) FROM {sql_name(table.name)} WHERE typeof({key}) = 'integer' AND {key} <= ?"
        self._context.check_source()
        return self._context.source.number(query, last)

    def _resume_point(self, table: Table) -> tuple[int | None, int]:
        """The key up to which the count accounts for every row of the source, and how many rows that is.

        Turns start over, because their links are tables of their own, and so do tables of which something is in
        quarantine: what the agent corrected since goes through. Doing a range again costs little, harms nothing.
        """
        context = self._context
        last = context.last_keys.get(TARGET_TABLES[table.name])
        if last is None or table.name == TURNS or table.name in context.redone:
            return None, 0
        rows = self._rows_up_to(table, last)
        return (last, rows) if context.counted.get(TARGET_TABLES[table.name], 0) == rows else (None, 0)

    def _next(self, table: Table, after: int | None, last: int | None, left: int) -> Range | None:
        return None if last is None else self._cut(table, after, last, self._context.plan.take(left, self._size(table)))

    def _size(self, table: Table) -> int:
        """Rows of the next batch: those of a node batch, or the many more edges or turns that weigh no more."""
        return self._rows * (1 if table.name == NODES else LIGHT_ROWS)

    def _cut(self, table: Table, after: int | None, last: int, rows: int) -> Range | None:
        limit = self._context.plan.batch_bytes
        self._context.check_source()
        return self._context.source.read(lambda c: next_range(c, table, after, last, rows, limit))

    def _companions(self, wanted: Range) -> Along:
        """What goes along with the last nodes: edges and turns, where all that is left of them is one batch.

        A process for each would cost more than they do.
        """
        context, along = self._context, {}
        if wanted.table != NODES or wanted.upto != context.survey.nodes.last:
            return {}
        for table in context.survey.schema.tables():
            extent = context.survey.tables[table.name]
            if table.name == NODES or extent.last is None or extent.strays:
                continue
            after, before = self._resume_point(table)
            rest = self._next(table, after, extent.last, extent.rows - before)
            if rest is None or rest.upto != extent.last:
                return {}
            along[rest] = before
        return along

    def _load_range(self, wanted: Range, *, strays: bool, along: Along = MappingProxyType({})) -> Part:
        """Load a range, without the rows that take workers down, or its first part. Return what was done at last."""
        context = self._context
        while True:
            try:
                return self._try_range(wanted, strays=strays, along=along)
            except worker_failure.ExhaustedError as failure:
                along = {}
                context.state.failed_batches += 1
                if failure.answer.kind is FailureKind.LOCKED:  # no row's doing, and no smaller batch's
                    raise
                if not bisect.isolate_range(context, wanted, failure):
                    wanted = self._half(wanted, failure)
            context.state.write()

    def _half(self, failed: Range, failure: worker_failure.ExhaustedError) -> Range:
        """The first half of a range whose rows are not to blame. Raises `failure` when there is no smaller one."""
        self._rows = max(1, failed.rows // 2)
        table = self._context.survey.schema.table(failed.table)
        half = self._cut(table, failed.after, failed.upto, self._rows) if failed.rows > 1 else None
        if half is None:
            raise failure
        return half

    def _try_range(self, wanted: Range, *, strays: bool, along: Along) -> Part:
        """Load a range in one of four tries; where the end of one asks for it, the next takes half the rows."""
        context, ranges = self._context, {wanted: 0, **along}
        table = context.survey.schema.table(wanted.table)
        tries = itertools.count()

        def job(halvings: int) -> Job:
            nonlocal ranges
            # What is to blame is found sooner without the others; and nodes are to go as far as the room reaches.
            if next(tries) or machine.free_disk(context.files.staging.parent) < self._disk_for(ranges):
                self._rows = max(1, wanted.rows >> halvings) if halvings else self._rows
                smaller = self._cut(table, wanted.after, wanted.upto, self._rows) if halvings else None
                ranges = {smaller or wanted: 0}
            context.state.write()
            self._see_to_room(ranges)
            did, *then = ranges
            before = [part.range for part in self._unconfirmed]
            spool = self._may_spool(did, self._disk_for(ranges))
            return context.job(Task.LOAD, range=did, then=then, previous=before, strays=strays, spool=spool)

        retries = context.state.retries
        answer = batch_retry.attempt(context, job, offset=self._offset)
        return self._settle(answer, ranges, healthy=context.state.retries == retries)

    def _see_to_room(self, ranges: Along) -> None:
        """Raise `DiskError` where a batch has no room, not even once the staging file is copied without its holes."""
        context = self._context
        needed = self._disk_for(ranges)
        if machine.free_disk(context.files.staging.parent) < needed:
            compact.make_room(context)
        context.check_disk(needed, "the next batch")

    def _may_spool(self, did: Range, needed: int) -> bool:
        """Whether a batch's rows may wait in a file, and not in memory: there is room for them a second time."""
        return machine.free_disk(self._context.files.staging.parent) >= needed + int(did.bytes * SPOOL_FACTOR)

    def _disk_for(self, ranges: Along) -> int:
        """Bytes of disk that a batch may take: of a range that is done again, only what is not there yet."""
        context = self._context
        used = machine.space_used(context.files.staging, context.state.free_bytes)
        needed = 0
        for each in ranges:
            missing = context.survey.tables[each.table].rows - context.counted.get(TARGET_TABLES[each.table], 0)
            fresh = min(each.rows, max(0, missing))
            again = rewritten(context.survey, each.table, used) if fresh else 0
            needed += batch_disk(again, each.bytes * fresh // max(1, each.rows))
        return needed

    def _settle(self, answer: WorkerResult, ranges: Along, *, healthy: bool) -> Part:
        """Take in what a worker says it did, see whether it found the batch before, and return the first part."""
        context, facts = self._context, answer.facts
        parts = [
            Part(each, told["held"], told["seconds"], facts["peak_rss"], before)
            for (each, before), told in zip(ranges.items(), facts["parts"], strict=True)
        ]
        unconfirmed, self._unconfirmed = self._unconfirmed, parts
        if facts["complaint"]:
            context.complaint = facts["complaint"]
            context.listener(EngineComplained(facts["complaint"]))
        context.note_staging(facts["found"])
        context.state.free_bytes = facts["free_bytes"]
        for told in facts["parts"]:
            for name, rows in told["loaded"].items():
                context.counted[name] = context.counted.get(name, 0) + rows
        context.batches += len(parts)
        context.batch_s += facts["seconds"]
        context.state.engine = facts["engine"]
        first, *along = parts
        if healthy and first.range.table == NODES:
            self._rows = context.plan.next_size(self._rows)
        if not self._confirmed(unconfirmed, facts["previous"]):
            return self._without_nodes(first, facts["parts"][0]["rejected"])
        self._along.update({part.range.table: part for part in along})
        for told in facts["parts"]:
            context.confirmed.update(told["rejected"])
        return first

    def _without_nodes(self, first: Part, rejected: Sequence[str]) -> Part:
        """Do again what was loaded while nodes of the batch before were missing: an end without its node was set aside.

        What went along is just not noted, and so has its turn later.
        """
        if first.range.table == NODES:
            self._context.confirmed.update(rejected)
        else:
            self._redo(first.range)
        return first

    def _report(self, table: Table, part: Part, number: int, done: int, rate: float) -> None:
        context, state = self._context, self._context.state
        extent = context.survey.tables[table.name]
        self._offset = done
        left = extent.rows - done
        total = number + context.plan.batches_for(left, self._size(table))
        state.counts[table.name] = {"done": done, "of": extent.rows}
        state.batch, state.total_batches = number, total
        state.quarantined = len(context.confirmed)
        state.rows_per_s, state.eta_s = rate, left / rate if rate else 0.0
        state.write()
        counts = table.name, number, total, part.range.rows, done, extent.rows
        context.listener(BatchLoaded(*counts, state.eta_s, part.seconds, part.range.bytes, part.peak_rss))
