"""Following: a published target is kept up to date with its source until it is handed over to the agent."""

import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nimad import command, rights
from nimad.config import Settings
from nimad.errors import BatchFailedError, DifferenceError, NimadError, RefusedError, StoppedError
from nimad.migration import engines, existing, follow_events, remembered, state
from nimad.migration.catching_up import Catching, Done, LeftAloneError, engine_of
from nimad.migration.child import Launch, Workers
from nimad.migration.engines import Choice
from nimad.migration.events import Listener
from nimad.migration.files import Files, check_names, locked, replace_bytes
from nimad.migration.hooks import Hooks
from nimad.migration.tally import Tally
from nimad.source.file import SourceFile, check_source
from nimad.source.ranges import FIRST_KEY
from nimad.source.schema import EDGES, LINKS, NODES, TARGET_TABLES, TURNS, Schema, moved_columns
from nimad.source.survey import read_schema
from nimad.worker.job import Late
from nimad.worker.quarantine import entry_of, line_key, lines

#: The first release whose log is found whole by the next program whatever is in it: that of 0.20.4 is not, once a row
#: has some kB («Read out invalid WAL record type»).
_LOG_SINCE = (0, 22)
#: Looks for the last time, until it is the agent that has to stop.
LAST_ROUNDS = 20
#: Parts of a row that its quarantine tells of until the row is judged anew.
_JUDGED = ("row", "embedding", *LINKS.values())


