"""Carry-over: what only the old target holds is restored into the new one before it is published.

The old target is kept from being written to until the new one has its name: what the agent wrote in between would be in
the backup alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from nimad.compare import comparison
from nimad.errors import DifferenceError, NimadError, RefusedError
from nimad.events.run import BroughtAlong, NotBroughtAlong
from nimad.host.disk import has_log, sync
from nimad.migration import batch_retry
from nimad.migration.context import Context
from nimad.source.schema import NODES
from nimad.state import target_state
from nimad.state.names import names_of
from nimad.state.paths import held, set_logs_aside
from nimad.supervisor import held_target, worker_failure
from nimad.supervisor.outcome import Action, FailureKind, WorkerResult
from nimad.supervisor.worker_process import Launch, WorkerPool
from nimad.worker.compare.facts import TableCompared
from nimad.worker.protocol import Applied, Task

#: Seconds to wait for a program that has the old target open, in steps of one.
_WAIT_S = 60


@contextmanager
def brought_along(context: Context) -> Iterator[None]:
    """Bring along what the target there alone holds, and keep it from being written to meanwhile."""
    files = context.files
    if not files.target.is_file() or not context.settings.replaces:
        yield
        return
    _take_in_log(context)
    with _held(context):
        with context.phase("bringing along"):
            _bring_along(context)
        yield
    files.own.unlink(missing_ok=True)


def _take_in_log(context: Context) -> None:
    """Have the engine take in what a killed program left in the target's log, which who only reads does not see.

    A log stands by the name that the program opened, and is taken in by that one.
    """
    files = context.files
    launch = _launch(context)
    for name in filter(has_log, names_of(files)):
        with WorkerPool(context.workers.stop, launch=launch) as workers:
            answer = held_target.replay(name, workers, last=True)
        if answer.kind is FailureKind.LOCKED:
            raise RefusedError(f"{name} is open in another program ({answer.message}); stop that first")
        if not answer.ok:
            # Or the backup would not open with it.
            kept = " and ".join(str(path) for path in set_logs_aside(name))
            context.listener(
                NotBroughtAlong(str(name), f"its log cannot be read ({answer.message}); it is kept as {kept}")
            )


def _launch(context: Context) -> Launch:
    """How to start a worker that reads the old target: in an interpreter that was named, with the engine it has."""
    settings, choice = context.settings, context.choice
    if settings.engine_python is None:
        return comparison.launch_of(settings)
    return Launch(choice.interpreter, choice.module, settings.priority)


@contextmanager
def _held(context: Context) -> Iterator[None]:
    """The engine's own lock on the old target: readers may come, a writer may not."""
    for left in reversed(range(_WAIT_S)):
        try:
            lock = held(context.files.target, readers=True)
            lock.__enter__()
            break
        except RefusedError:
            if not left:
                raise
            context.workers.pause(1.0)
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _bring_along(context: Context) -> None:
    try:
        found = _export(context)
    except NimadError as error:
        if context.workers.stop.is_set():
            raise
        context.listener(NotBroughtAlong(str(context.files.target), str(error)))
        return
    if why := _of_another(context, found):
        context.listener(NotBroughtAlong(str(context.files.target), why))
        return
    brought, left_behind = dict(found.facts["exported"]), dict(found.facts["left_behind"])
    ids: dict[str, int] = {}
    if brought or found.facts["declares"] or found.facts["renumbers"]:
        facts = _import(context)
        ids = {table: len(rows) for table, rows in facts["applied"]["aliases"].items() if rows}
        left_behind |= facts["left_behind"]
        if left := facts["values_left"]:
            brought["values"] -= left
    brought = {what: number for what, number in brought.items() if number}
    put_back = found.facts["put_back"]
    if brought or left_behind or put_back or ids:
        context.listener(BroughtAlong(brought, left_behind, put_back, ids))


def _export(context: Context) -> WorkerResult:
    settings, files = context.settings, context.files
    made, maker = comparison.made_of(settings, files, context.workers.stop)
    if maker:
        raise RefusedError(f"it was made from another memory: {maker}")
    launch = _launch(context)
    job = replace(
        comparison.job_of(settings, files, made, every=True), task=Task.EXPORT_TARGET_ONLY, copy_to=str(files.own)
    )
    with WorkerPool(context.workers.stop, launch=launch) as workers:
        answer = comparison.ask(job, workers, launch)
    sync(files.own.parent)
    return answer


def _of_another(context: Context, answer: WorkerResult) -> str:
    """Why the old target seems to be of another memory, where no run tells of it; empty where it does not."""
    if target_state.of_target(context.files):
        return ""
    nodes = TableCompared.from_json(answer.facts["tables"][NODES])
    if nodes.there and 2 * nodes.paired < min(nodes.rows, nodes.there):
        return f"of its {nodes.there} memories, {nodes.paired} are among the {nodes.rows} of {context.settings.source}"
    return ""


def _import(context: Context) -> Mapping[str, Any]:
    """Put it into the new target, and have another process look for it. Return what that process says of it."""
    context.state.brought = True  # before it is: what holds more than SQLite's rows is not gone on with
    context.state.write()
    own = str(context.files.own)
    done = context.do(context.job(Task.RESTORE_TARGET_ONLY, own=own))
    if not done.ok:  # not tried again: it may be in the file, and would be there twice
        if done.rule.action is Action.STOP:
            raise worker_failure.error_of(done)
        if done.rule.action is Action.LARGER_POOL:
            context.raise_pool()
        raise batch_retry.UnreadableError(done)
    context.state.free_bytes = done.facts["free_bytes"]
    applied = Applied(**done.facts["applied"])
    job = context.job(Task.CONFIRM_RESTORED, own=own, own_ids=done.facts["ids"], applied=applied)
    found = batch_retry.attempt(context, batch_retry.same(job))
    missing = found.facts["missing"]
    if applied.digests:  # of what was verified, and written again since
        again = batch_retry.attempt(context, batch_retry.same(context.job(Task.CONFIRM, applied=applied)))
        missing += sum(map(len, again.facts["missing"].values()))
    if missing:
        raise DifferenceError(
            f"{missing} of the rows that {context.files.target} holds did not arrive in {context.files.staging} as "
            "they are there, and nothing was published; check the disk (dmesg), then run again with --restart"
        )
    context.note_counts(found.facts["counts"])
    return done.facts
