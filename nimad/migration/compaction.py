"""Compaction: a staging file with many holes is copied without them, when that wins something."""

import shutil

from nimad.disk import discard, export_folder, is_closed, sync
from nimad.migration import machine, retry
from nimad.migration.context import Context
from nimad.migration.events import Compacted, NotCompacted
from nimad.migration.plan import compaction_needs
from nimad.worker.job import Task

#: A file larger than this many times its compact self is copied.
WORTHWHILE = 1.25
#: Below this, in bytes, holes cost nobody anything.
SMALL_FILE = 16 * 1024**2
#: Disk that a copy takes against the compact size: Parquet files and the new file, both at once.
DISK_FACTOR = 2.2


def compact_if_worthwhile(context: Context) -> bool:
    """Replace the staging file by a copy without holes; True when that happened.

    Never fatal: a file with holes is complete. The copy takes the staging file's place in one rename, and only
    once a fresh process has counted it. Verification comes after, so that what is published is what was compared.
    """
    size = context.files.staging.stat().st_size
    compact = max(size - context.free_bytes, 1)
    if size < SMALL_FILE or size <= WORTHWHILE * compact:
        return False
    if not is_closed(context.files.staging):  # a log beside it would be replayed into the copy that takes its name
        return False
    if context.compaction_failed:
        return False
    if why_not := _obstacle(context, compact):
        context.compaction_failed = True
        context.listener(NotCompacted(why_not))
        return False
    with context.phase("compacting"):
        return _compact(context, size)


def _obstacle(context: Context, compact: int) -> str | None:
    """What is missing for a copy: room for it on the disk, or memory for the engine while it makes one."""
    free = machine.free_disk(context.files.staging.parent)
    if free < compact * DISK_FACTOR:
        return f"{int(compact * DISK_FACTOR):,} bytes of disk needed, {free:,} free"
    memory, pool = compaction_needs(context.survey.row_bytes)
    if memory > context.plan.memory_available or pool > context.plan.pool_limit:
        return f"{memory:,} bytes of memory needed, {context.plan.memory_available:,} available"
    return None


def _compact(context: Context, size: int) -> bool:
    copy = context.files.compacted
    before = context.pool_bytes
    context.pool_bytes = max(before, compaction_needs(context.survey.row_bytes)[1])
    answer = retry.quietly(context, context.job(Task.COMPACT, copy_to=str(copy)))
    context.pool_bytes = before
    if answer.ok:
        recount = retry.quietly(context, context.job(Task.COUNT, target=str(copy)))
        if recount.ok and recount.facts["counts"] == answer.facts["counts"]:
            copy.replace(context.files.staging)
            sync(copy.parent)
            discard(copy)
            after = context.files.staging.stat().st_size
            context.free_bytes = recount.facts["free_bytes"]
            context.listener(Compacted(size, after))
            return True
        answer = recount
    discard(copy)
    context.compaction_failed = True  # and would fail again
    context.listener(NotCompacted(answer.message or "the copy does not hold the same rows"))
    return False


def leftovers(context: Context) -> None:
    """Throw away what an interrupted compaction left: the staging file is whole without it."""
    discard(context.files.compacted)
    shutil.rmtree(export_folder(context.files.compacted), ignore_errors=True)
