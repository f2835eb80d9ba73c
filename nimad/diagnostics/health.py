"""Health: whether a memory can be read whole, its figures, and whether two files hold the same."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nimad.compare import comparison, source_identity
from nimad.config import Settings, command
from nimad.config.defaults import SOURCE_NAME
from nimad.config.target_names import Surroundings, choose_names
from nimad.config.variables import explained
from nimad.diagnostics import processes
from nimad.diagnostics.migration_status import was_taken_away
from nimad.diagnostics.stats_diff import SetAsideFigures, StatsDifference, StatsPair, differences
from nimad.errors import NimadError
from nimad.host import machine, rights
from nimad.host.disk import FileKind, has_log, kind_of, pieces, sqlite_pieces
from nimad.plural import number_of
from nimad.source import quick_check
from nimad.source.header import check_source
from nimad.source.schema import NODES, TARGET_TABLES
from nimad.source.sqlite_file import SourceFile
from nimad.source.stats import ExpectedDifferences, MemoryStats, read_stats
from nimad.source.survey import read_schema, undefined
from nimad.state import names, target_state
from nimad.state.paths import Files, not_for_us
from nimad.state.quarantine import entries
from nimad.supervisor import worker_failure
from nimad.supervisor.outcome import FailureKind, WorkerResult
from nimad.supervisor.plan import POOL_FLOOR, limits_for
from nimad.supervisor.worker_process import WorkerPool
from nimad.worker.protocol import Job, Task

#: How long a memory counts as recent, in milliseconds.
RECENT_MS = 24 * 3_600 * 1_000
#: An id below all that a memory has, and still a number that each engine reads.
_BELOW_ALL = -(2**62)
#: Times that a target is asked which another program has open, and the seconds in between: a service opens it for a
#: moment, whenever something comes late.
_TRIES, _PAUSE_S = 4, 1.0


@dataclass(frozen=True)
class Checkup:
    """What was found in one file. `bytes`: of it and of what belongs to it on the disk."""

    path: Path
    kind: FileKind | None = None
    bytes: int = 0
    vitals: MemoryStats | None = None
    problem: str = ""  # why it is not well

    @property
    def ok(self) -> bool:
        return not self.problem


@dataclass(frozen=True)
class Health:
    """One file, or the two of one memory, the source first, and where they differ."""

    files: Sequence[Checkup]
    differences: Sequence[StatsDifference] = ()
    notes: Sequence[str] = ()  # what is to be known, and no fault
    advice: str = ""  # what to do about a difference
    unread: Sequence[str] = ()  # what a program left by another name of the target, or in another memory: not looked at

    @property
    def ok(self) -> bool:
        files = all(file.ok for file in self.files)
        return files and not self.unread and all(found.expected for found in self.differences)


def of_file(path: Path) -> Health:
    """The health of one file of either kind, told apart by what is in it."""
    found = _look(path, _moment())
    unread = _unread_with(path) if found.kind is FileKind.LADYBUG else []
    return Health([found], notes=[*_emptiness([found]), *_open_elsewhere([found])], unread=unread)


def _unread_with(path: Path) -> list[str]:
    """What lies beside another name of the file than the one that it is read by."""
    chosen = choose_names(path.with_name(SOURCE_NAME), path, Surroundings())
    if path != chosen.file and has_log(path):
        return []
    return names.unread(Files(chosen.file, () if chosen.link is None else (chosen.link.name,)))


def of_memory(settings: Settings) -> Health:
    """The health of a memory: of its source, of its target, or of both beside each other."""
    files = Files.of(settings)
    since_ms = _moment()
    there = [path for path in (settings.source, settings.target) if _exists(path)]
    found = [_explained(_look(path, since_ms), settings) for path in there or [settings.source]]
    if settings.source in there and settings.target not in there and was_taken_away(files):
        found.append(Checkup(settings.target, problem=_taken_away(settings)))
    notes = [*_emptiness(found), *_open_elsewhere(found), *_missing(settings, files, [file.path for file in found])]
    notes += [*map(str, names.remarks(settings, files)), *_hidden(found, settings)]
    moved, another = source_identity.remark(settings.source, files) if len(found) > 1 else ("", "")
    notes += [moved] if moved else []
    unread = [*names.unread(files), *([another] if another else [])]
    if len(found) < 2 or not all(file.vitals for file in found):  # noqa: PLR2004 - a pair
        return Health(found, notes=notes, unread=unread)
    return replace(_compared(settings, files, found, notes), unread=unread)


def _compared(settings: Settings, files: Files, found: Sequence[Checkup], notes: Sequence[str]) -> Health:
    source, target = found[0].vitals or MemoryStats(), found[1].vitals or MemoryStats()
    apart = _apart(settings, files)
    if isinstance(apart, str):
        notes = [*notes, f"Which memories came late, and which the agent added, cannot be told: {apart}"]
        apart = ExpectedDifferences(), ExpectedDifferences(), ExpectedDifferences()
    late, own, removed = apart
    made = target_state.of_target(files)
    aside = SetAsideFigures.of(_entries(files), {*source.layers, *target.layers})
    pair = StatsPair(source, target, aside, made.get("tables"), late, own, removed)
    differing = differences(pair)
    advice = ""
    if not all(difference.expected for difference in differing):
        advice = f"See what differs, row by row, with: {_two_files('verify', settings)}"
    if came := _words(late):
        notes = [*notes, f"{came} came late and SQLite alone has them; bring them with: {command.migrate(settings)}"]
    return Health(found, differing, notes, advice)


def _bounds(files: Files) -> Mapping[str, int]:
    """By table, the highest id that the target was made with or got since; of one that was empty, below all ids."""
    made = target_state.of_target(files)
    bounds = made.get("bounds", {})
    known = {table: bounds.get(table, _BELOW_ALL) for table in (*made.get("tables", ()), *bounds)}
    return {table: bound for table, bound in known.items() if type(bound) is int and abs(bound) <= -_BELOW_ALL}


def _explained(found: Checkup, settings: Settings) -> Checkup:
    return replace(found, problem=explained(found.problem, settings)) if found.problem else found


def _words(late: ExpectedDifferences) -> str:
    """How much came late; empty where nothing did."""
    counts = [(late.nodes, ("memory", "memories")), (late.edges, ("edge",)), (late.turns, ("turn",))]
    return ", ".join(number_of(count, *words) for count, words in counts if count)


def _apart(
    settings: Settings, files: Files
) -> tuple[ExpectedDifferences, ExpectedDifferences, ExpectedDifferences] | str:
    """What came late, what the agent added, and what it removed, row by row; or why that cannot be told."""
    try:
        base = comparison.job_of(settings, files, target_state.of_target(files))
    except (NimadError, OSError) as error:
        return str(error)
    answer = _ask(settings.target, replace(base, task=Task.COUNT_UNMATCHED, bounds=_bounds(files)))
    if not answer.ok:
        return answer.message
    late, own, removed = (ExpectedDifferences(**answer.facts[name]) for name in ("late", "own", "removed"))
    return late, own, removed


def _two_files(name: str, settings: Settings) -> str:
    return command.line(name, "--source", settings.source, "--target", settings.target)


def _entries(files: Files) -> Iterable[Mapping[str, Any]]:
    try:
        yield from entries(files.quarantine)
    except OSError:  # closed to us: then its rows are differences
        return


def _emptiness(found: Sequence[Checkup]) -> list[str]:
    return [f"{file.path} holds no memory yet" for file in found if file.vitals and not file.vitals.nodes]


def _missing(settings: Settings, files: Files, there: Sequence[Path]) -> list[str]:
    """What to say of the one of two files that is not there."""
    if settings.target in there or settings.source not in there:
        gone = settings.target in there and settings.source not in there
        return [f"There is no SQLite memory at {settings.source}"] if gone else []
    if _exists(files.staging):
        return [f"A migration is unfinished; see how it stands with: {_two_files('status', settings)}"]
    return [f"There is no LadybugDB file yet; make it with: {command.migrate(settings)}"]


def _taken_away(settings: Settings) -> str:
    return (
        f"{settings.target} is gone: it was published, and has been taken away; put it back, or rebuild it with: "
        f"{command.migrate(settings, '--replace')}"
    )


def _open_elsewhere(found: Sequence[Checkup]) -> list[str]:
    """What to say of a target that another program has open for writing: it is read as of its last transaction."""
    notes = []
    for file in found:
        holder = machine.holder_of(file.path) if file.kind is FileKind.LADYBUG and file.ok else None
        if holder and (process := processes.process(holder)):
            notes.append(f"{file.path} is open in another program: {process.shown}, PID {holder}")
    return notes


def _hidden(found: Sequence[Checkup], settings: Settings) -> list[str]:
    """What to say of memories that the agent cannot find: earlier releases of nimad made targets without defaults."""
    counts = [(file.path, file.vitals.hidden) for file in found if file.vitals and file.vitals.hidden]
    remedy = f"rebuild the target, which keeps what it alone holds, with: {command.migrate(settings, '--replace')}"
    return [
        f"{path} hides {number_of(count, 'memory', 'memories')} from the agent: is_ghost is NULL, and its readers ask "
        f"for false; {remedy}"
        for path, count in counts
    ]


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except PermissionError:
        return True  # or nobody knows: looking at it says so
    except OSError:
        return False
    return True


def _moment() -> int:
    return round(time.time() * 1_000) - RECENT_MS


# One file


def _look(path: Path, since_ms: int) -> Checkup:
    rights.check_own(path)
    try:
        str(path).encode()
        kind = kind_of(path)
    except UnicodeEncodeError:
        return Checkup(path, problem=f"{path} is not UTF-8, so neither SQLite nor LadybugDB opens it here; rename it")
    except FileNotFoundError:
        return Checkup(path, problem=f"there is no file {path}")
    except PermissionError as error:
        return Checkup(path, problem=str(not_for_us(path, str(error.strerror))))
    except IsADirectoryError:
        return Checkup(path, problem=_no_memory(path))
    except OSError as error:
        return Checkup(path, problem=f"{path} cannot be read ({error.strerror}); check the disk (dmesg)")
    if kind is None:
        return Checkup(path, problem=_no_memory(path))
    look = _sqlite if kind is FileKind.SQLITE else _ladybug
    size = _bytes(sqlite_pieces(path) if kind is FileKind.SQLITE else pieces(path))
    try:
        vitals = look(path, since_ms)
    except NimadError as error:
        return Checkup(path, kind, size, problem=str(error))
    if isinstance(vitals, str):
        return Checkup(path, kind, size, problem=vitals)
    table = NODES if kind is FileKind.SQLITE else TARGET_TABLES[NODES]
    problem = "" if vitals else f"{path} has no table {table}, so it is no NIMA memory"
    if vitals and kind is FileKind.SQLITE:
        problem = _damage(path)
    return Checkup(path, kind, size, vitals, problem)


def _no_memory(path: Path) -> str:
    if not path.is_file():
        return f"{path} is not a file"
    return f"{path} is {'no SQLite file and none of LadybugDB' if path.stat().st_size else 'empty'}"


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.exists())


def _sqlite(path: Path, since_ms: int) -> MemoryStats | None:
    check_source(path)
    return SourceFile(path).read(partial(read_stats, since_ms=since_ms))


def _damage(path: Path) -> str:
    """What SQLite finds wrong with the tables that hold the memory; empty when all is well."""
    source = SourceFile(path)
    schema, lost = source.read(lambda c: (read_schema(c, source, nodes_only=False), undefined(c)))
    found = quick_check.damage(source, schema)
    if not found:
        return _unread(path, lost)
    look = command.line("migrate", "--source", path, "--dry-run")
    return f"{path} is damaged ({found[0]}); restore a backup of it, or see what of it can be read with: {look}"


def _unread(path: Path, lost: Mapping[str, str]) -> str:
    """Which edges or turns cannot be read at all, though no page is damaged, the first of them; empty where none."""
    if not lost:
        return ""
    table, why = next(iter(lost.items()))
    return (
        f"{path}: {table} cannot be read ({why}), and none of its rows migrates; mend that view or table, or drop it, "
        "and run again"
    )


def _ladybug(path: Path, since_ms: int) -> MemoryStats | str | None:
    """The figures of an engine's file, by a worker; or why it cannot be asked."""
    answer = _ask(path, Job(task=Task.STATS, since_ms=since_ms))
    if answer.ok:
        found = answer.facts["vitals"]
        return None if found is None else MemoryStats(**found)
    return _why_not(path, answer)


