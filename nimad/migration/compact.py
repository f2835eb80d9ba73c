"""Compaction of a staging file with many holes, where that pays off."""

import shutil

from nimad.config import command
from nimad.events.run import Compacted, NotCompacted
from nimad.host import machine
from nimad.host.disk import discard, export_folder, is_closed, sync
from nimad.migration import batch_retry
from nimad.migration.context import Context
from nimad.supervisor.plan import compaction_disk, compaction_needs
from nimad.worker.protocol import Task

#: A file larger than this many times its compact self is copied.
WORTHWHILE = 1.25
#: Below this, in bytes, holes cost nobody anything.
SMALL_FILE = 16 * 1024**2


def compact_if_worthwhile(context: Context) -> bool:
    """Replace the staging file by a copy without holes; True when that happened.

    Never fatal: a file with holes is complete. The copy takes the staging file's place in one rename, and only
    once a fresh process has counted it. Verification comes after, so that what is published is what was compared.
    """
    size, compact = _sizes(context)
    if size < SMALL_FILE or size <= WORTHWHILE * compact:
        return False
    if not is_closed(context.files.staging):  # a log beside it would be replayed into the copy that takes its name
        return False
    if context.compaction_failed:
        return False
    if why_not := _obstacle(context, compact):
        context.compaction_failed = True
        context.listener(NotCompacted(why_not, command.migrate(context.settings, "--replace")))
        return False
    with context.phase("compacting"):
        return _compact(context, size)


def make_room(context: Context) -> bool:
    """Copy the staging file without its holes before its time, for the batches to come; True when that happened.

    Not a word where a copy wins nothing or has no room either: whoever asked says what is missing.
    """
    size, compact = _sizes(context)
    closed = context.files.staging.exists() and is_closed(context.files.staging)
    if not closed or size <= WORTHWHILE * compact or context.compaction_failed or _obstacle(context, compact):
        return False
    phase = context.state.phase
    with context.phase("compacting"):
        done = _compact(context, size)
    context.state.phase = phase
    return done


def _sizes(context: Context) -> tuple[int, int]:
    """Bytes of the staging file as it is, and without its holes."""
    staging = context.files.staging
    return machine.space_taken(staging), max(machine.space_used(staging, context.state.free_bytes), 1)


def _obstacle(context: Context, compact: int) -> str | None:
    """What is missing for a copy: room for it on the disk, or memory for the engine while it makes one."""
    free = machine.free_disk(context.files.staging.parent)
    if free < (needed := compaction_disk(compact)):
        return f"{needed:,} bytes of disk needed, {free:,} free"
    memory, _ = compaction_needs(context.survey.row_bytes)
    if memory > context.plan.memory_available:
        return f"{memory:,} bytes of memory needed, {context.plan.memory_available:,} available"
    return None


def _compact(context: Context, size: int) -> bool:
    copy = context.files.compacted
    before = context.pool_bytes
    context.pool_bytes = max(before, compaction_needs(context.survey.row_bytes)[1])
    answer = batch_retry.quietly(context, context.job(Task.COMPACT, copy_to=str(copy)))
    context.pool_bytes = before
    if answer.ok:
        recount = batch_retry.quietly(context, context.job(Task.COUNT, target=str(copy)))
        if recount.ok and recount.facts["counts"] == answer.facts["counts"]:
            copy.replace(context.files.staging)
            sync(copy.parent)
            discard(copy)
            after = context.files.staging.stat().st_size
            context.state.free_bytes = recount.facts["free_bytes"]
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
