"""Comparison of a finished target with a memory in SQLite. Both sides are only read, and neither is trusted."""

import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from nimad.compare import source_identity
from nimad.config import Settings, command
from nimad.config.settings import AUTO
from nimad.engines import selection
from nimad.engines.interpreter import Interpreter
from nimad.engines.packages import MODULE, unloadable
from nimad.errors import EngineError, ExitCode, NimadError, RefusedError, StoppedError, UsageError
from nimad.host import machine, rights
from nimad.source.bounds import size_taken
from nimad.source.header import check_source
from nimad.source.ranges import FIRST_KEY
from nimad.source.row_numbers import is_numbered
from nimad.source.rows import keys_among, read_keys
from nimad.source.schema import INT64_MIN, NODES, TARGET_TABLES, Schema
from nimad.source.sql import sql_name
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import read_schema
from nimad.state import ledger, names, provenance, target_state
from nimad.state.ledger import Notes
from nimad.state.left_out import left_out as left_out_rows
from nimad.state.paths import Files, not_for_us
from nimad.state.quarantine import entries, key_of
from nimad.supervisor import worker_failure
from nimad.supervisor.outcome import Action, FailureKind, WorkerResult
from nimad.supervisor.plan import MIB, POOL_FLOOR, limits_for
from nimad.supervisor.retry import TARGET_DELAYS_S, FailedTry, retry
from nimad.supervisor.timeout import Timeout
from nimad.supervisor.worker_process import Launch, WorkerPool
from nimad.worker.compare.facts import Listed, TableCompared
from nimad.worker.protocol import Job, Quarantined, Task

#: Rows, and bytes of them, that are held against each other at the same time. With 9,770 memories the worker takes
#: 216 MB so, where 8,192 rows made it 490 MB: the engine takes much for a long list of edges.
_CHUNK_ROWS, _CHUNK_BYTES = 1_000, 4 * MIB

#: Entries of a quarantine that are looked for in SQLite at the same time, and characters of a reason.
_ENTRIES: Final = 5_000
_REASON_CHARS: Final = 200

#: Ends that say that the file cannot be read as a LadybugDB file, or not to its end.
_UNREADABLE = (
    FailureKind.UNREADABLE,
    FailureKind.WAL_REPLAY,
    FailureKind.DAMAGED,
    FailureKind.CRASHED,
    FailureKind.NO_ANSWER,
    FailureKind.HALF_ANSWER,
)
#: Those of them that may be the engine's fault alone.
_MAYBE_THE_ENGINE = (FailureKind.CRASHED, FailureKind.NO_ANSWER, FailureKind.HALF_ANSWER)


@dataclass(frozen=True)
class Comparison:
    """What was found, by SQLite's tables. `beyond` and `others`: what the target has and SQLite has no place for."""

    source: Path
    target: Path
    engine: str
    level: str
    tables: Mapping[str, TableCompared]
    remarks: tuple[str, ...]  # columns that the target lacks, or has in another type
    beyond: Mapping[str, Mapping[str, int]]  # values of columns that SQLite lacks, by the target's tables
    others: Mapping[str, int]  # rows of tables that are none of ours
    maker: str = ""  # another source that the target was made from
    holder: int | None = None  # the process that has the target open
    unread: tuple[str, ...] = ()  # logs by other names of the target, in words
    names: tuple[str, ...] = ()  # what is to be known of its names

    def total(self, kind: str) -> int:
        """How many rows of all tables are of a kind, by the name of its list."""
        found: list[Listed] = [getattr(table, kind) for table in self.tables.values()]
        return sum(listed.count for listed in found)

    def count(self, what: str) -> int:
        """The same of a number that has no list."""
        return sum(getattr(table, what) for table in self.tables.values())

    @property
    def exit_code(self) -> ExitCode:
        if self.remarks or self.total("lacking") or self.total("differing"):
            return ExitCode.DIFFERENCE
        kinds = ("late", "aside", "since_here", "since_there", "extra")
        unmatched = self.unread or self.beyond or self.others or any(self.total(kind) for kind in kinds)
        return ExitCode.QUARANTINED if unmatched else ExitCode.COMPLETE


