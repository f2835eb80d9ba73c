"""A migration from beginning to end: prepare, load, verify, publish, finish."""

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from nimad.config import Settings, Verify, defaults, target_names
from nimad.engines import selection
from nimad.engines.packages import least_integer, unloadable
from nimad.engines.selection import Choice
from nimad.errors import (
    CannotWriteError,
    DiskError,
    EngineError,
    NimadError,
    SourceDamagedError,
    StoppedError,
    UsageError,
    limit_reached,
)
from nimad.events import run
from nimad.events.result import Outcome, Result
from nimad.events.run import Listener
from nimad.host import rights
from nimad.host.disk import DISK_ERRORS, discard
from nimad.migration import (
    batch_retry,
    carry_over,
    compact,
    dry_run,
    large_pages,
    publish,
    reader_check,
    repair,
    resume,
    salvage,
    unfinished,
    vector_index,
    verify,
)
from nimad.migration.batches import Loader
from nimad.migration.context import Context
from nimad.source.header import check_source
from nimad.source.schema import NODES, TARGET_TABLES
from nimad.source.survey import Survey
from nimad.state import made_with
from nimad.state.paths import Files, check_folder, check_names, check_size, locked
from nimad.state.quarantine_summary import QuarantineSummary
from nimad.state.run_history import RunHistory
from nimad.state.target_state import State, of_target, stamp_of
from nimad.supervisor import worker_failure
from nimad.supervisor.clock import Clock
from nimad.supervisor.hooks import Hooks
from nimad.supervisor.outcome import FailureKind
from nimad.supervisor.plan import make_plan
from nimad.supervisor.worker_process import Launch, WorkerPool
from nimad.sync import live_compaction
from nimad.sync.follower import Follower
from nimad.sync.round import LeftAloneError
from nimad.worker.protocol import Job, Task


def migrate(
    settings: Settings,
    on_event: Listener | None = None,
    stop: threading.Event | None = None,
    clock: Clock | None = None,
) -> Result:
    """Migrate the memory `settings.source` to `settings.target`, and return the figures.

    Parameters
    ----------
    settings:
        What to do; `Settings(source=path)` is enough.
    on_event:
        Called with every `nimad.Event` of the run, in order, in the calling thread.
    stop:
        Set it from a signal handler or another thread to end the run: the current batch may finish within a few
        seconds, everything counted is kept, and `StoppedError` is raised.
    clock:
        What waits between two tries of a batch; for tests, which do not want to.

    Raises a `nimad.NimadError` whose message is meant for the user and whose `exit_code` says of what kind it is. A
    process of root's keeps its identity: it is refused the memory of another user, until it has called `nimad.become`.
    An interrupted run leaves its staging file; calling again goes on from there.

    """
    stop = stop or threading.Event()
    hooks = Hooks(settings, on_event or _ignore, stop)
    try:
        result = _migrate_own(settings, _guarded(hooks.hear), stop, clock)
    except _ListenerError as error:
        raise error.cause from None
    except NimadError as error:
        hooks.failed(error)
        raise
    hooks.ended(result)
    return result


def _migrate_own(settings: Settings, listener: Listener, stop: threading.Event, clock: Clock | None) -> Result:
    """Migrate, where this process is the memory's owner."""
    if settings.auto and (why := _not_asked(settings)):
        listener(run.NothingToDo(why))
        return Result(outcome=Outcome.NOT_ASKED, target=str(settings.target))
    check_source(settings.source)
    if not settings.dry_run:
        _check_folder(settings)
    rights.check_own(settings.source, settings.target, settings.log_file)
    with WorkerPool(stop, clock, Launch(priority=settings.priority)) as workers:
        try:
            before = made_with.of(settings.target)
            choice = selection.choose_engine(settings, settings.source, before, stop)
            workers.start_in(Launch(choice.interpreter, choice.module, settings.priority))
            files = Files.of(settings, before.also)
            return _migrate(settings, files, choice, workers, listener)
        except OSError as error:
            raise _explained(error, settings) from error