def _ask(path: Path, job: Job) -> WorkerResult:
    """Have a worker do a job that reads an engine's file."""
    path = path if has_log(path) else path.resolve()  # a log stands by the name that the file was opened by
    job = replace(job, target=str(path)).within(replace(limits_for(machine.space_taken(path)), pool_bytes=POOL_FLOOR))
    with WorkerPool(threading.Event()) as workers:
        workers.early = False
        for left in range(_TRIES - 1, -1, -1):
            answer = workers.do(job)
            # In the middle of another program's checkpoint a file may look damaged, or take its reader down.
            if answer.ok or not left or not (answer.kind is FailureKind.LOCKED or machine.holder_of(path)):
                break
            workers.pause(_PAUSE_S)
    return answer


def _why_not(path: Path, answer: WorkerResult) -> str:
    holder = machine.holder_of(path)
    if holder or answer.kind is FailureKind.LOCKED:
        who = f" (PID {holder})" if holder else ""
        return f"{path} is open in another program{who}, and cannot be asked meanwhile; ask again once it is closed"
    make = _WHY.get(answer.kind)
    return make(path, answer) if make else f"{path} cannot be read ({answer.message})"


_WHY: Mapping[FailureKind | None, Callable[[Path, WorkerResult], str]] = {
    FailureKind.ENGINE_MISSING: lambda _, answer: str(worker_failure.error_of(answer)),
    FailureKind.NOT_ALLOWED: lambda path, answer: str(not_for_us(path, answer.message)),
    FailureKind.RECOVERY_PENDING: lambda path, _: str(worker_failure.to_recover(path)),
    FailureKind.STORAGE_VERSION: lambda path, answer: (
        f"{path} belongs to a newer LadybugDB than ours ({answer.message})"
    ),
}
