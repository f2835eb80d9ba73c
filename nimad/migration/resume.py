"""What is there already: a finished target, a foreign file, or an interrupted run to resume."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nimad.compare import source_identity
from nimad.config import Verify, command
from nimad.errors import CannotWriteError, EngineError, RefusedError
from nimad.events.run import Named, NothingToDo
from nimad.events.sync import Moved
from nimad.host import machine
from nimad.host.disk import discard
from nimad.migration import batch_retry, name_conflicts, publish, repair, unknown_target
from nimad.migration.context import Context
from nimad.migration.publish import in_the_way
from nimad.plural import number_of, set_aside
from nimad.source.schema import TARGET_TABLES
from nimad.source.sqlite_file import SourceFile
from nimad.state import names, provenance, target_state
from nimad.state.left_out import left_out
from nimad.state.paths import check_plain, not_for_us
from nimad.state.quarantine import entries
from nimad.state.quarantine_summary import QuarantineSummary
from nimad.supervisor import worker_failure
from nimad.supervisor.outcome import FailureKind, WorkerResult
from nimad.worker.protocol import Job, Task

#: What the engine says, in lower case, of a sound file that a program writes to.
_IN_USE = "lock"


@dataclass(frozen=True)
class Complete:
    """A complete target that is there: how many nodes it has, and what the run wrote that made it."""

    nodes: int
    made: Mapping[str, Any]


@dataclass(frozen=True)
class InUse:
    """A complete target that another program has open, as the engine says it."""

    why: str


def finished(context: Context) -> NothingToDo | Complete | InUse | None:
    """That there is nothing to load, when the target is complete already.

    Raises `CannotWriteError` when something else stands at the final name and `--replace` was not given.
    """
    target = context.files.target
    name_conflicts.put_back(context)
    check_plain(target)
    if not context.settings.replaces:
        name_conflicts.give_way(context)
    if target.exists() and not context.files.staging.exists() and target_state.read(context.files).get("published"):
        publish.tidy(context.files)  # the run that made it was killed right after the rename
    if context.settings.retry:
        why = _nothing_to_retry(context)
        return NothingToDo(why) if why else None
    if not os.path.lexists(target):
        return None
    if context.settings.replace:
        _check_replaceable(context, target_state.of_target(context.files), target)
        return None
    if not target.exists():
        raise in_the_way(target, "a symbolic link to nothing")
    made: Mapping[str, Any] = target_state.of_target(context.files)
    made, maker = _known(context, made), target_state.identity_of(made)
    count = context.job(Task.COUNT, target=str(target), schema=None)
    answer = batch_retry.quietly(context, count)
    if answer.kind is FailureKind.RECOVERY_PENDING and machine.holder_of(target) is None:
        answer = batch_retry.quietly(context, replace(count, writable=True))
    if answer.kind is FailureKind.ENGINE_MISSING:
        raise worker_failure.error_of(answer)
    if answer.kind is FailureKind.STORAGE_VERSION:
        _check_readers(context, made)
    in_use = answer.kind is FailureKind.RECOVERY_PENDING or _IN_USE in answer.message.lower()
    if not answer.ok and maker is not None and in_use:
        return InUse(f"{target} is complete, and another program has it open ({answer.message})")
    if answer.kind is FailureKind.NOT_ALLOWED:
        raise not_for_us(target, answer.message)
    if not answer.ok:
        raise in_the_way(target, f"it cannot be opened as a finished migration: {answer.message}")
    return _complete(context, answer, made)


def _nothing_to_retry(context: Context) -> str | None:
    """Why there is nothing to try again. Raises when a new target would lose what others wrote to this one."""
    files = context.files
    if files.target.exists():
        _check_replaceable(context, target_state.of_target(files), files.target)
    if context.memory.salvaged:
        raise RefusedError(
            f"pages of {context.settings.source} are damaged, so a new target could hold less than {files.target}; "
            "restore the source first"
        )
    if files.staging.exists():
        return None
    if not files.target.exists():
        raise provenance.not_there(files.target)
    tally = QuarantineSummary.of(files.quarantine, target_state.of_target(files))
    if not tally.entries and not tally.lacking:
        return f"nothing is in quarantine beside {files.target}"
    return None


def _known(context: Context, made: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state of the target that is there, with where its memory is now. Raises where it is another memory's."""
    files, found = context.files, _found(context, made)
    if found is None:
        return made
    made = source_identity.note(files, made, found)
    _check_found(context, found)
    _tell(context, found, files.target)
    return made