@dataclass(frozen=True)
class CaughtUp:
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
    """Keeps one published target up to date. Nothing stays running between two calls."""

    def __init__(self, settings: Settings, stop: threading.Event, listener: Listener) -> None:
        self._settings, self._stop, self._listener = settings, stop, listener
        self._choice: Choice | None = None
        self._engine: Mapping[str, Any] = {}
        self._schema: tuple[int, Schema] | None = None  # with SQLite's number of it
        self._since: int | None = None  # the latest recall that was seen
        self._of: tuple[Any, int] | None = None  # which target all this is about: when it was made, and its inode
        self._said = ""

    @property
    def handed_over(self) -> bool:
        """Whether the target is the agent's alone."""
        return bool(state.of_target(self._files()).get("handed_over"))

    def hand_over(self) -> None:
        """Note that the target is the agent's alone from now on.

        Raises `RefusedError` while it is not closed by us, and when something has come since the last look: that is in
        the target then, and it takes one more look.
        """
        files = self._files()
        with rights.working_for(self._settings.source, files.target), locked(files):
            made = state.of_target(files)
            logs = state.logs_of(files.target)
            if logs and logs in (made.get("log"), made.get("left", {}).get("log")):
                raise RefusedError(f"{files.target} has a log of ours still; catch up for the last time first")
            if why := self._what_came(files):
                raise RefusedError(f"{files.target} is not handed over: {why}")
            # What is written to SQLite from here on stays there.
            state.note(files, state.of_target(files), {"handed_over": state.stamp(time.time())})
        with rights.own():
            self._listener(follow_events.HandedOver(str(files.target)))

    def _what_came(self, files: Files) -> str:
        """Why one more look is needed; the caller holds the lock."""
        try:
            done = self._look(files, thorough=False, last=True)
        except LeftAloneError as error:
            return str(error)
        return "more came to SQLite; catch up once more" if done.anything or done.moved else ""

    def catch_up(self, *, thorough: bool = False, last: bool = False) -> CaughtUp:
        """Bring to the target what is new or was recalled; `thorough`: and whatever else changed or went.

        `last`: leave a closed file. Raises `StoppedError` once a stop is asked for, and `DifferenceError` when the
        target does not keep what is written to it. Whatever else is in the way is told in `left_alone`.
        """
        began = time.monotonic()
        try:
            with rights.working_for(self._settings.source, self._settings.target):
                done = self._to_the_end(thorough=thorough) if last else self._catch_up(thorough=thorough, last=False)
        except (LeftAloneError, RefusedError, BatchFailedError) as error:
            return self._left_alone(str(error))
        except (StoppedError, DifferenceError):
            raise
        except NimadError as error:
            return self._left_alone(str(error))
        except OSError as error:
            return self._left_alone(f"{error.filename or self._settings.target}: {error.strerror or error}")
        self._said = ""
        if done.anything:
            facts = {name: value for name, value in vars(done).items() if name not in ("left_alone", "moved")}
            self._listener(follow_events.CaughtUp(**facts, seconds=round(time.monotonic() - began, 3)))
        if done.quarantined:
            Hooks(self._settings, self._listener, self._stop).set_aside_late(done.quarantined, done.nodes)
        return done

    def _left_alone(self, why: str) -> CaughtUp:
        if why != self._said:
            self._said = why
            self._listener(follow_events.LeftAlone(why))
        return CaughtUp(nodes=_nodes(state.of_target(self._files())), left_alone=why)

    def _files(self) -> Files:
        return Files(self._settings.target)

    def _to_the_end(self, *, thorough: bool) -> CaughtUp:
        """Catch up until a look finds nothing more: what comes during the last one would be brought by nobody."""
        done = CaughtUp()
        for _ in range(LAST_ROUNDS):
            more = self._catch_up(thorough=thorough, last=True)
            done = _sum(done, more)
            if not more.anything and not more.moved:
                return done
        raise LeftAloneError(
            f"{self._settings.source} is still being written to, after {LAST_ROUNDS} looks for the last time; stop the "
            "agent until its target is handed over"
        )

    def _catch_up(self, *, thorough: bool, last: bool) -> CaughtUp:
        files, settings = self._files(), self._settings
        if not files.target.exists():
            raise LeftAloneError(f"there is no {files.target}; make it with: {command.migrate(settings)}")
        check_source(settings.source)
        check_names(files, settings.source, settings.log_file)
        with locked(files):
            return self._look(files, thorough=thorough, last=last)

    def _look(self, files: Files, *, thorough: bool, last: bool) -> CaughtUp:
        """One look; the caller holds the lock."""
        made = state.of_target(files)
        self._forget_others(files, made)
        choice = self._chosen(files)
        self._check_origin(files, made)
        workers = Workers(self._stop, launch=Launch(choice.interpreter, choice.module, self._settings.priority))
        workers.early = False  # between two catchings-up no process is to wait, and take memory
        with workers:
            self._check_engine(files, made, workers)
            schema = self._columns(files, made)
            if not state.is_of(files, made):
                files.followed.unlink(missing_ok=True)  # it tells of another target
            doubtful = state.is_doubtful(files.target, made)
            late = Late(
                thorough=thorough or doubtful,
                distrust=doubtful,
                since=self._since if self._since is not None else int(made.get("followed", {}).get("recalled", 0)),
                removed=made.get("removed", {}),
                add_only=last and not files.followed.exists(),
                keep_log=not last and self._may_keep_log(choice, made),
            )
            return self._bring(files, schema, workers, late)

    def _bring(self, files: Files, schema: Schema, workers: Workers, late: Late) -> CaughtUp:
        """Have what is late brought, and note what became of it and how the target was left."""
        source = SourceFile(self._settings.source, self._stop)
        isolated = existing.still_isolated(source, schema, files.quarantine)
        entries = Tally.of(files.quarantine).entries
        left, before = _note_others(files)
        catching = Catching(self._settings, files, schema, workers, self._listener, isolated, left=left)
        try:
            done = catching.run(late)
        except (LeftAloneError, NimadError):
            if catching.left != left:  # or it would be taken for somebody else's
                state.note(files, state.of_target(files), catching.left or {})
            raise
        made = state.of_target(files)
        self._since = done.since
        if not done.opened:
            _note_seen(files, made, catching.left or before)
            return CaughtUp(nodes=_nodes(made))
        _drop_settled(files, done)
        quarantined = Tally.of(files.quarantine).entries - entries
        made = state.note(files, made, _facts(files, made, done, quarantined))
        return replace(_result(made, done, quarantined), moved=any(done.moved.values()))

    def _forget_others(self, files: Files, made: Mapping[str, Any]) -> None:
        """Forget what was found out about another target, when a run put this one in its place."""
        this = made.get("started"), files.target.stat().st_ino
        if self._of != this:
            self._choice, self._engine, self._schema, self._since = None, {}, None, None
            self._of = this

    def _chosen(self, files: Files) -> Choice:
        if self._choice is None:
            choice = engines.choose(self._settings, self._settings.source, remembered.of(files.target), self._stop)
            if choice.refusal:
                raise LeftAloneError(choice.refusal)
            self._choice = choice
        return self._choice

    def _check_origin(self, files: Files, made: Mapping[str, Any]) -> None:
        """Raise when the target is handed over, or not of this source."""
        if made.get("handed_over"):
            raise LeftAloneError(f"{files.target} was handed over on {made['handed_over']}: it is the agent's alone")
        anew = command.migrate(self._settings, "--replace")
        maker, mine = state.identity_of(made), SourceFile(self._settings.source).identity()
        if maker is None:
            raise LeftAloneError(f"nothing tells from which source {files.target} was made; make one with: {anew}")
        if maker != mine:
            what = "was replaced by another file since" if maker.path == mine.path else f"is not {maker.path}, as then"
            raise LeftAloneError(f"{mine.path} {what}; make a target of it with: {anew}")

    def _check_engine(self, files: Files, made: Mapping[str, Any], workers: Workers) -> None:
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

    def _columns(self, files: Files, made: Mapping[str, Any]) -> Schema:
        """What the source's columns became in the target. Raises when they are others now."""
        source = SourceFile(self._settings.source, self._stop)
        number = source.number("PRAGMA schema_version")
        if self._schema is not None and self._schema[0] == number:
            return self._schema[1]
        if made.get("schema"):
            schema = Schema.from_json(made["schema"])
        else:
            nodes_only = EDGES not in made.get("tables", (EDGES,))
            schema = source.read(lambda c: read_schema(c, source, nodes_only=nodes_only))
        if moved := source.read(lambda c: _moved(c, schema)):
            raise LeftAloneError(
                f"the columns of {self._settings.source} changed since {files.target} was made ({moved}); make one "
                f"that has them with: {command.migrate(self._settings, '--replace')}"
            )
        self._schema = number, schema
        return schema

    def _may_keep_log(self, choice: Choice, made: Mapping[str, Any]) -> bool:
        """Whether every program that opens the target replays the log that we would leave, and finds it."""
        numbers = tuple(int(part) for part in str(self._engine["version"]).split(".")[:2])
        alike = all(reader.storage_version == self._engine["storage_version"] for reader in choice.readers)
        return numbers >= _LOG_SINCE and alike and not state.names_of(made)


