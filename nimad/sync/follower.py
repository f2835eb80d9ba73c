"""The follower: brings what reaches SQLite after publishing to the target."""

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from nimad.compare import source_identity
from nimad.compare.source_identity import IdentityCheck
from nimad.config import Settings, command
from nimad.engines import selection
from nimad.engines.selection import Choice
from nimad.errors import BatchFailedError, DifferenceError, NimadError, RefusedError, StoppedError
from nimad.events import sync
from nimad.events.run import Listener
from nimad.host import machine
from nimad.source.header import check_source
from nimad.source.schema import (
    Schema,
    moved_columns,
)
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import read_schema
from nimad.state import names, provenance, target_state
from nimad.state.left_out import left_out as left_out_rows
from nimad.state.paths import Files, check_names, locked
from nimad.state.quarantine_summary import QuarantineSummary
from nimad.supervisor.hooks import Hooks
from nimad.supervisor.outcome import WorkerResult
from nimad.supervisor.plan import limits_for
from nimad.supervisor.timeout import Timeout
from nimad.supervisor.worker_process import Launch, WorkerPool
from nimad.sync.live_compaction import IN_PASSING, LiveCompaction
from nimad.sync.noted import Shape, has_lost, note_seen, shape_of, stamps_before, which_target, with_later_columns
from nimad.sync.result import SyncResult, drop_settled, facts_after, nodes_in, result_of, total
from nimad.sync.round import LeftAloneError, OtherColumnsError, SyncRound, engine_of, until_free
from nimad.worker.protocol import Job, Late

#: The first release whose log is found whole by the next program whatever is in it: that of 0.20.4 is not, once a row
#: has some kB («Read out invalid WAL record type»).
_LOG_SINCE = (0, 22)
#: Bytes of memory from which on the worker that looks for what was brought is started while that is brought.
EARLY_BYTES = 512 * 1024**2
#: Seconds to wait for the agent to close the target: it opens it for a moment at each turn.
AGENT_S = 3.0
#: Looks of one run, while the agent goes on writing to SQLite: what comes after the last is brought by the next run.
LAST_ROUNDS = 3