def compare(settings: Settings, level: str = "full", stop: threading.Event | None = None) -> Comparison:
    """Hold `settings.target` against `settings.source`, every row and column, or with `counts` the numbers of rows.

    Nothing is changed or left behind on either side. Raises a `NimadError` where one of them cannot be read.
    """
    stop, files = stop or threading.Event(), Files.of(settings)
    check_source(settings.source)
    rights.check_own(settings.source)
    check_there(files.target)
    made, maker = made_of(settings, files, stop)
    job = job_of(settings, files, made)
    answer = ask_alone(settings, replace(job, counts_only=level == "counts"), stop)
    tables = {name: TableCompared.from_json(table) for name, table in answer.facts["tables"].items()}
    engine = answer.facts["engine"]
    if level == "counts":
        source = SourceFile(settings.source, stop)
        tables = {name: _counted(name, table, job, source) for name, table in tables.items()}
    if TARGET_TABLES[NODES] in {remark.removesuffix(" is missing") for remark in answer.facts["remarks"]}:
        raise UsageError(f"{files.target} is a LadybugDB file without memories; name a finished target with --target")
    return Comparison(
        source=settings.source,
        target=files.target,
        engine=f"{engine['name']} {engine['version']}",
        level=level,
        tables=tables,
        remarks=tuple(answer.facts["remarks"]),
        beyond=answer.facts["beyond"],
        others=answer.facts["others"],
        maker=maker,
        holder=machine.holder_of(files.target),
        unread=tuple(names.unread(files)),
        names=tuple(map(str, names.remarks(settings, files))),
    )


def ask_alone(settings: Settings, job: Job, stop: threading.Event) -> WorkerResult:
    """`ask`, by workers for this job alone."""
    launch = launch_of(settings)
    with WorkerPool(stop, launch=launch) as workers:
        return ask(job, workers, launch)


def check_there(target: Path) -> None:
    """Raise what belongs to a target that is not there, or not for us."""
    try:
        there = target.exists()
        readable = target.is_file()
    except PermissionError as error:
        raise not_for_us(target, str(error.strerror)) from None
    if not there:
        raise provenance.not_there(target)
    if not readable:
        raise UsageError(f"{target} is not a file; name the LadybugDB file with --target")


def made_of(settings: Settings, files: Files, stop: threading.Event) -> tuple[Mapping[str, Any], str]:
    """What the run wrote that made the target of this memory; and of which other source it was made, if of one."""
    made, source = target_state.of_target(files), SourceFile(settings.source, stop)

    def ask(job: Job) -> WorkerResult:
        size = source.size()
        schema = source.read(lambda c: read_schema(c, source, nodes_only=False))
        with WorkerPool(stop, launch=launch_of(settings)) as workers:
            job = replace(job, schema=schema).within(limits_for(size))
            return workers.do(job, limit_s=Timeout().limit_s(size), last=True)

    found = source_identity.check_identity(made, source, files.followed, ask)
    if found is None:
        return {}, ""
    if found.why:
        was = found.noted.path
        return {}, was if was != found.now.path else f"another file that was at {was}"
    return made, ""


def launch_of(settings: Settings) -> Launch:
    """How to start a worker that only reads: any file opens in the newest engine, which is ours unless one is named."""
    module = MODULE if settings.engine == AUTO else settings.engine
    python = settings.engine_python
    interpreter = Interpreter() if python is None else selection.named(settings, "engine_python", python)
    return Launch(interpreter, module, settings.priority)


def job_of(settings: Settings, files: Files, made: Mapping[str, Any], *, every: bool = False) -> Job:
    """The job of a comparison; without limits, which the file's size decides.

    `every`: also of tables that the run which made the target was to leave out.
    """
    source = SourceFile(settings.source)
    nodes_only = not every and target_state.is_of_nodes_alone(made)
    schema: Schema = source.read(lambda c: read_schema(c, source, nodes_only=nodes_only))
    schema = replace(schema, least=int(made.get("schema", {}).get("least", INT64_MIN)))
    known = bool(made) and files.followed.exists()
    bounds = {table.name: FIRST_KEY for table in schema.tables()} | dict(made["bounds"]) if made.get("bounds") else {}
    return Job(
        task=Task.COMPARE,
        source=str(settings.source),
        target=str(files.target),
        schema=schema,
        bounds=bounds,
        ledger=str(files.followed) if known else "",
        quarantined=_quarantined(source, schema, files.quarantine),
        refused=left_out_rows(source, schema, files.quarantine)[1],
        strange=known and not target_state.is_of(files, made),
        chunk_rows=_CHUNK_ROWS,
        chunk_bytes=_CHUNK_BYTES,
    )


def _quarantined(source: SourceFile, schema: Schema, file: Path) -> Quarantined:
    """Why rows that SQLite has were set aside whole. What a file of any length says of others takes no memory."""
    found: dict[str, dict[int, str]] = {}
    tables = {table.name: table for table in schema.tables()}
    whole = (entry for entry in entries(file) if entry["part"] == "row" and entry["table"] in tables)
    while part := [(entry["table"], key_of(entry), _reason(entry)) for entry in islice(whole, _ENTRIES)]:
        for name, table in tables.items():
            reasons = {key: why for of, key, why in part if of == name and key is not None}
            if not reasons:
                continue
            there = source.read(lambda c, table=table, reasons=reasons: keys_among(c, table, reasons))  # type: ignore[misc]
            found.setdefault(name, {}).update({key: reasons[key] for key in there})
    return found


def _reason(entry: Mapping[str, Any]) -> str:
    return sys.intern(str(entry.get("reason", ""))[:_REASON_CHARS])