def _note_others(files: Files) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Note for good when somebody else wrote to the target.

    Return its stamps twice; first None in their place where they are not all ours, so that none is noted as left by us.
    """
    made = state.of_target(files)
    if not state.is_untouched(files.target, made) and not made.get("touched"):
        made = state.note(files, made, {"touched": True})
    # What somebody writes between here and the moment when the worker opens the target is taken for ours.
    before = state.stamps_of(files.target)
    return (None if made.get("touched") else before), before


def _note_seen(files: Files, made: Mapping[str, Any], left: Mapping[str, Any]) -> None:
    """Note a look that found nothing to bring: a target that nobody wrote to meanwhile need not be doubted again."""
    facts = dict(left)
    if made.get("touched"):
        facts = {"left": left}
    facts = {name: value for name, value in facts.items() if made.get(name, {}) != value}
    if made.get("distrust"):
        facts["distrust"] = False
    if facts:
        state.note(files, made, facts)


def _nodes(made: Mapping[str, Any]) -> int:
    return int(made.get("published", {}).get(TARGET_TABLES[NODES], 0))


def _moved(connection: sqlite3.Connection, schema: Schema) -> str:
    """Which columns came or went since the schema was read."""
    moved = []
    for table in schema.tables():
        moved += [f"{table.name}.{what}" for what in moved_columns(connection, table)]
    return ", ".join(moved)


def _drop_settled(files: Files, done: Done) -> None:
    """Take out of the quarantine what it says of rows that were judged anew since."""
    before = list(lines(files.quarantine))
    kept = [line for line in before if line_key(line) in done.rejected or not _is_settled(entry_of(line), done)]
    if len(kept) == len(before):
        return
    if kept:
        replace_bytes(files.quarantine, kept)
    else:
        files.quarantine.unlink()


def _is_settled(entry: Mapping[str, Any] | None, done: Done) -> bool:
    if entry is None or entry["part"] not in _JUDGED or not isinstance(entry["id"], int):
        return False
    return entry["id"] in done.settled.get(entry["table"], ())


def _facts(files: Files, made: Mapping[str, Any], done: Done, quarantined: int) -> dict[str, Any]:
    """What the state file is to say of the target now."""
    bounds = dict(made.get("bounds", {}))
    for table, keys in done.settled.items():
        if keys:
            bounds[table] = max(*keys, bounds.get(table, FIRST_KEY))
    stamps = state.stamps_of(files.target)
    return {
        "bounds": bounds,
        "published": {**made.get("published", {}), **done.counts},
        "quarantined": made.get("quarantined", 0) + quarantined,
        "followed": {"at": state.stamp(time.time()), "recalled": done.since, "inode": stamps["file"]["inode"]},
        # Where somebody else wrote to it, that has to remain to be seen.
        **({"left": stamps} if made.get("touched") else stamps),
        **({"distrust": False} if made.get("distrust") else {}),
    }


def _sum(one: CaughtUp, other: CaughtUp) -> CaughtUp:
    """What two looks came to, one after the other."""
    names = ("added", "changed", "removed", "edges", "turns", "quarantined")
    return replace(other, moved=False, **{name: getattr(one, name) + getattr(other, name) for name in names})


def _result(made: Mapping[str, Any], done: Done, quarantined: int) -> CaughtUp:
    def count(sets: Mapping[str, set[int]], table: str) -> int:
        return len(sets.get(table, ()))

    both = {table: done.added.get(table, set()) | done.changed.get(table, set()) for table in (EDGES, TURNS)}
    return CaughtUp(
        added=count(done.added, NODES),
        changed=count({NODES: done.changed.get(NODES, set()) - done.added.get(NODES, set())}, NODES),
        removed=count(done.removed, NODES),
        edges=count(both, EDGES),
        turns=count(both, TURNS),
        quarantined=max(0, quarantined),
        nodes=_nodes(made),
    )