def _check_folder(settings: Settings) -> None:
    """Raise when no file can be made where the target is to be, and say who named the place."""
    try:
        check_folder(settings.target)
    except CannotWriteError as error:
        origin = settings.origin("target")
        if not origin.startswith((defaults.ENVIRONMENT, target_names.CHOSEN)) or target_names.VARIABLE not in origin:
            raise
        raise CannotWriteError(f"{target_names.VARIABLE} names {settings.target}: {error}") from None


class _ListenerError(Exception):
    """An OSError of the listener's own, on its way through code that would take it for one of the disk."""

    def __init__(self, cause: OSError) -> None:
        self.cause = cause


def _guarded(listener: Listener) -> Listener:
    def tell(event: run.Event) -> None:
        try:
            listener(event)
        except OSError as error:
            raise _ListenerError(error) from error

    return tell


def _explained(error: OSError, settings: Settings) -> NimadError:
    message = f"{error.filename or settings.target}: {error.strerror or error}"
    if error.errno in DISK_ERRORS:
        return DiskError(message)
    limit = limit_reached(message)
    return CannotWriteError(f"{message}; {limit}" if limit else message)


def _ignore(_: run.Event) -> None:
    pass


def _not_asked(settings: Settings) -> str | None:
    return settings.openclaw.why_not if settings.openclaw else "OpenClaw's file was not read"


def _migrate(settings: Settings, files: Files, choice: Choice, workers: WorkerPool, listener: Listener) -> Result:
    copy = salvage.SalvageDir(settings, files)
    if settings.dry_run:
        try:
            context = _prepare(settings, choice, files, copy, workers, listener)
            dry_run.dry_run(context)
        finally:
            copy.discard()
        return Result(outcome=Outcome.DRY_RUN, target=str(files.target), total_nodes=context.survey.nodes.rows)
    check_names(files, settings.source, settings.log_file)
    with locked(files), RunHistory(settings, files, listener) as record:
        files.discard_temporaries()
        try:
            context = _prepare(settings, choice, files, copy, workers, record.hear)
            done = resume.finished(context)
            if isinstance(done, resume.Complete):
                return _bring_late(context, done)
            if isinstance(done, resume.InUse):
                context.listener(run.NothingToDo(f"{done.why}; late arrivals wait"))
                return _waiting(context)
            if done:
                context.listener(done)
                return _nothing_done(context)
            return _write(context)
        finally:
            copy.discard()


def _bring_late(context: Context, complete: resume.Complete) -> Result:
    """Bring to a complete target what reached SQLite since, and say what it is then."""
    left_alone = ""
    if complete.made:  # else no run tells of it, and it is equal to SQLite
        try:
            done = Follower(context.settings, context.workers.stop, context.listener).bring()
            nodes = done.nodes if done.anything else complete.nodes
            complete = resume.Complete(nodes, of_target(context.files))
        except (LeftAloneError, EngineError, SourceDamagedError) as error:
            left_alone = str(error)
    context.listener(resume.told(context, complete, left_alone))
    return _waiting(context) if left_alone else _nothing_done(context)


def _waiting(context: Context) -> Result:
    """A complete target to which nothing could be brought.

    OpenClaw's hook takes any status but 0 for a migration that failed, and the agent may have the target open by then.
    """
    return replace(_nothing_done(context), waiting=not context.settings.auto)