def ask(job: Job, workers: WorkerPool, launch: Launch) -> WorkerResult:
    """Do a job that only reads both sides, on a target that lay still meanwhile.

    An engine opens a file for reading also while another process writes to it, and may find half of a checkpoint.
    Raises the error that belongs to the last failure.
    """
    target = job.target_path()
    for _ in TARGET_DELAYS_S:
        before = target_state.stamps_of(target)
        answer = _try(job, workers)
        if before == target_state.stamps_of(target):
            if answer.ok:
                return answer
            raise _error_of(job, answer, workers, launch)
    raise _busy(target, "it changed while it was read")


def _try(job: Job, workers: WorkerPool) -> WorkerResult:
    target, pool_factor = job.target_path(), 1

    def work() -> WorkerResult:
        size = machine.space_taken(target) + size_taken(job.source_path())
        # What is only read need not stay in the pool.
        limits = replace(limits_for(size), pool_bytes=POOL_FLOOR * pool_factor)
        return workers.do(job.within(limits), limit_s=Timeout().limit_s(size), last=True)

    def next_delay_s(failed: FailedTry) -> float | None:
        nonlocal job, pool_factor
        action = failed.result.rule.action
        if action in (Action.STOP, Action.REPAIR):
            return None
        if action is Action.LARGER_POOL:
            pool_factor *= 2
        if action is Action.SMALLER_BATCH:
            job = replace(job, chunk_rows=max(1, job.chunk_rows // 4), chunk_bytes=max(1, job.chunk_bytes // 4))
        return failed.delay_s

    return retry(work, next_delay_s, workers.pause, TARGET_DELAYS_S)


def _busy(target: Path, why: str) -> RefusedError:
    holder = machine.holder_of(target)
    who = f"PID {holder}" if holder else "another program"
    return RefusedError(f"{target} is in use by {who} ({why}); stop that, then run again")


def _error_of(job: Job, answer: WorkerResult, workers: WorkerPool, launch: Launch) -> NimadError:
    """What a comparison that could not be made means for the user."""
    target, message = job.target_path(), answer.message
    if answer.kind is FailureKind.NOT_ALLOWED:
        return not_for_us(target, message)
    in_doubt = answer.kind in (*_UNREADABLE, FailureKind.RECOVERY_PENDING)
    if answer.kind is FailureKind.LOCKED or (in_doubt and machine.holder_of(target)):
        return _busy(target, message)
    if answer.kind is FailureKind.STORAGE_VERSION:
        return EngineError(
            f"{target} was written by another release of LadybugDB than is here ({message}); name an interpreter that "
            "has that one, with --engine-python"
        )
    if answer.kind in _MAYBE_THE_ENGINE and not workers.do(Job(task=Task.PROBE), last=True).ok:
        return EngineError(unloadable(message, launch.module, launch.interpreter.python))
    if answer.kind is FailureKind.RECOVERY_PENDING:
        return worker_failure.to_recover(target)
    if answer.kind in _UNREADABLE:
        anew = command.line("migrate", "--source", job.source, "--target", target, "--replace")
        return NimadError(
            f"{target} cannot be read as a LadybugDB file ({message}); if it is one that nimad made, rebuild it, "
            f"which keeps this one as a dated backup, with: {anew}"
        )
    if answer.kind in (
        FailureKind.ENGINE_MISSING,
        FailureKind.SOURCE,
        FailureKind.SOURCE_BUSY,
        FailureKind.ADDRESS_SPACE,
        FailureKind.DISK,
    ):
        return worker_failure.error_of(answer)
    return StoppedError(f"{target} could not be compared: {message}; free some memory, then run again")


def _counted(name: str, table: TableCompared, job: Job, source: SourceFile) -> TableCompared:
    """What the numbers of rows alone say of a table: how many are where, and not which."""
    aside = len(job.quarantined.get(name, ()))
    expected = table.rows - aside
    late = max(0, min(_late(name, job, source), expected - table.there))
    lacking = max(0, expected - late - table.there)
    return replace(
        table,
        same=min(expected, table.there),
        late=Listed(late),
        aside=Listed(aside),
        lacking=Listed(lacking),
        extra=Listed(max(0, table.there - expected)),
    )


def _late(name: str, job: Job, source: SourceFile) -> int:
    """How many rows of a table came after the run that made the target."""
    table, bound = job.needs().table(name), job.bounds.get(name)
    if bound is None:
        return 0
    if source.read(lambda c: is_numbered(c, name)):
        notes = ledger.read_notes(Path(job.ledger))[name] if job.ledger and not job.strange else Notes()
        keys = source.read(lambda c: read_keys(c, table)) - job.quarantined.get(name, {}).keys()
        return sum(notes.came_since(key, bound, numbered=True) for key in keys)
    key = sql_name(table.key)
    return source.number(f"SELECT count(*) FROM {sql_name(name)} WHERE typeof({key}) = 'integer' AND {key} > ?", bound)