def check_same_memory(context: Context) -> None:
    """Raise where a run would, because what is there is another memory's; and change nothing."""
    files, made = context.files, target_state.of_target(context.files)
    if files.target.exists() and context.settings.replaces:
        _check_replaceable(context, made, files.target)
    elif files.target.exists() and (found := _found(context, made)):
        _check_found(context, found)
    if files.staging.exists() and (context.settings.replaces or not files.target.exists()):
        _check_staging(context)


def _found(context: Context, made: Mapping[str, Any]) -> source_identity.IdentityCheck | None:
    found = _look(context, made, context.files.followed)
    return replace(found, why="") if found is not None and not found.told and _equal(context) else found


def _check_found(context: Context, found: source_identity.IdentityCheck) -> None:
    if found.why:
        raise in_the_way(context.files.target, f"it was made from another source: {found.why}")


def _look(context: Context, made: Mapping[str, Any], ledger: Path) -> source_identity.IdentityCheck | None:
    def ask(job: Job) -> WorkerResult:
        return batch_retry.quietly(context, replace(job, source=str(context.source.path), schema=context.survey.schema))

    source = SourceFile(context.settings.source, context.workers.stop)
    return source_identity.check_identity(made, source, ledger, ask)


def _tell(context: Context, found: source_identity.IdentityCheck, file: Path) -> None:
    if found.moved:
        context.listener(Moved(str(file), found.noted.path, found.now.path))


def _check_replaceable(context: Context, made: Mapping[str, Any], what: Path) -> None:
    maker, files = target_state.identity_of(made), context.files
    if maker is None or maker.path == context.survey.identity.path:
        return
    found = _look(context, made, files.ledger if what == files.staging else files.followed)
    if found is None or found.why:
        provenance.check_replaceable(context.settings, maker, context.survey.identity, what)


def _complete(context: Context, answer: WorkerResult, made: Mapping[str, Any]) -> Complete:
    """That the target is complete: by the word of the run that made it, or because its memories are the source's."""
    target = context.files.target
    counted = {name: count["rows"] for name, count in answer.facts["counts"].items()}
    if "MemoryNode" not in counted:
        raise in_the_way(target, "it is a LadybugDB file without memories")
    missing = set(context.survey.tables) - set(made.get("tables", context.survey.tables))
    if missing:
        raise in_the_way(target, f"it was made without {' and '.join(sorted(missing))}")
    if not made:
        if why := unknown_target.why_not(context):
            raise in_the_way(target, why)
        made = unknown_target.adopt(context, counted)
    _check_readers(context, made)
    before = target_state.names_of(made)
    publish.check_links(context)
    names.check_names_closed(context.files, before)
    if made_links := publish.link(context, before):
        context.listener(Named(made_links, str(target)))
    if made.get("also", []) != list(context.files.also):
        target_state.note_names(
            context.files, target_state.of_target(context.files)
        )  # whether it has links may be noted since
    return Complete(counted["MemoryNode"], made)


def told(context: Context, complete: Complete, left_alone: str) -> NothingToDo:
    """What there is to say of a complete target. `left_alone`: why late arrivals were not brought to it."""
    target, made, again = context.files.target, complete.made, command.migrate(context.settings)
    tail = f"; late arrivals wait: {left_alone}; then bring them with: {again}" if left_alone else ""
    file = context.files.quarantine
    tally = QuarantineSummary.of(file, made)
    if tally.entries:
        tail += f"; {set_aside(tally.rows, tally.parts, tally.ranges)} set aside, listed in {file}"
    if lacking := tally.lacking_in(file, target):
        tail += f"; {lacking}"
    what = f"{target} is complete: {number_of(complete.nodes, 'memory', 'memories')}{tail}"
    return NothingToDo(what, _late(context, made) if left_alone else 0)