def _prepare(
    settings: Settings, choice: Choice, files: Files, copy: salvage.SalvageDir, workers: WorkerPool, listener: Listener
) -> Context:
    """Look at the source, make the plan, and see whether the engine is there."""
    began = time.monotonic()
    listener(run.Analyzing(str(settings.source)))
    memory = salvage.readable(settings, copy, listener, workers.stop)
    found = memory.survey
    if settings.start_offset > found.nodes.rows:
        raise UsageError(
            f"--start-offset {settings.start_offset} is past the end: the source has {found.nodes.rows} nodes; "
            "leave it out, a run goes on by itself"
        )
    listener(_analyzed(settings, found))
    plan = unfinished.planned(make_plan(settings, found), settings, files, found)
    state = State(files, found.identity, plan=plan.to_json(), tables=tuple(found.tables), also=files.also)
    state.readers = [reader.to_json() for reader in choice.readers]
    context = Context(settings, memory, plan, files, workers, listener, state, choice, began=began)
    if not plan.early_worker:
        workers.start_late()
    state.bounds = context.bounds()
    defaults = [(name, value, count) for name, (value, count) in found.defaults().items()]
    stored = found.stored
    said = (defaults, stored.converted, stored.unknown)
    listener(run.Planned(settings.batch_size, plan.total_batches, plan.to_json(), *said))
    state.engine = _probe(context)
    context.narrow(least_integer(int(state.engine["storage_version"])))
    _say_engine(context)
    return context


def _say_engine(context: Context) -> None:
    choice = context.choice
    if choice.refusal:  # said when it matters
        return
    found = [str(reader) for reader in choice.readers]
    where = "" if choice.interpreter.is_ours else f" of {choice.interpreter.python}"
    version = context.state.engine["storage_version"]
    name, warned = f"{context.engine_name()}{where}", large_pages.warnings(choice)
    context.listener(run.EngineChosen(name, version, choice.why, found, choice.unusable, warned))


def _nothing_done(context: Context) -> Result:
    tally = QuarantineSummary.of(context.files.quarantine, of_target(context.files))
    return Result(
        outcome=Outcome.ALREADY_COMPLETE,
        target=str(context.files.target),
        total_nodes=context.survey.nodes.rows,
        quarantined=tally.rows,
        quarantined_parts=tally.parts,
        quarantined_lacking=tally.lacking,
        unread_ranges=tally.ranges,
        unread_nodes=tally.unread_nodes,
        quarantined_ids=tally.ids,
        quarantined_counts=tally.counts,
    )


def _probe(context: Context) -> Mapping[str, Any]:
    """Which engine is there. One that takes its worker down twice, before any file is opened, cannot be used."""
    answer = batch_retry.quietly(context, Job(task=Task.PROBE))
    if answer.kind in (FailureKind.KILLED, FailureKind.OUT_OF_MEMORY):
        raise StoppedError(f"{answer.message} before it did anything; free some memory")
    if answer.kind in (FailureKind.CRASHED, FailureKind.NO_ANSWER, FailureKind.HALF_ANSWER, FailureKind.UNEXPECTED):
        raise EngineError(unloadable(answer.message, context.choice.module, context.choice.interpreter.python))
    if not answer.ok:
        raise worker_failure.error_of(answer)
    engine: Mapping[str, Any] = answer.facts["engine"]
    return engine


def _analyzed(settings: Settings, found: Survey) -> run.Analyzed:
    rows = {name: extent.rows for name, extent in found.tables.items()}
    return run.Analyzed(
        source=str(settings.source),
        size=found.size,
        nodes=rows[NODES],
        edges=rows.get("memory_edges", 0),
        turns=rows.get("memory_turns", 0),
        layers=dict(found.layers),
        left_out=[(table.name, table.rows, table.why) for table in found.left_out],
    )


def _write(context: Context) -> Result:
    """Everything that changes files, with the state file telling how far it is, or why it ended."""
    state = context.state
    if context.choice.refusal:
        raise EngineError(context.choice.refusal)
    publish.check_links(context)
    context.plan.check_disk(context.files.staging.parent)
    if not context.settings.force:
        context.plan.check_memory()
        check_size(context.files.staging.parent, context.plan.disk_anew)
    state.replaces = of_target(context.files) if context.files.target.exists() else {}
    resume.adopt(context)  # until this went well, the state file tells of what was there before
    context.listener(
        run.Started(
            str(context.settings.log_file),
            str(context.files.staging),
            dict(context.counted),
            context.settings.start_offset,
        )
    )
    try:
        return _load_verify_publish(context)
    except StoppedError as error:
        kept = f"{context.counted.get('MemoryNode', 0)} of {context.survey.nodes.rows} nodes are kept"
        state.phase, state.message = "interrupted", f"{error}; {kept}"
        with suppress(OSError):
            state.write()
        error.args = (state.message,)
        raise
    except NimadError as error:
        state.phase, state.message = "failed", str(error)
        with suppress(OSError):
            state.write()
        raise


