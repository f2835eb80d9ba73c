"""What is there already: a finished target, another file in its place, or an interrupted run to go on with."""

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from nimad import command
from nimad.config import Verify
from nimad.disk import discard
from nimad.errors import CannotWriteError, EngineError, RefusedError
from nimad.migration import giving_way, machine, origin, publishing, repair, retry, same_memory, state
from nimad.migration.context import Context
from nimad.migration.ends import Answer, Kind
from nimad.migration.events import Named, NothingToDo
from nimad.migration.files import check_plain, not_for_us
from nimad.migration.follow_events import Moved
from nimad.migration.publishing import in_the_way
from nimad.migration.tally import Tally
from nimad.source.file import SourceFile
from nimad.source.rows import Reject, columns_of, json_row, part_of, read_ids
from nimad.source.schema import TARGET_TABLES, Column, Schema, Table
from nimad.words import number_of, set_aside
from nimad.worker.job import Failed, Job, Task
from nimad.worker.quarantine import entries, entry_of, key_of, line_of, lines

#: What the engine says, in lower case, of a sound file that a program writes to, and of one that was being written to
#: when that was killed; who opens that for writing recovers it.
_IN_USE, _TO_RECOVER = "lock", "recovery is pending"


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
    giving_way.put_back(context)
    check_plain(target)
    if not context.settings.replaces:
        giving_way.give_way(context)
    if target.exists() and not context.files.staging.exists() and state.read(context.files).get("published"):
        publishing.tidy(context.files)  # the run that made it was killed right after the rename
    if context.settings.retry:
        why = _nothing_to_retry(context)
        return NothingToDo(why) if why else None
    if not os.path.lexists(target):
        return None
    if context.settings.replace:
        _check_replaceable(context, state.of_target(context.files), target)
        return None
    if not target.exists():
        raise in_the_way(target, "a symbolic link to nothing")
    made: Mapping[str, Any] = state.of_target(context.files)
    made, maker = _known(context, made), state.identity_of(made)
    count = context.job(Task.COUNT, target=str(target), schema=None)
    answer = retry.quietly(context, count)
    if not answer.ok and _TO_RECOVER in answer.message.lower() and machine.holder_of(target) is None:
        answer = retry.quietly(context, replace(count, writable=True))
    if answer.kind is Kind.ENGINE_MISSING:
        raise retry.error_of(answer)
    if answer.kind is Kind.STORAGE_VERSION:
        _check_readers(context, made)
    if not answer.ok and maker is not None and any(w in answer.message.lower() for w in (_IN_USE, _TO_RECOVER)):
        return InUse(f"{target} is complete, and another program has it open ({answer.message})")
    if answer.kind is Kind.NOT_ALLOWED:
        raise not_for_us(target, answer.message)
    if not answer.ok:
        raise in_the_way(target, f"it cannot be opened as a finished migration: {answer.message}")
    return _complete(context, answer, made)


def _nothing_to_retry(context: Context) -> str | None:
    """Why there is nothing to try again. Raises when a new target would lose what others wrote to this one."""
    files = context.files
    if files.target.exists():
        _check_replaceable(context, state.of_target(files), files.target)
    if context.memory.salvaged:
        raise RefusedError(
            f"pages of {context.settings.source} are damaged, so a new target could hold less than {files.target}; "
            "restore the source first"
        )
    if files.staging.exists():
        return None
    if not files.target.exists():
        raise origin.not_there(files.target)
    tally = Tally.of(files.quarantine, state.of_target(files))
    if not tally.entries and not tally.lacking:
        return f"nothing is in quarantine beside {files.target}"
    return None


