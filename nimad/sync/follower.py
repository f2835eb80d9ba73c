"""The follower: brings what reaches SQLite after publishing to the target."""

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
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
from nimad.host.disk import mount_number
from nimad.source.header import check_source
from nimad.source.ranges import FIRST_KEY
from nimad.source.row_numbers import is_numbered
from nimad.source.schema import (
    EDGES,
    NODES,
    TARGET_TABLES,
    TURNS,
    Schema,
    Table,
    ValueKind,
    moved_columns,
    with_columns,
)
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import read_schema
from nimad.state import names, provenance, target_state
from nimad.state.left_out import left_out as left_out_rows
from nimad.state.paths import Files, check_names, locked, replace_bytes
from nimad.state.quarantine import entry_of, line_key, lines
from nimad.state.quarantine_summary import QuarantineSummary
from nimad.supervisor.hooks import Hooks
from nimad.supervisor.outcome import WorkerResult
from nimad.supervisor.plan import limits_for
from nimad.supervisor.timeout import Timeout
from nimad.supervisor.worker_process import Launch, WorkerPool
from nimad.sync.live_compaction import IN_PASSING, LiveCompaction
from nimad.sync.round import LeftAloneError, OtherColumnsError, RoundResult, SyncRound, engine_of, until_free
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

_Shape = tuple[int, tuple[bool, ...]]


@dataclass(frozen=True)
class SyncResult:
    """What a catching-up came to. `added`, `changed`, `removed`: memories; `edges`, `turns`: added or changed."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    edges: int = 0
    turns: int = 0
    quarantined: int = 0  # lines of the quarantine that are new
    nodes: int = 0  # in the target now
    left_alone: str = ""  # why nothing was written, where something may have to be
    moved: bool = False  # whether rows changed while they were brought, so that there is more to bring

    @property
    def anything(self) -> bool:
        return any((self.added, self.changed, self.removed, self.edges, self.turns, self.quarantined))


class Follower:
    """Keeps one published target up to date. Nothing stays running between two calls, but what `get_ready` starts."""

    def __init__(self, settings: Settings, stop: threading.Event, listener: Listener) -> None:
        self._settings, self._stop, self._listener = settings, stop, listener
        self._choice: Choice | None = None
        self._engine: Mapping[str, Any] = {}
        self._schema: tuple[_Shape | None, Schema] | None = None  # with the shape that it was read of
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
        return SyncResult(nodes=_nodes(target_state.of_target(self._files())), left_alone=why)

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
            done = _sum(done, more)
            if not more.anything and not more.moved:
                break
        self._tell(done, began)
        self._compaction.compact(self._files(), self._launch(), beyond=IN_PASSING)
        return done

    def _tell(self, done: SyncResult, began: float) -> None:
        if done.anything:
            facts = {name: value for name, value in vars(done).items() if name not in ("left_alone", "moved")}
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
            lost = (strange and target_state.tells_files_apart(files.target)) or _has_lost(files, made)
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
            self._of = _which(target_state.of_target(files), files)  # another file with the same in it
        return done

    def _launch(self) -> Launch:
        choice = self._chosen(self._files())
        return Launch(choice.interpreter, choice.module, self._settings.priority)

    def _bring(self, files: Files, schema: Schema, workers: WorkerPool, late: Late) -> SyncResult:
        """Have what is late brought, and note what became of it and how the target was left."""
        source = SourceFile(self._settings.source, self._stop)
        left_out = left_out_rows(source, schema, files.quarantine)
        entries = QuarantineSummary.of(files.quarantine).entries
        left, before = _stamps(files)
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
            _note_seen(files, made, before)
            return SyncResult(nodes=_nodes(made))
        _drop_settled(files, done)
        quarantined = QuarantineSummary.of(files.quarantine).entries - entries
        stamps = catching.left or {**target_state.stamps_of(files.target), "log": {}}
        made = target_state.note(files, made, _facts(made, done, quarantined, schema, stamps))
        return replace(_result(made, done, quarantined), moved=any(done.moved.values()))

    def _forget_others(self, files: Files, made: Mapping[str, Any]) -> None:
        """Forget what was found out about another target, when a run put this one in its place."""
        this = _which(made, files)
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
        shape = source.read(_shape)
        if self._schema is not None and self._schema[0] == shape:
            return self._schema[1]
        nodes_only = target_state.is_of_nodes_alone(made)
        if not made.get("schema"):
            schema = source.read(lambda c: read_schema(c, source, nodes_only=nodes_only))
        else:
            schema = Schema.from_json(made["schema"])
            if source.read(lambda c: any(moved_columns(c, table) for table in schema.tables())):
                now = source.read(lambda c: read_schema(c, source, nodes_only=nodes_only))
                schema = _with_columns(schema, now, made)
        self._schema = shape, schema
        return schema

    def _leave_out(self, files: Files, schema: Schema, error: OtherColumnsError) -> Schema:
        """The schema without columns that the target's cannot hold, which is said once and noted."""
        made = target_state.of_target(files)
        before = {(str(table), str(column)) for table, column in made.get("columns_left_out", ())}
        left = before | {(table, column) for table, column, _ in error.columns}
        target_state.note(files, made, {"columns_left_out": sorted(map(list, left))})
        self._listener(sync.ColumnsLeftOut(tuple(f"{table}.{column} ({why})" for table, column, why in error.columns)))
        schema = _with_columns(schema, schema, {"columns_left_out": left})
        self._schema = (self._schema[0] if self._schema else None), schema
        return schema

    def _may_keep_log(self, choice: Choice) -> bool:
        """Whether every program that opens the target replays the log that we would leave."""
        numbers = tuple(int(part) for part in str(self._engine["version"]).split(".")[:2])
        alike = all(reader.storage_version == self._engine["storage_version"] for reader in choice.readers)
        return numbers >= _LOG_SINCE and alike


