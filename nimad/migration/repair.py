"""Repair of a staging file that does not open: made to open, or set aside and started over.

A file that opens but holds values that no run wrote is started over too. Nothing is deleted: what is of no use any more
gets a name with the date.
"""

import os

from nimad.errors import RefusedError
from nimad.events.run import SetAside
from nimad.host.disk import name_stamp, pieces, sync
from nimad.migration import batch_retry, large_pages
from nimad.migration.context import Context
from nimad.state.paths import free_name, move_aside, set_logs_aside
from nimad.supervisor import worker_failure
from nimad.supervisor.outcome import FailureKind, WorkerResult
from nimad.worker.protocol import Task

#: How often an unfinished target is set aside whole and started over, and how often one is repaired in one run.
REBUILDS = 2
REPAIRS = 8

#: Ends in every try of a worker that opens and counts a file, which tell that it cannot be opened.
_UNREADABLE = frozenset(
    {
        FailureKind.CRASHED,
        FailureKind.NO_ANSWER,
        FailureKind.HALF_ANSWER,
        FailureKind.ENGINE_ERROR,
        FailureKind.ALLOCATION,
        FailureKind.HUNG,
        FailureKind.UNEXPECTED,
    }
)


def repair(context: Context, found: WorkerResult | None = None) -> None:
    """Make the staging file open, and count it. `found`: what is wrong with it. Raises when no repair helps."""
    context.repairs += 1
    if context.repairs > REPAIRS:
        raise RefusedError(
            f"{context.files.staging} had to be repaired {REPAIRS} times in this run; "
            f"{_cause(context) or 'check the disk (dmesg), then run again, or start over with --restart'}"
        )
    if found is not None and (context.state.brought or found.kind in (FailureKind.DAMAGED, FailureKind.DUPLICATE_KEY)):
        set_whole_aside(context, found.message)  # what holds more than SQLite's rows is not gone on with
        return
    answer = _count(context)
    if answer is not None and _set_logs_aside(context, answer):
        answer = _count(context)
    if answer is not None:
        set_whole_aside(context, answer.message)


def _cause(context: Context) -> str:
    """Why no repair helps, where the engine itself says so after each write."""
    python = context.choice.interpreter.python
    return context.complaint and large_pages.explained(context.engine_name(), python, context.complaint)


def _count(context: Context) -> WorkerResult | None:
    """Count the staging file, with what a log holds taken in; the worker's answer when the file does not open.

    Raises what no repair fixes: a full disk, another engine, another program that has it open.
    """
    if not context.files.staging.exists():
        context.note_staging({})
        return None
    count = context.job(Task.COUNT, writable=True)
    try:
        answer = batch_retry.attempt(context, batch_retry.same(count))
    except batch_retry.UnreadableError as unreadable:
        return unreadable.answer
    except worker_failure.ExhaustedError as exhausted:
        if exhausted.answer.kind in _UNREADABLE:
            return exhausted.answer
        raise
    context.note_staging(answer.facts["counts"])
    context.state.free_bytes = answer.facts["free_bytes"]
    return None


def _set_logs_aside(context: Context, answer: WorkerResult) -> bool:
    """Give what the engine would replay another name: the last checkpoint is whole without it."""
    moved = set_logs_aside(context.files.staging)
    if moved:
        context.listener(SetAside([str(path) for path in moved], answer.message, whole=False))
    return bool(moved)


def set_whole_aside(context: Context, message: str) -> None:
    """Give the staging file another name; what SQLite holds is loaded into a new one."""
    files, state = context.files, context.state
    if state.rebuilds >= REBUILDS:
        raise RefusedError(
            f"{files.staging} cannot be used ({message}) although it was started over {REBUILDS} times; "
            f"{_cause(context) or 'check the disk (dmesg), then start over with --restart'}"
        )
    state.rebuilds += 1
    aside = free_name(files.staging.with_name(f"{files.staging.name}.{name_stamp()}"))
    moved = [to for piece, to in zip(pieces(files.staging), pieces(aside), strict=True) if os.path.lexists(piece)]
    move_aside(files.staging, aside)
    sync(files.staging.parent)
    files.ledger.unlink(missing_ok=True)
    context.listener(SetAside([str(path) for path in moved], message, whole=True))
    context.note_staging({})
    context.state.free_bytes = 0
    context.adopted = state.brought = False
    state.write()
