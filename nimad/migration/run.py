"""A migration from beginning to end: prepare, load, verify, publish, finish."""

import threading
from contextlib import suppress

from nimad.config import Settings, defaults, target_names
from nimad.engines import selection
from nimad.engines.selection import Choice
from nimad.errors import (
    CannotWriteError,
    EngineError,
    NimadError,
    SourceDamagedError,
    StoppedError,
)
from nimad.events import run
from nimad.events.result import Outcome, Result
from nimad.events.run import Listener
from nimad.host import rights
from nimad.host.disk import discard
from nimad.migration import (
    batch_retry,
    carry_over,
    compact,
    dry_run,
    finish,
    guard,
    prepare,
    publish,
    reader_check,
    repair,
    resume,
    salvage,
    vector_index,
    verify,
)
from nimad.migration.batches import Loader
from nimad.migration.context import Context
from nimad.source.header import check_source
from nimad.state import provenance
from nimad.state.paths import Files, check_folder, check_names, check_size, locked
from nimad.state.quarantine_summary import QuarantineSummary
from nimad.state.run_history import RunHistory
from nimad.state.target_state import of_target, stamp_of
from nimad.supervisor.hooks import Hooks
from nimad.supervisor.worker_process import Clock, Launch, WorkerPool
from nimad.sync import live_compaction
from nimad.sync.follower import Follower
from nimad.sync.round import LeftAloneError


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
    hooks = Hooks(settings, on_event or guard.ignore, stop)
    try:
        result = _migrate_own(settings, guard.guarded(hooks.hear), stop, clock)
    except guard.ListenerError as error:
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
            before = provenance.made_with(settings.target)
            choice = selection.choose_engine(settings, settings.source, before, stop)
            workers.start_in(Launch(choice.interpreter, choice.module, settings.priority))
            files = Files.of(settings, before.also)
            return _migrate(settings, files, choice, workers, listener)
        except OSError as error:
            raise guard.explained(error, settings) from error


def _check_folder(settings: Settings) -> None:
    """Raise when no file can be made where the target is to be, and say who named the place."""
    try:
        check_folder(settings.target)
    except CannotWriteError as error:
        origin = settings.origin("target")
        if not origin.startswith((defaults.ENVIRONMENT, target_names.CHOSEN)) or target_names.VARIABLE not in origin:
            raise
        raise CannotWriteError(f"{target_names.VARIABLE} names {settings.target}: {error}") from None


def _not_asked(settings: Settings) -> str | None:
    return settings.openclaw.why_not if settings.openclaw else "OpenClaw's file was not read"


def _migrate(settings: Settings, files: Files, choice: Choice, workers: WorkerPool, listener: Listener) -> Result:
    copy = salvage.SalvageDir(settings, files)
    if settings.dry_run:
        try:
            context = prepare.prepare(settings, choice, files, copy, workers, listener)
            dry_run.dry_run(context)
        finally:
            copy.discard()
        return Result(outcome=Outcome.DRY_RUN, target=str(files.target), total_nodes=context.survey.nodes.rows)
    check_names(files, settings.source, settings.log_file)
    with locked(files), RunHistory(settings, files, listener) as record:
        files.discard_temporaries()
        try:
            context = prepare.prepare(settings, choice, files, copy, workers, record.hear)
            done = resume.finished(context)
            if isinstance(done, resume.Complete):
                return _bring_late(context, done)
            if isinstance(done, resume.InUse):
                context.listener(run.NothingToDo(f"{done.why}; late arrivals wait"))
                return finish.waiting(context)
            if done:
                context.listener(done)
                return finish.nothing_done(context)
            return _write(context)
        finally:
            copy.discard()


def _bring_late(context: Context, complete: resume.Complete) -> Result:
    """Bring to a complete target what reached SQLite since, and say what it is then."""
    left_alone = ""
    try:
        done = Follower(context.settings, context.workers.stop, context.listener).bring()
        nodes = done.nodes if done.counted else complete.nodes  # the agent may have added some since what is noted
        complete = resume.Complete(nodes, of_target(context.files))
    except (LeftAloneError, EngineError, SourceDamagedError) as error:
        left_alone = str(error)
    context.listener(resume.told(context, complete, left_alone))
    return finish.waiting(context) if left_alone else finish.nothing_done(context)


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
            return finish.finish(context)
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
        finish.report_quarantine(context, tally)
        finish.report_late_arrivals(context)
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