def _check_readers(context: Context, made: Mapping[str, Any]) -> None:
    """Raise when the agent could not open the target that is there: its engine went back, or was found only now."""
    engine = made.get("versions", {}).get("engine", {})
    reader = context.choice.cannot_open(int(engine.get("storage_version", 0)))
    if reader is not None:
        raise EngineError(
            f"{context.files.target} is complete, but the reader {reader} cannot open what {engine.get('name')} "
            f"{engine.get('version')} wrote (storage version {engine['storage_version']}); make one that it can, and "
            f"keep this one as a dated backup, with: {command.migrate(context.settings, '--replace')}"
        )


def _equal(context: Context) -> bool:
    """Whether a target of which no run tells holds what the source holds, every row and column."""
    job = context.job(Task.VERIFY, target=str(context.files.target), bounds=context.bounds(), quarantine="", ledger="")
    answer = batch_retry.quietly(context, job)
    found = answer.facts
    return answer.ok and not any(found[name] for name in ("changed", "missing", "removed", "damages", "wrong"))


def _late(context: Context, made: Mapping[str, Any]) -> int:
    """Nodes of the source above the bound of the run that made the target."""
    bound = made.get("bounds", {}).get("memory_nodes")
    return 0 if bound is None else context.nodes_above(bound)


def adopt(context: Context) -> None:
    """Take up what an interrupted run left, or start over. Raises when it was begun otherwise."""
    files = context.files
    found = _check_staging(context) if files.staging.exists() else None
    if context.settings.restart or not files.staging.exists():
        _begin_anew(context)
        return
    if found is not None:
        _tell(context, found, files.staging)
    begun = target_state.read(files)
    if begun.get("indexed"):  # a table with an index takes no row without the extension
        repair.set_whole_aside(context, "it has the vector index already")
    elif begun.get("brought"):
        repair.set_whole_aside(context, "it holds rows of the target before already")
    _count_staging(context)
    context.adopted = files.staging.exists()  # else it did not open, and is started over
    held = [
        table
        for table, target in TARGET_TABLES.items()
        if context.counted.get(target) and table not in context.survey.tables
    ]
    if held:
        raise CannotWriteError(
            f"{files.staging} holds rows of {' and '.join(held)} already, which this run is to leave out; go on "
            "with the options it was begun with, or throw it away with --restart"
        )
    context.note_progress()
    context.redone = {entry["table"] for entry in entries(files.quarantining) if entry["table"] in TARGET_TABLES}
    if not context.settings.retry:
        context.isolated, context.refused = left_out(context.source, context.survey.schema, files.quarantining)


def _check_staging(context: Context) -> source_identity.IdentityCheck | None:
    """Raise unless the staging file was begun from this very memory, or may be thrown away; return what tells so."""
    staging = context.files.staging
    if context.settings.restart:
        _check_replaceable(context, target_state.read(context.files), staging)
        return None
    found = _look(context, target_state.read(context.files), context.files.ledger)
    if (found is None or not found.told) and context.settings.verify is not Verify.FULL:
        raise CannotWriteError(
            f"nothing tells from which source {staging} was begun; go on with --verify full, which compares every "
            "row, or throw it away with --restart"
        )
    if found is None or not found.told:
        return None
    if found.why:
        raise CannotWriteError(
            f"{staging} was begun from another source: {found.why}; "
            "go on with that source, or throw the unfinished file away with --restart"
        )
    return found


def _count_staging(context: Context) -> None:
    """Count what an interrupted run left, with a write-ahead log that its last worker left taken in."""
    context.state.rebuilds = int(target_state.read(context.files).get("rebuilds", 0))
    repair.repair(context)


def _begin_anew(context: Context) -> None:
    """Nothing that lies beside a target that is not begun yet belongs to it."""
    files = context.files
    discard(files.staging)
    files.ledger.unlink(missing_ok=True)
    files.quarantining.unlink(missing_ok=True)
