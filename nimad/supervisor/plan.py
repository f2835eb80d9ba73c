"""The plan: every limit of a run, derived from machine and data, and printed before the run starts.

docs/PLAN.md says where the factors come from.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nimad.config import Settings
from nimad.errors import CannotWriteError, RefusedError
from nimad.host import machine
from nimad.source.schema import NODES, ValueKind, is_own
from nimad.source.survey import Survey
from nimad.worker.protocol import JobLimits

MIB = 1024**2
GIB = 1024**3

#: A healthy batch is followed by one this many times as large: small fixed batches cost O(n²).
GROWTH = 20
#: A rest of up to this share of a batch goes with it: each batch rewrites all that are there before it.
TAIL = 1.5
#: Rows of one node group: a larger batch would rewrite nothing less.
NODE_GROUP_ROWS = 131_072
#: An edge or a turn weighs at most this share of a node (some 100 bytes against some 8 kB).
LIGHT_ROWS = 16
#: COPY of everything at once needs about five times the rows' bytes as buffer pool.
POOL_FACTOR = 5
POOL_BASE = 64 * MIB
POOL_FLOOR = 128 * MIB
#: Share of the free memory that the engine's pool takes at first.
POOL_SHARE = 2
#: A pool that was too small is followed by one this many times as large, up to what the memory allows.
POOL_STEP = 2
#: The pool for working in a finished target, against its file: a checkpoint after a new memory and a changed text takes
#: between 5 and 6 times the file (9,770 nodes, 61 MB). What is not needed is not taken.
FILE_POOL_FACTOR = 7
#: In batches, the pool has to hold the node group that a checkpoint rewrites, whatever the batch: this many times the
#: rows' bytes in it.
GROUP_FACTOR = 3.8
#: Bytes of the pool for each row that a node group may have, of a column of the user's own: a text, and anything else.
#: So much takes any COPY into it, of however few rows (measured: from 0.18 on; 0.15.3).
COLUMN_LEAST = (4.5, 9)
COLUMN_COMFORTABLE = (8, 13)
#: On pages above 4 KiB a checkpoint finds the pool full unless it is this much larger than the file, and scattered
#: access charges whole pages.
LARGE_PAGE_FACTOR = 1.7
SMALL_PAGE = 4096
#: What a worker takes without pool and batch, and what the supervisor has taken when the plan is made.
WORKER_BASE = 80 * MIB
SUPERVISOR = 36 * MIB
#: What a batch takes beside the pool, against its bytes.
BATCH_FACTOR = 7.3
LEAST_BATCH = MIB
#: Share of the free memory that a batch's rows may take.
BATCH_SHARE = 16
#: Memory and pool that a compaction takes, against the rows' bytes.
COMPACTION_FACTOR = 7
COMPACTION_POOL_FACTOR = 5
#: A worker that waits for its turn; kept only where that much more is free.
WAITING_WORKER = 64 * MIB
#: While a batch of more bytes than these is loaded none waits: by far the longest and largest of a run's jobs.
ALONE_BYTES = 16 * MIB
#: Address space: enough for the file many times over, small enough for a 36-bit kernel.
ADDRESS_SPACE_FLOOR = 16 * GIB
ADDRESS_SPACE_FACTOR = 64
#: Share of a limit on our address space (`ulimit -v`) that the engine's file takes.
ADDRESS_SPACE_SHARE = 2
MAX_THREADS = 4
#: Rows and bytes that are read at once where a batch waits in a file.
CHUNK_ROWS = 8_192
CHUNK_BYTES = 4 * MIB
#: Bytes that verification holds of each side at once, and the share of the free memory that they may take: for each
#: chunk the engine reads all rows of the vectors, of 2,048 rows, in which some of it are.
COMPARED_BYTES = 16 * MIB
COMPARED_SHARE = 64
#: Disk against the rows' bytes: the file with few holes, what each further batch adds in holes, the rest.
DISK_FACTOR = 1.5
DISK_PER_BATCH = 0.35
DISK_BATCHES_FREE = 3
DISK_BASE = 32 * MIB
BATCH_DISK_BASE = 8 * MIB
#: Disk for rows that wait in a file while they are copied, against their bytes; without it they wait in memory.
SPOOL_FACTOR = 1.1
#: Of what a checkpoint may write anew, the share that the file grows by: the pages given back hardly serve again.
REWRITTEN_SHARE = 0.65
#: Bytes that the tables of edges and links take for each node, whatever hangs on it.
LINK_BYTES = 32
#: Disk that a compaction takes against the compact size: Parquet files and the new file, both at once.
COMPACTION_DISK_FACTOR = 2.2


@dataclass(frozen=True)
class Plan:
    """Numbers of one run. Sizes in bytes."""

    first_batch: int
    largest_batch: int
    growth: int
    batch_bytes: int
    total_batches: int  # of nodes, if all go well
    pool_bytes: int
    pool_limit: int  # to which it may be raised
    address_space_bytes: int
    threads: int
    page_bytes: int
    memory_available: int
    memory_needed: int
    memory_limit: int | None  # what --max-memory allows supervisor and worker together
    early_worker: bool  # whether the next worker starts while one works
    chunk_rows: int
    chunk_bytes: int
    compared_bytes: int
    disk_needed: int  # beyond what an unfinished target takes already
    disk_free: int
    disk_anew: int  # that starting over takes
    disk_held: int = 0  # by an unfinished target, holes and all
    compact_first: bool = False  # the unfinished target is copied without its holes before anything is added
    disk_cause: str = ""  # the option without which much less would do

    @property
    def worker_bytes(self) -> int:
        """Memory that a worker may come to by this plan: its pool full, and a whole batch beside it."""
        return min(WORKER_BASE + self.pool_bytes + int(BATCH_FACTOR * self.batch_bytes), self.memory_available)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "worker_bytes": self.worker_bytes}

    def check_disk(self, folder: Path) -> None:
        """Raise `CannotWriteError` when there is too little room for what is not there yet."""
        if self.disk_free < self.disk_needed and not self.compact_first:
            what = "going on needs up to" if self.disk_held else "the migration needs"
            because = f" because of {self.disk_cause}" if self.disk_cause else ""
            restart = self.restart_hint(self.disk_free, self.disk_held)
            raise CannotWriteError(
                f"{folder} has {self.disk_free // 10**6} MB free, {what} {self.disk_needed // 10**6} MB{because}"
                f"{restart}; make room, or choose another place with --target"
            )

    def restart_hint(self, free: int, held: int) -> str:
        """That starting over would fit, where it does, when an unfinished target takes up `held` bytes."""
        if not held or self.disk_anew > free + held:
            return ""
        return (
            f" (starting over with --restart needs {self.disk_anew // 10**6} MB, and once the unfinished target is "
            f"thrown away, {(free + held) // 10**6} MB are free)"
        )

    def going_on(self, taken: int, used: int, left: Mapping[str, tuple[int, int]], survey: Survey) -> "Plan":
        """The plan for an unfinished target that takes `taken` bytes of disk, `used` of them for what it holds.

        `left`: rows and bytes of each table that are not in it yet. Holes inside the file are not counted as room:
        the column that a checkpoint writes anew is larger than any of them.
        """
        needed = self._disk_for(used, left, survey)
        memory, _ = compaction_needs(survey.row_bytes)
        copies = memory <= self.memory_available and compaction_disk(used) <= self.disk_free
        return replace(
            self,
            disk_needed=needed,
            disk_held=taken,
            compact_first=copies and self.disk_free < needed <= self.disk_free + taken - used,
        )

    def _disk_for(self, used: int, left: Mapping[str, tuple[int, int]], survey: Survey) -> int:
        """Bytes that the batches to come take, as each is checked before it begins."""
        grown, most, size = 0, 0, self.proven_size(survey.nodes.rows - left[NODES][0])
        for name, (all_rows, all_bytes) in left.items():
            rows, weight = all_rows, all_bytes
            while rows > 0:
                light = 1 if name == NODES else LIGHT_ROWS
                within = max(1, rows * self.batch_bytes // max(1, weight))
                batch = min(rows, within, self.take(rows, size * light))
                part = weight * batch // rows
                again = rewritten(survey, name, used)
                most = max(most, grown + batch_disk(again, part))
                grown, used = grown + part + int(again * REWRITTEN_SHARE), used + part
                rows, weight = rows - batch, weight - part
                size = self.next_size(size) if name == NODES else size
        return max(most, BATCH_DISK_BASE)

    def check_memory(self) -> None:
        """Raise `RefusedError` when the engine cannot work within the memory there is."""
        if self.memory_available < self.memory_needed:
            enough = -(-(self.memory_needed + SUPERVISOR) // MIB)
            needs = f"the engine needs about {self.memory_needed // 10**6} MB for a memory of this size"
            available = f"{max(0, self.memory_available) // 10**6} MB"
            if self.memory_limit is None:
                what = f"{available} of memory are free, and {needs}; close programs, give the machine or the service "
                cure = f"more memory, or name what it may take with --max-memory {enough}M"
            else:
                limit = f"--max-memory {self.memory_limit // MIB}M ({self.memory_limit // 10**6} MB)"
                what = f"{limit} leaves {available} beside the {SUPERVISOR // 10**6} MB of this program itself, "
                cure = f"and {needs}; allow more with --max-memory {enough}M"
            raise RefusedError(f"{what}{cure}; --force tries all the same")

    def pool_for(self, file: int, pool: int) -> int:
        """The pool for work on a file of so many bytes, when `pool` is what the run is at."""
        if self.page_bytes > SMALL_PAGE:
            pool = max(pool, min(int(file * LARGE_PAGE_FACTOR) + POOL_BASE, self.pool_limit))
        return pool

    def next_size(self, rows: int) -> int:
        """Rows of the batch after a healthy one of `rows`."""
        return min(rows * GROWTH, self.largest_batch)

    def proven_size(self, rows: int) -> int:
        """Rows of the last batch that went through when `rows` are there, had nothing gone wrong.

        A run that goes on begins with it: small batches cost most once much is there, and what ended the run before
        may have been the size that came next.
        """
        size = self.first_batch
        while (rows := rows - size) >= (following := self.next_size(size)) > size:
            size = following
        return size

    def take(self, left: int, size: int) -> int:
        """Rows of the next batch when `left` are to come: a short tail goes with the batch before it."""
        tail = self.growth > 1 and 0 < left <= min(size * TAIL, self.largest_batch)
        return left if tail else size

    def batches_for(self, rows: int, size: int) -> int:
        """How many batches `rows` will take when the first has `size`, all going well."""
        batches = 0
        while rows > 0:
            rows -= self.take(rows, size)
            size = self.next_size(size)
            batches += 1
        return batches


def make_plan(settings: Settings, survey: Survey) -> Plan:
    limited = settings.memory_limit
    available = machine.available_memory() if limited is None else limited - SUPERVISOR
    page = machine.page_bytes()
    least = _least_pool(survey, page)
    outside = WORKER_BASE + int(BATCH_FACTOR * LEAST_BATCH)
    limit = max(least, available - outside)
    pool = min(limit, max(least, _comfortable_pool(survey, page, available)))
    largest = settings.max_batch_size or max(settings.batch_size, NODE_GROUP_ROWS)
    draft = Plan(
        first_batch=settings.batch_size,
        largest_batch=settings.batch_size if settings.fixed_batch else largest,
        growth=1 if settings.fixed_batch else GROWTH,
        batch_bytes=_batch_bytes(pool, available),
        total_batches=0,
        pool_bytes=pool,
        pool_limit=limit,
        address_space_bytes=_address_space(survey.size, machine.address_space()),
        threads=1 if settings.priority == "low" else min(machine.processors(), MAX_THREADS),
        page_bytes=page,
        memory_available=available,
        memory_needed=least + outside,
        memory_limit=limited,
        early_worker=available >= pool + outside + WAITING_WORKER,
        chunk_rows=CHUNK_ROWS,
        chunk_bytes=(chunk := max(MIB, min(CHUNK_BYTES, available // BATCH_SHARE))),
        compared_bytes=max(chunk, min(COMPARED_BYTES, available // COMPARED_SHARE)),
        disk_needed=0,
        disk_free=machine.free_disk(_existing(settings.target.parent)),
        disk_anew=0,
    )
    total = _batches(draft, survey)
    needed = _disk(survey.row_bytes, total)
    cause = _disk_cause(settings, draft, survey)
    return replace(draft, total_batches=total, disk_needed=needed, disk_anew=needed, disk_cause=cause)


def _batches(plan: Plan, survey: Survey) -> int:
    by_bytes = -(-survey.nodes.bytes // plan.batch_bytes)
    return max(by_bytes, plan.batches_for(survey.nodes.rows, plan.first_batch))


def _disk(row_bytes: int, batches: int) -> int:
    """Every checkpoint rewrites the node group that is filling, and what it leaves is hardly used again."""
    holes = DISK_PER_BATCH * max(0, batches - DISK_BATCHES_FREE)
    return int(row_bytes * (DISK_FACTOR + holes)) + DISK_BASE


def _disk_cause(settings: Settings, plan: Plan, survey: Survey) -> str:
    """The option that holds batches so small that much more disk is needed for it, and what would do without."""
    free = replace(plan, largest_batch=max(plan.first_batch, NODE_GROUP_ROWS), growth=GROWTH)
    batches = _batches(free, survey)
    if _batches(plan, survey) <= batches:
        return ""
    option = f"--fixed-batch {plan.first_batch}" if settings.fixed_batch else f"--max-batch-size {plan.largest_batch}"
    return f"{option}, without which {_disk(survey.row_bytes, batches) // 10**6} MB would do"


def rewritten(survey: Survey, table: str, used: int) -> int:
    """Bytes that the checkpoint after a batch of a table may write anew, in a file whose pages hold `used` bytes.

    For nodes, all columns of the group that is filling. Edges and turns leave those alone: only their own tables.
    """
    if table == NODES:
        return used
    return min(used, int(survey.tables[table].bytes * DISK_FACTOR) + survey.nodes.rows * LINK_BYTES)


def batch_disk(again: int, rows: int) -> int:
    """Bytes of disk that a batch of so many bytes may take: its rows, and what a checkpoint writes anew with them."""
    return again + int(rows * DISK_FACTOR) + BATCH_DISK_BASE


def compaction_disk(compact: int) -> int:
    """Bytes of disk that copying a file of so many bytes takes, its holes not counted."""
    return int(compact * COMPACTION_DISK_FACTOR)


def compaction_needs(row_bytes: int) -> tuple[int, int]:
    """Bytes of memory, and of pool, that copying the whole target takes."""
    pool = POOL_BASE + COMPACTION_POOL_FACTOR * row_bytes
    outside = WORKER_BASE + int(BATCH_FACTOR * LEAST_BATCH)
    return max(WORKER_BASE + COMPACTION_FACTOR * row_bytes, pool + outside), pool


def _batch_bytes(pool: int, available: int) -> int:
    beside_the_pool = int((available - WORKER_BASE - pool) / BATCH_FACTOR)
    return max(LEAST_BATCH, min(pool // POOL_FACTOR, available // BATCH_SHARE, beside_the_pool))


def _comfortable_pool(survey: Survey, page: int, available: int) -> int:
    """What one COPY of everything needs, within a fair share of the memory."""
    rows = POOL_FACTOR * survey.row_bytes * page // SMALL_PAGE
    wanted = POOL_BASE + rows + _of_columns(survey, COLUMN_COMFORTABLE)
    return max(POOL_FLOOR, min(wanted, available // POOL_SHARE))


def _least_pool(survey: Survey, page: int) -> int:
    """What the checkpoints of small batches need."""
    groups = max(1.0, survey.nodes.rows / NODE_GROUP_ROWS)
    columns = _of_columns(survey, COLUMN_LEAST)
    least = max(POOL_BASE, int(GROUP_FACTOR * survey.row_bytes / groups)) + columns
    if page > SMALL_PAGE:
        least = max(least, POOL_BASE + columns + int(LARGE_PAGE_FACTOR * survey.row_bytes))
    return least


def _of_columns(survey: Survey, bytes_a_row: tuple[float, float]) -> int:
    """Bytes of the pool for the user's own columns, of the table that has the most."""
    text, other = bytes_a_row
    widths = [
        sum(
            text if column.kind in (ValueKind.STRING, ValueKind.BLOB) else other
            for column in table.columns
            if is_own(table, column)
        )
        for table in survey.schema.tables()
    ]
    return int(NODE_GROUP_ROWS * max(widths))


def _address_space(size: int, limit: int | None) -> int:
    space = ADDRESS_SPACE_FLOOR
    while space < ADDRESS_SPACE_FACTOR * size:
        space *= 2
    while limit is not None and space > limit // ADDRESS_SPACE_SHARE:
        space //= 2
    return space


def limits_for(file: int, memory_limit: int | None = None, *, grown: int = 1) -> JobLimits:
    """What the engine may take for a target of so many bytes that is there already.

    `grown`: by how much more the pool is to be than usual, after one that was full; then up to what the memory allows.
    """
    free = machine.available_memory() if memory_limit is None else memory_limit - SUPERVISOR
    most = free // POOL_SHARE if grown == 1 else free - WORKER_BASE
    return JobLimits(
        pool_bytes=max(POOL_FLOOR, min(file * FILE_POOL_FACTOR * grown, most)),
        address_space_bytes=_address_space(file, machine.address_space()),
        threads=min(machine.processors(), MAX_THREADS),
    )


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)
