"""The status report: progress, who works on it, and what to do next, without opening the target.

Whether anybody is at work is told by the lock and by the kernel's list of processes, never by the state file: what that
says last, a process may have said that was killed a moment later.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nimad.compare import source_identity
from nimad.config import Settings, read_openclaw
from nimad.diagnostics import processes, service_state
from nimad.diagnostics.migration_status import (
    FINISHED,
    OF_SERVICE,
    UNFINISHED,
    Evidence,
    MigrationStatus,
    gather_evidence,
    quarantine_of,
    status_of,
)
from nimad.diagnostics.next_steps import steps
from nimad.diagnostics.processes import Process
from nimad.errors import ExitCode, NimadError
from nimad.source.schema import EDGES, NODES, TARGET_TABLES, TURNS
from nimad.state import names, target_state
from nimad.state.quarantine_summary import QuarantineSummary
from nimad.supervisor.plan import BATCH_FACTOR, WORKER_BASE

#: Lines of the log that are shown, and the bytes at its end in which they are looked for.
LOG_LINES, _LOG_BYTES = 5, 64 * 1024
#: What a script is told, beside the exit codes of a run: in progress, and nothing is there to be told of.
UNDER_WAY, NOTHING_THERE = 3, 4
#: What the exit code is while the target is as it should be, and at other times.
_CODES: Mapping[MigrationStatus, int] = {
    MigrationStatus.NOTHING: NOTHING_THERE,
    MigrationStatus.UNTOLD: NOTHING_THERE,
    MigrationStatus.WAITING: UNDER_WAY,
    MigrationStatus.RUNNING: UNDER_WAY,
    MigrationStatus.PAUSED: UNDER_WAY,
    MigrationStatus.INTERRUPTED: int(ExitCode.INTERRUPTED),
    MigrationStatus.FAILED: int(ExitCode.INTERRUPTED),
    MigrationStatus.GONE: int(ExitCode.INTERRUPTED),
}
#: While these last, the service does what it should, or another run does it.
_AT_WORK = (MigrationStatus.RUNNING, MigrationStatus.FOLLOWING)


@dataclass(frozen=True)
class TableProgress:
    """Rows of one table that are in the target, of those that are to be; None where that is not known yet."""

    table: str
    done: int | None
    of: int | None


@dataclass(frozen=True)
class MemoryFacts:
    """Bytes that the worker has in use, and that the plan allows it; 0 where there is no plan yet."""

    pid: int
    used: int
    planned: int


@dataclass(frozen=True, kw_only=True)
class Status:
    """All that the state file, the lock, the processes and the log tell. Durations in seconds, sizes in bytes."""

    source: Path
    target: Path
    stand: MigrationStatus
    phase: str = ""
    why: str = ""
    made_from: str = ""  # another source than the one asked about
    at_work: Process | None = None
    counts: Sequence[TableProgress] = ()
    batch: int = 0
    batches: int = 0
    rows_per_s: float = 0.0
    eta_s: float | None = None
    elapsed_s: float | None = None  # since the run began, to now or to the last it said
    retries: int = 0
    failed_batches: int = 0
    rebuilds: int = 0
    quarantined: int = 0
    lacking: int = 0  # entries of the quarantine that were lost since
    memory: MemoryFacts | None = None
    updated: str = ""
    names: Sequence[str] = ()  # what is to be known of the target's names, and of logs beside them
    another: bool = False  # another memory is in place of the one that the target was made from
    previous_target: bool = False  # one that was there before is to be seen until this run is through
    service: str = ""  # what keeps the service that this memory has from its work
    log_file: Path
    log: Sequence[str] = ()
    steps: Sequence[tuple[str, str]] = field(default=())  # what to do next: words, and the command

    @property
    def exit_code(self) -> int:
        if self.stand is MigrationStatus.PAUSED and self.at_work is None:
            return int(ExitCode.INTERRUPTED)
        if self.another and self.stand in FINISHED:
            return int(ExitCode.CANNOT_WRITE)  # as a run would end
        whole = int(ExitCode.QUARANTINED if self.quarantined or self.lacking else ExitCode.COMPLETE)
        return _CODES.get(self.stand, whole)


def status(settings: Settings) -> Status:
    """How the migration to `settings.target` stands. Raises `NotAllowedError` where its files are closed to us."""
    scene = gather_evidence(settings)
    stand = status_of(scene)
    tally = quarantine_of(scene, stand)
    at_work = scene.holder or (scene.service if stand in OF_SERVICE else None)
    trouble = None if stand in _AT_WORK else service_state.trouble_of(scene.settings)
    mending = [("Mend the service with:", trouble.remedy)] if trouble and trouble.remedy else []
    moved, another = source_identity.remark(scene.settings.source, scene.files) if scene.target else ("", "")
    return Status(
        source=settings.source,
        target=settings.target,
        stand=stand,
        at_work=at_work,
        previous_target=scene.target and stand in UNFINISHED,
        log_file=settings.log_file,
        log=_last_lines(settings.log_file),
        why=_why(scene, stand),
        made_from=_another_source(scene, stand),
        service=trouble.text if trouble else "",
        steps=[*mending, *steps(scene, stand, tally)],
        names=[
            *map(str, names.remarks(scene.settings, scene.files)),
            *names.unread(scene.files),
            *_of_another(scene, moved, another),
        ],
        another=bool(another),
        **_progress(scene, stand, tally),
    )


def _of_another(scene: Evidence, *remarks: str) -> list[str]:
    said = [*filter(None, remarks)]
    if not scene.replaced:
        return said
    return [
        *said,
        f"{scene.files.target} is another file than the one that was published: a copy that was put back, or one that "
        "the agent rebuilt; what the run counted says nothing of it",
    ]


def _another_source(scene: Evidence, stand: MigrationStatus) -> str:
    """The source that the run or target was made from, where it is not the one that was asked about."""
    maker = target_state.identity_of(scene.made if stand in FINISHED else scene.told)
    if maker is None or maker.path in (str(scene.settings.source), os.path.realpath(scene.settings.source)):
        return ""
    return maker.path


def _why(scene: Evidence, stand: MigrationStatus) -> str:
    if stand is MigrationStatus.WAITING:
        return _what_is_waited_for(scene)
    if stand in (MigrationStatus.INTERRUPTED, MigrationStatus.FAILED):
        return str(scene.told.get("message") or "")
    return ""


def _what_is_waited_for(scene: Evidence) -> str:
    """Why a service does nothing just now."""
    if scene.told.get("phase") in ("interrupted", "failed"):
        return str(scene.told.get("message") or "")
    if not scene.settings.source.exists():
        return f"there is no memory at {scene.settings.source} yet"
    if scene.settings.trigger == "openclaw":
        try:
            return read_openclaw(scene.settings.openclaw_file).why_not or ""
        except NimadError as error:
            return str(error)
    return ""


# How far it is


def _progress(scene: Evidence, stand: MigrationStatus, tally: QuarantineSummary | None) -> dict[str, Any]:
    """The figures of the run that is under way or was interrupted, or of the target that is there."""
    if scene.holder and not scene.is_of_holder and stand is not MigrationStatus.FOLLOWING:
        return {"phase": "looking at source and target", "elapsed_s": max(0.0, time.time() - scene.holder_since)}
    told = scene.made if stand in FINISHED else scene.told
    began, updated = target_state.moment(told.get("started")), target_state.moment(told.get("updated"))
    now = time.time() if scene.holder and stand is not MigrationStatus.FOLLOWING else updated
    loading = stand is MigrationStatus.RUNNING and str(told.get("phase")).startswith("loading")
    return {
        "phase": _phase(told, stand),
        "counts": [] if scene.replaced and stand in FINISHED else _counts(told, finished=stand in FINISHED),
        "batch": _number(told, "batch"),
        "batches": _number(told, "total_batches"),
        "rows_per_s": float(_number(told, "rows_per_s")),
        "eta_s": _eta(told, updated) if loading else None,
        "elapsed_s": None if began is None or now is None else max(0.0, now - began),
        "retries": _number(told, "retries"),
        "failed_batches": _number(told, "failed_batches"),
        "rebuilds": _number(told, "rebuilds"),
        "quarantined": tally.entries if tally else _number(told, "quarantined"),
        "lacking": tally.lacking if tally else 0,
        "memory": _memory(scene, told),
        "updated": str(told.get("updated") or ""),
    }


def _phase(told: Mapping[str, Any], stand: MigrationStatus) -> str:
    """What goes on, or went on when it ended: a run that could say so names that itself, and the phase is clocked."""
    phase = str(told.get("phase") or "")
    if stand in (MigrationStatus.INTERRUPTED, MigrationStatus.FAILED) and phase in ("interrupted", "failed"):
        return next(reversed(list(_part(told, "phases_s"))), phase)
    return phase


def _counts(told: Mapping[str, Any], *, finished: bool) -> list[TableProgress]:
    counts, published, tables = _part(told, "counts"), _part(told, "published"), told.get("tables")
    found = []
    for table in (NODES, EDGES, TURNS):
        if not isinstance(tables, list) or table not in tables:
            continue
        count = _part(counts, table)
        done = _rows(published, TARGET_TABLES[table]) if finished else _rows(count, "done")  # what comes late counts
        found.append(TableProgress(table, done, done if finished else _rows(count, "of")))
    return found


def _rows(told: Mapping[str, Any], name: str) -> int | None:
    value = told.get(name)
    return value if isinstance(value, int) else None


def _eta(told: Mapping[str, Any], updated: float | None) -> float | None:
    """What is left of the time that the run reckoned with when it said so."""
    if updated is None or not _number(told, "rows_per_s"):
        return None
    return max(0.0, float(_number(told, "eta_s")) - max(0.0, time.time() - updated))  # a clock may go back


def _memory(scene: Evidence, told: Mapping[str, Any]) -> MemoryFacts | None:
    worker = processes.worker_of(scene.holder) if scene.holder else None
    if worker is None:
        return None
    plan = _part(told, "plan")
    pool, batch = _number(plan, "pool_bytes"), _number(plan, "batch_bytes")
    planned = round(pool + WORKER_BASE + BATCH_FACTOR * batch) if pool else 0
    return MemoryFacts(worker.pid, processes.memory_of(worker.pid), planned)


def _part(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = told.get(name)
    return value if isinstance(value, dict) else {}


def _number(told: Mapping[str, Any], name: str) -> Any:
    value = told.get(name)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0


def _last_lines(path: Path) -> list[str]:
    """The end of the log; nothing where it cannot be read."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _LOG_BYTES))
            text = file.read(_LOG_BYTES).decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines()[-LOG_LINES:] if line.strip()]