def _shape(connection: sqlite3.Connection) -> _Shape:
    """SQLite's number of its schema, and of which tables the ids are numbers of ours, with a column for the others."""
    (number,) = connection.execute("PRAGMA schema_version").fetchone()
    return number, tuple(is_numbered(connection, table) for table in TARGET_TABLES)


def _which(made: Mapping[str, Any], files: Files) -> tuple[Any, Any]:
    """Which target this is: when it was made, its file, and on which mount that is."""
    return made.get("started"), (target_state.which(files.target), mount_number(files.target))


def _has_lost(files: Files, made: Mapping[str, Any]) -> bool:
    """Whether the target may lack what is noted of it, though the agent took nothing out."""
    target = files.target
    return bool(made.get("distrust")) or target_state.lost_log(target, made) or target_state.is_older(target, made)


def _stamps(files: Files) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The target's stamps, twice; first None in their place where its log is not ours alone."""
    made = target_state.of_target(files)
    own = target_state.has_own_log(files.target, made)
    # What somebody writes between here and the moment when the worker opens the target is taken for ours.
    before = target_state.stamps_of(files.target)
    return (before if own else None), (before if own else {**before, "log": {}})


def _note_seen(files: Files, made: Mapping[str, Any], left: Mapping[str, Any]) -> None:
    """Note a look that found nothing to bring."""
    facts = {name: value for name, value in left.items() if made.get(name, {}) != value}
    if made.get("distrust"):
        facts["distrust"] = False
    if facts:
        target_state.note(files, made, facts)


def _nodes(made: Mapping[str, Any]) -> int:
    return int(made.get("published", {}).get(TARGET_TABLES[NODES], 0))


def _with_columns(known: Schema, now: Schema, made: Mapping[str, Any]) -> Schema:
    """A schema with the columns that the source has now, but for those that the target's cannot hold."""
    left = {(str(table), str(column)) for table, column in made.get("columns_left_out", ())}

    def of(table: Table | None, new: Table | None) -> Table | None:
        if table is None or new is None:
            return table
        return with_columns(table, new, {column for name, column in left if name == table.name})

    nodes = of(known.nodes, now.nodes) or known.nodes
    dimension = known.dimension if _has_vector(known) else now.dimension
    return Schema(nodes, of(known.edges, now.edges), of(known.turns, now.turns), dimension)


def _has_vector(schema: Schema) -> bool:
    return any(column.kind is ValueKind.VECTOR for column in schema.nodes.columns)


def _drop_settled(files: Files, done: RoundResult) -> None:
    """Take out of the quarantine what it says of rows that were judged anew since."""

    def kept() -> Iterator[bytes]:
        everything = lines(files.quarantine)
        return (line for line in everything if line_key(line) in done.rejected or not _is_settled(entry_of(line), done))

    left = sum(1 for _ in kept())
    if left == sum(1 for _ in lines(files.quarantine)):
        return
    if left:
        replace_bytes(files.quarantine, kept())
    else:
        files.quarantine.unlink()


def _is_settled(entry: Mapping[str, Any] | None, done: RoundResult) -> bool:
    if entry is None or entry["part"] == "range" or not isinstance(entry["id"], int):
        return False
    return entry["id"] in done.settled.get(entry["table"], ())


def _facts(
    made: Mapping[str, Any], done: RoundResult, quarantined: int, schema: Schema, stamps: Mapping[str, Any]
) -> dict[str, Any]:
    """What the state file is to say of the target now."""
    bounds = dict(made.get("bounds", {}))
    for table, keys in done.settled.items():
        if keys:
            bounds[table] = max(*keys, bounds.get(table, FIRST_KEY))
    if done.dimension:
        schema = replace(schema, dimension=done.dimension)
    return {
        "bounds": bounds,
        "published": {**made.get("published", {}), **done.counts},
        "quarantined": made.get("quarantined", 0) + quarantined,
        "followed": {
            "at": target_state.stamp(time.time()),
            "recalled": done.since,
            **target_state.which_of(stamps["file"]),
        },
        **stamps,
        "schema": schema.to_json(),
        **({"distrust": False} if made.get("distrust") else {}),
    }


def _sum(one: SyncResult, other: SyncResult) -> SyncResult:
    """What two looks came to, one after the other."""
    names = ("added", "changed", "removed", "edges", "turns", "quarantined")
    return replace(other, moved=False, **{name: getattr(one, name) + getattr(other, name) for name in names})


def _result(made: Mapping[str, Any], done: RoundResult, quarantined: int) -> SyncResult:
    def count(sets: Mapping[str, set[int]], table: str) -> int:
        return len(sets.get(table, ()))

    both = {table: done.added.get(table, set()) | done.changed.get(table, set()) for table in (EDGES, TURNS)}
    return SyncResult(
        added=count(done.added, NODES),
        changed=count({NODES: done.changed.get(NODES, set()) - done.added.get(NODES, set())}, NODES),
        removed=count(done.removed, NODES),
        edges=count(both, EDGES),
        turns=count(both, TURNS),
        quarantined=max(0, quarantined),
        nodes=_nodes(made),
    )