def _known(context: Context, made: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state of the target that is there, with where its memory is now. Raises where it is another memory's."""
    files, found = context.files, _found(context, made)
    if found is None:
        return made
    made = same_memory.note(files, made, found)
    _check_found(context, found)
    _tell(context, found, files.target)
    return made


def check_memory(context: Context) -> None:
    """Raise where a run would, because what is there is another memory's; and change nothing."""
    files, made = context.files, state.of_target(context.files)
    if files.target.exists() and context.settings.replaces:
        _check_replaceable(context, made, files.target)
    elif files.target.exists() and (found := _found(context, made)):
        _check_found(context, found)
    if files.staging.exists() and (context.settings.replaces or not files.target.exists()):
        _check_staging(context)


def _found(context: Context, made: Mapping[str, Any]) -> same_memory.Found | None:
    found = _look(context, made, context.files.followed)
    return replace(found, why="") if found is not None and not found.told and _equal(context) else found


def _check_found(context: Context, found: same_memory.Found) -> None:
    if found.why:
        raise in_the_way(context.files.target, f"it was made from another source: {found.why}")


def _look(context: Context, made: Mapping[str, Any], ledger: Path) -> same_memory.Found | None:
    def ask(job: Job) -> Answer:
        return retry.quietly(context, replace(job, source=str(context.source.path), schema=context.survey.schema))

    source = SourceFile(context.settings.source, context.workers.stop)
    return same_memory.look(made, source, ledger, ask)


def _tell(context: Context, found: same_memory.Found, file: Path) -> None:
    if found.moved:
        context.listener(Moved(str(file), found.noted.path, found.now.path))


def _check_replaceable(context: Context, made: Mapping[str, Any], what: Path) -> None:
    maker, files = state.identity_of(made), context.files
    if maker is None or maker.path == context.survey.identity.path:
        return
    found = _look(context, made, files.ledger if what == files.staging else files.followed)
    if found is None or found.why:
        origin.check_replaceable(context.settings, maker, context.survey.identity, what)


def _complete(context: Context, answer: Answer, made: Mapping[str, Any]) -> Complete:
    """That the target is complete: by the word of the run that made it, or by comparing every row."""
    target = context.files.target
    counted = {name: count["rows"] for name, count in answer.facts["counts"].items()}
    if "MemoryNode" not in counted:
        raise in_the_way(target, "it is a LadybugDB file without memories")
    missing = set(context.survey.tables) - set(made.get("tables", context.survey.tables))
    if missing:
        raise in_the_way(target, f"it was made without {' and '.join(sorted(missing))}")
    if not made and not _equal(context):
        raise in_the_way(target, f"its {counted['MemoryNode']} memories are not those of {context.source.path}")
    _check_readers(context, made)
    before = state.names_of(made)
    publishing.check_links(context)
    publishing.check_names_closed(context.files, before)
    if names := publishing.link(context, before):
        context.listener(Named(names, str(target)))
    if made and made.get("also", []) != list(context.files.also):
        state.note_names(context.files, state.of_target(context.files))  # whether it has links may be noted since
    return Complete(counted["MemoryNode"], made)


def told(context: Context, complete: Complete, left_alone: str) -> NothingToDo:
    """What there is to say of a complete target. `left_alone`: why late arrivals were not brought to it."""
    target, made, again = context.files.target, complete.made, command.migrate(context.settings)
    tail = f"; late arrivals wait: {left_alone}; then bring them with: {again}" if left_alone else ""
    file = context.files.quarantine
    tally = Tally.of(file, made)
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
    answer = retry.quietly(context, job)
    found = answer.facts
    return answer.ok and not any(found[name] for name in ("changed", "missing", "removed", "damages", "wrong"))


def _late(context: Context, made: Mapping[str, Any]) -> int:
    """Nodes of the source above the bound of the run that made the target."""
    bound = made.get("bounds", {}).get("memory_nodes")
    return 0 if bound is None else context.nodes_above(bound)


def adopt(context: Context) -> None:
    """Take up what an interrupted run left, or begin anew. Raises when it was begun otherwise."""
    files = context.files
    found = _check_staging(context) if files.staging.exists() else None
    if context.settings.restart or not files.staging.exists():
        _begin_anew(context)
        return
    if found is not None:
        _tell(context, found, files.staging)
    begun = state.read(files)
    if begun.get("indexed"):  # a table with an index takes no row without the extension
        repair.set_whole_aside(context, "it has the vector index already")
    elif begun.get("brought"):
        repair.set_whole_aside(context, "it holds rows of the target before already")
    _count_staging(context)
    context.adopted = files.staging.exists()  # else it did not open, and is begun anew
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


#: What tells such a line from most others, before it is read as JSON.
_HAS_FAILED: Final = re.compile(rb'"attempts"\s*:\s*[1-9]')
#: Entries of rows and values that failed, of which each cost some workers; what is beyond is tried again.
MOST_FAILED: Final = 10_000
#: Rows, and values, by source table and id.
_LeftOut = tuple[dict[str, dict[int, Failed]], dict[str, dict[int, dict[str, Failed]]]]


def left_out(source: SourceFile, schema: Schema, file: Path) -> _LeftOut:
    """Rows and values that the engine does not take, by the quarantine in `file`, and that nobody changed since.

    One entry at a time is compared with SQLite's row: the file may be of any length.
    """
    if next(_failed(schema, file), None) is None:
        return {}, {}
    return source.read(lambda connection: _left_out(connection, schema, file))


def _left_out(connection: sqlite3.Connection, schema: Schema, file: Path) -> _LeftOut:
    isolated: dict[str, dict[int, Failed]] = {}
    refused: dict[str, dict[int, dict[str, Failed]]] = {}
    for table, entry, line in islice(_failed(schema, file), MOST_FAILED):
        key, why = entry["id"], (entry["reason"], entry["attempts"], entry["engine"])
        column = _column(table, entry["part"])
        rows = read_ids(connection, table, [key])
        for row in map(rows.named, range(len(rows))):
            if entry["part"] == "row" and _is_same(entry, row, line):
                isolated.setdefault(table.name, {})[key] = why
            elif column and _is_same(entry, row, line, column.name):
                refused.setdefault(table.name, {}).setdefault(key, {})[column.target] = why
    return isolated, refused


def _failed(schema: Schema, file: Path) -> Iterator[tuple[Table, dict[str, Any], bytes]]:
    """What took workers down, or did not come back from the engine; without the row where its line is a long one."""
    tables = {table.name: table for table in schema.tables()}
    for line in lines(file):
        entry = entry_of(line) if _HAS_FAILED.search(line) else None
        if entry and entry["table"] in tables and _is_failed(entry):
            yield tables[entry["table"]], entry, line


def _is_failed(entry: Mapping[str, Any]) -> bool:
    attempts = entry.get("attempts")
    if type(attempts) is not int or attempts < 1 or key_of(entry) is None:
        return False
    return isinstance(entry.get("reason"), str) and isinstance(entry.get("engine"), str)


def _column(table: Table, part: str) -> Column | None:
    return next((column for column in columns_of(table) if part_of(column) == part), None)


def _is_same(entry: Mapping[str, Any], row: Mapping[str, Any], line: bytes, column: str = "") -> bool:
    """Whether a row, or its value in a column, still is what its entry says. One that somebody edited is theirs."""
    if "row" not in entry:  # it is long: as text it takes less memory
        told = {name: entry[name] for name in ("table", "id", "part", "reason", "attempts", "engine")}
        return line == line_of(Reject(**told, row=row))
    there, here = entry["row"], json_row(row)
    if not column or not isinstance(there, dict):
        return bool(there == here)
    return column in here and here[column] == there.get(column)


def _check_staging(context: Context) -> same_memory.Found | None:
    """Raise unless the staging file was begun from this very memory, or may be thrown away; return what tells so."""
    staging = context.files.staging
    if context.settings.restart:
        _check_replaceable(context, state.read(context.files), staging)
        return None
    found = _look(context, state.read(context.files), context.files.ledger)
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
    context.state.rebuilds = int(state.read(context.files).get("rebuilds", 0))
    repair.repair(context)


def _begin_anew(context: Context) -> None:
    """Nothing that lies beside a target that is not begun yet belongs to it."""
    files = context.files
    discard(files.staging)
    files.ledger.unlink(missing_ok=True)
    files.quarantining.unlink(missing_ok=True)