def _load_verify_publish(context: Context) -> Result:
    discard(context.files.trial)
    discard(context.files.indexing)
    compact.leftovers(context)
    if context.plan.compact_first:
        compact.make_room(context)
    context.list_losses()
    while True:
        try:
            _load_and_verify(context)
            _publish(context)
            return _finish(context)
        except batch_retry.UnreadableError as unreadable:
            repair.repair(context, unreadable.answer)


def _publish(context: Context) -> None:
    with context.phase("checking the reader"):
        reader_check.check(context)
    tally = QuarantineSummary.of(context.files.quarantining)
    context.check_set_aside(tally.nodes)
    with carry_over.brought_along(context):
        compact.compact_if_worthwhile(context)
        publish.close(context)
        vector_index.index_if_possible(context)
        context.check_source()
        _say_quarantine(context, tally)
        _say_late_arrivals(context)
        context.state.published = dict(context.counted)
        context.state.file = stamp_of(context.files.staging)
        context.state.compact = live_compaction.measured(context.files.staging, context.counted)
        context.state.schema = context.survey.schema.to_json()
        with context.phase("publishing"):
            publish.publish(context)


def _load_and_verify(context: Context) -> None:
    loader = Loader(context)
    loader.load_all()
    with context.phase("counting"):
        loader.confirm_last()
        verify.keep_confirmed(context)
    compact.compact_if_worthwhile(context)
    with context.phase("verifying"):
        verify.verify(context)
    if compact.compact_if_worthwhile(context):  # mending leaves holes too
        with context.phase("verifying"):
            verify.verify(context)
    publish.close(context)


def _say_quarantine(context: Context, tally: QuarantineSummary) -> None:
    context.state.quarantined = tally.rows + tally.parts + tally.ranges
    if tally.entries:
        file = str(context.files.quarantine)
        counts = (tally.rows, tally.parts, tally.ranges)
        context.listener(run.Quarantined(file, *counts, tally.examples, tally.converted))


def _say_late_arrivals(context: Context) -> None:
    last = context.survey.nodes.last
    rows = context.nodes_above(-(2**63) if last is None else last)
    if rows:
        context.listener(run.LateArrivals(rows))


def _finish(context: Context) -> Result:
    state, counted = context.state, context.counted
    tally = QuarantineSummary.of(context.files.quarantine)
    migrated = counted.get(TARGET_TABLES[NODES], 0)
    total = context.survey.nodes.rows
    if context.settings.verify is Verify.FULL:  # then these are proven to be all, however many left the source
        total = migrated + tally.nodes
    result = Result(
        outcome=Outcome.COMPLETE,
        target=str(context.files.target),
        total_nodes=total,
        migrated=migrated,
        edges=counted.get("relates_to", 0),
        turns=counted.get("Turn", 0),
        quarantined=tally.rows,
        quarantined_parts=tally.parts,
        unread_ranges=tally.ranges,
        unread_nodes=tally.unread_nodes,
        quarantined_ids=tally.ids,
        quarantined_counts=tally.counts,
        failed_batches=state.failed_batches,
        retries=state.retries,
        batches=context.batches,
        elapsed_s=time.monotonic() - context.began,
        batch_s=context.batch_s,
        phases_s=_rounded(state.phases_s),
        peaks=dict(state.peaks),
    )
    state.phase, state.eta_s, state.replaces = "complete", 0.0, {}
    with suppress(OSError):  # what was published stood in it before the rename
        state.write()
    context.listener(run.Finished(result))
    return result


def _rounded(phases: Mapping[str, float]) -> dict[str, float]:
    return {name: round(seconds, 3) for name, seconds in phases.items()}