class Follower:
    """Keeps one published target up to date. Nothing stays running between two calls, but what `get_ready` starts."""

    def __init__(self, settings: Settings, stop: threading.Event, listener: Listener) -> None:
        self._settings, self._stop, self._listener = settings, stop, listener
        self._choice: Choice | None = None
        self._engine: Mapping[str, Any] = {}
        self._schema: tuple[Shape | None, Schema] | None = None  # with the shape that it was read of
        self._since: int | None = None  # the latest recall that was seen
        self._found: tuple[IdentityCheck, object] | None = None  # the source, as it was looked at last, and its stamps
        self._of: tuple[Any, Any] | None = None  # which target all this is about
        self._said = ""
        self._next: WorkerPool | None = None  # with the worker of the next look
        self._compaction = LiveCompaction(SourceFile(settings.source), stop, listener)

    def catch_up(self, *, thorough: bool = False, last: bool = False) -> SyncResult:
        """Bring to the target what is new or was recalled; `thorough`: and whatever else changed or went.

        `last`: leave a closed file. Raises `StoppedError` once a stop is asked for, and `DifferenceError` when the
        target does not keep what is written to it. Whatever else is in the way is told in `left_alone`.
        """
        began = time.monotonic()
        try:
            done = self._catch_up(thorough=thorough, last=last)
        except (LeftAloneError, RefusedError, BatchFailedError) as error:
            return self._left_alone(str(error))
        except (StoppedError, DifferenceError):
            raise
        except NimadError as error:
            return self._left_alone(str(error))
        except OSError as error:
            return self._left_alone(f"{error.filename or self._settings.target}: {error.strerror or error}")
        finally:
            self.rest()
        self._said = ""
        self._tell(done, began)
        if done.quarantined:
            Hooks(self._settings, self._listener, self._stop).set_aside_late(done.quarantined, done.nodes)
        return done

    def get_ready(self) -> None:
        """Start the worker of the next look, which takes about as long as the burst that the look is for."""
        if self._choice is not None and self._next is None:
            self._next = self._workers()
            with suppress(OSError):  # too many processes: the look tells of that
                self._next.prepare()

    def rest(self) -> None:
        """End a worker that no look took."""
        if self._next is not None:
            self._next.rest()
            self._next = None

    def _workers(self) -> WorkerPool:
        workers = WorkerPool(self._stop, launch=self._launch())
        workers.early = machine.available_memory() > EARLY_BYTES
        return workers

    def _left_alone(self, why: str) -> SyncResult:
        if why != self._said:
            self._said = why
            self._listener(sync.LeftAlone(why))
        return SyncResult(nodes=nodes_in(target_state.of_target(self._files())), left_alone=why)

    def source_stamps(self) -> object:
        """What differs once somebody wrote to SQLite."""
        return SourceFile(self._settings.source).stamps()

    @property
    def compaction_due_s(self) -> float | None:
        """Seconds until the target is to be copied without its holes; None where it has few."""
        return self._compaction.due_in(self._files())

    def _files(self) -> Files:
        return Files.of(self._settings)

    def bring(self) -> SyncResult:
        """Bring what is late to a target whose lock the caller holds, and leave a closed file.

        Raises `LeftAloneError` where nothing can be written, for a reason in words for people.
        """
        began, done = time.monotonic(), SyncResult()
        for _ in range(LAST_ROUNDS):
            more = self._look(self._files(), thorough=True, last=True)
            done = total(done, more)
            if not more.anything and not more.moved:
                break
        self._tell(done, began)
        self._compaction.compact(self._files(), self._launch(), beyond=IN_PASSING)
        return done

    def _tell(self, done: SyncResult, began: float) -> None:
        if done.anything:
            facts = {
                name: value for name, value in vars(done).items() if name not in ("left_alone", "moved", "counted")
            }
            log = str(self._settings.log_file)
            self._listener(sync.CaughtUp(**facts, seconds=round(time.monotonic() - began, 3), log_file=log))

    def _catch_up(self, *, thorough: bool, last: bool) -> SyncResult:
        files, settings = self._files(), self._settings
        if not files.target.exists():
            raise LeftAloneError(f"there is no {files.target}; make it with: {command.migrate(settings)}")
        check_source(settings.source)
        check_names(files, settings.source, settings.log_file)
        with locked(files):
            return self._look(files, thorough=thorough, last=last)

    def _look(self, files: Files, *, thorough: bool, last: bool) -> SyncResult:
        """One look; the caller holds the lock."""
        made: Mapping[str, Any] = target_state.of_target(files)
        names.check_names_closed(files, target_state.names_of(made))  # a log by another name is replayed by its writer
        self._forget_others(files, made)
        choice = self._chosen(files)
        until_free(files.target, self._stop, AGENT_S)
        compacts = self._compaction.due_in(files) == 0.0
        workers, self._next = self._next or self._workers(), None
        with workers:
            workers.start_in(self._launch())  # the engine may be another since
            self._check_engine(files, made, workers)
            schema = self._columns(made)
            made = self._check_origin(files, made, schema, workers)
            strange = not target_state.is_of(files, made) and files.followed.exists()
            lost = (strange and target_state.tells_files_apart(files.target)) or has_lost(files, made)
            late = Late(
                thorough=thorough or lost,
                distrust=lost,
                strange=strange,
                since=self._since if self._since is not None else int(made.get("followed", {}).get("recalled", 0)),
                removed=made.get("removed", {}),
                keep_log=not (last or compacts)
                and self._may_keep_log(choice)
                and target_state.has_own_log(files.target, made),
            )
            try:
                done = self._bring(files, schema, workers, late)
            except OtherColumnsError as error:
                done = self._bring(files, self._leave_out(files, schema, error), workers, late)
        if compacts and self._compaction.compact(files, self._launch()):
            self._of = which_target(target_state.of_target(files), files)  # another file with the same in it
        return done

    def _launch(self) -> Launch:
        choice = self._chosen(self._files())
        return Launch(choice.interpreter, choice.module, self._settings.priority)

    def _bring(self, files: Files, schema: Schema, workers: WorkerPool, late: Late) -> SyncResult:
        """Have what is late brought, and note what became of it and how the target was left."""
        source = SourceFile(self._settings.source, self._stop)
        left_out = left_out_rows(source, schema, files.quarantine)
        entries = QuarantineSummary.of(files.quarantine).entries
        left, before = stamps_before(files)
        catching = SyncRound(self._settings, files, schema, workers, self._listener, left_out, left=left)
        try:
            done = catching.run(late)
        except (LeftAloneError, OtherColumnsError, NimadError):
            if catching.left and catching.left != left:  # or it would be taken for somebody else's
                target_state.note(files, target_state.of_target(files), catching.left)
            raise
        made = target_state.of_target(files)
        self._since = done.since
        if not done.opened:
            note_seen(files, made, before)
            return SyncResult(nodes=nodes_in(made))
        drop_settled(files, done)
        quarantined = QuarantineSummary.of(files.quarantine).entries - entries
        stamps = catching.left or {**target_state.stamps_of(files.target), "log": {}}
        made = target_state.note(files, made, facts_after(made, done, quarantined, schema, stamps))
        return replace(result_of(made, done, quarantined), moved=any(done.moved.values()))

    def _forget_others(self, files: Files, made: Mapping[str, Any]) -> None:
        """Forget what was found out about another target, when a run put this one in its place."""
        this = which_target(made, files)
        if self._of != this:
            self._choice, self._engine, self._schema, self._since, self._found = None, {}, None, None, None
            self._of = this

    def _chosen(self, files: Files) -> Choice:
        if self._choice is None:
            choice = selection.choose_engine(
                self._settings, self._settings.source, provenance.made_with(files.target), self._stop
            )
            if choice.refusal:
                raise LeftAloneError(choice.refusal)
            self._choice = choice
        return self._choice

    def _check_origin(
        self, files: Files, made: Mapping[str, Any], schema: Schema, workers: WorkerPool
    ) -> Mapping[str, Any]:
        """The state of the target, with where its memory is now. Raises when that is another memory."""
        anew = command.migrate(self._settings, "--replace")
        found = self._known(files, made, schema, workers)
        if found is None:
            raise LeftAloneError(f"nothing tells from which source {files.target} was made; make one with: {anew}")
        made = source_identity.note(files, made, found)
        if found.why:
            raise LeftAloneError(f"{found.why}; make a target of it with: {anew}")
        return made

    def _known(
        self, files: Files, made: Mapping[str, Any], schema: Schema, workers: WorkerPool
    ) -> IdentityCheck | None:
        """What a look at the source's rows found: at this one, or at an earlier one of the same file.

        Another memory is looked at again once it was written to.
        """
        source = SourceFile(self._settings.source, self._stop)
        now, stamps = source.identity(), source.stamps()
        if self._found is not None and self._found[0].now == now:
            found, seen = self._found
            if not found.why or stamps == seen:
                return found

        def ask(job: Job) -> WorkerResult:
            size = source.size()
            job = replace(job, schema=schema).within(limits_for(size))
            return workers.do(job, limit_s=Timeout().limit_s(size))

        looked = source_identity.check_identity(made, source, files.followed, ask)
        if looked is not None:
            if looked.moved or (self._found is not None and not looked.why):
                self._listener(sync.Moved(str(files.target), looked.noted.path, now.path))
            self._found = looked, stamps
        return looked

    def _check_engine(self, files: Files, made: Mapping[str, Any], workers: WorkerPool) -> None:
        """Raise when the engine would make the target one that the agent may be unable to open."""
        if not self._engine:
            self._engine = engine_of(workers)
        version = int(made.get("versions", {}).get("engine", {}).get("storage_version", 0))
        if version and version != self._engine["storage_version"]:
            raise LeftAloneError(
                f"{files.target} has storage version {version}, and {self._engine['name']} {self._engine['version']} "
                f"would make it {self._engine['storage_version']}; name an interpreter with the engine that made it, "
                "with --engine-python"
            )

    def _columns(self, made: Mapping[str, Any]) -> Schema:
        """What the source's columns become in the target: those that it was made with, and those that came since."""
        source = SourceFile(self._settings.source, self._stop)
        shape = source.read(shape_of)
        if self._schema is not None and self._schema[0] == shape:
            return self._schema[1]
        nodes_only = target_state.is_of_nodes_alone(made)
        if not made.get("schema"):
            schema = source.read(lambda c: read_schema(c, source, nodes_only=nodes_only))
        else:
            schema = Schema.from_json(made["schema"])
            if source.read(lambda c: any(moved_columns(c, table) for table in schema.tables())):
                now = source.read(lambda c: read_schema(c, source, nodes_only=nodes_only))
                schema = with_later_columns(schema, now, made)
        self._schema = shape, schema
        return schema

    def _leave_out(self, files: Files, schema: Schema, error: OtherColumnsError) -> Schema:
        """The schema without columns that the target's cannot hold, which is said once and noted."""
        made = target_state.of_target(files)
        before = {(str(table), str(column)) for table, column in made.get("columns_left_out", ())}
        left = before | {(table, column) for table, column, _ in error.columns}
        target_state.note(files, made, {"columns_left_out": sorted(map(list, left))})
        self._listener(sync.ColumnsLeftOut(tuple(f"{table}.{column} ({why})" for table, column, why in error.columns)))
        schema = with_later_columns(schema, schema, {"columns_left_out": left})
        self._schema = (self._schema[0] if self._schema else None), schema
        return schema

    def _may_keep_log(self, choice: Choice) -> bool:
        """Whether every program that opens the target replays the log that we would leave."""
        numbers = tuple(int(part) for part in str(self._engine["version"]).split(".")[:2])
        alike = all(reader.storage_version == self._engine["storage_version"] for reader in choice.readers)
        return numbers >= _LOG_SINCE and alike
