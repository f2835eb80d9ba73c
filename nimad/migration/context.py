"""The context of one run, shared by its steps."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nimad.config import Settings, command
from nimad.engines.selection import Choice
from nimad.errors import DiskError, RefusedError, SourceError
from nimad.events.run import Listener, Resumed
from nimad.host import machine
from nimad.migration.salvage import ReadableSource
from nimad.source.changed_rows import deleted_in_passing
from nimad.source.schema import NODES, TARGET_TABLES, columns_of, moved_columns
from nimad.source.sql import sql_name
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import Survey
from nimad.state import pause_file, quarantine
from nimad.state.left_out import Failed
from nimad.state.paths import Files
from nimad.state.target_state import State
from nimad.supervisor import worker_failure
from nimad.supervisor.outcome import WorkerResult
from nimad.supervisor.plan import ALONE_BYTES, POOL_STEP, Plan
from nimad.supervisor.timeout import Timeout
from nimad.supervisor.worker_process import WorkerPool
from nimad.worker.protocol import Job, Task

#: Seconds between two checks whether a pause is over.
PAUSE_POLL_S = 1.0


@dataclass
class Context:
    """One run: what it was asked, what it knows, and how far it is."""

    settings: Settings
    memory: ReadableSource
    plan: Plan
    files: Files
    workers: WorkerPool
    listener: Listener
    state: State
    choice: Choice = field(default_factory=Choice)  # of the engine that writes, by those that read
    counted: dict[str, int] = field(default_factory=dict)  # rows that the latest count found, by target table
    last_keys: dict[str, int] = field(default_factory=dict)  # highest key of each, when the run began
    redone: set[str] = field(default_factory=set)  # tables to judge anew: some of their rows are in quarantine
    confirmed: set[str] = field(default_factory=set)  # lines of the quarantine that this run gave a reason for
    isolated: dict[str, dict[int, Failed]] = field(default_factory=dict)  # rows that take workers down
    refused: dict[str, dict[int, dict[str, Failed]]] = field(default_factory=dict)  # and values; or not given back
    losses: frozenset[str] = frozenset()  # lines of the quarantine that tell what the source lost
    pool_bytes: int = 0  # of the engine, as raised since the plan
    timeout: Timeout = field(default_factory=Timeout)
    adopted: bool = False  # an earlier run wrote to the staging file, which may have suffered in between
    repairs: int = 0  # how often the staging file did not open
    schema_version: int = 0
    complaint: str = ""  # what the engine says of each checkpoint, on pages that it takes for smaller ones
    compaction_failed: bool = False
    began: float = field(default_factory=time.monotonic)
    batches: int = 0
    batch_s: float = 0.0

    def __post_init__(self) -> None:
        self.pool_bytes = self.plan.pool_bytes
        self.schema_version = self.survey.schema_version

    @property
    def source(self) -> SourceFile:
        """The file that is read: the memory, or a copy of what can be read of it."""
        return self.memory.source

    @property
    def survey(self) -> Survey:
        return self.memory.survey

    def narrow(self, least: int) -> None:
        """Have values set aside that the engine which writes does not hold: integers below `least`."""
        schema = replace(self.survey.schema, least=least)
        self.memory = replace(self.memory, survey=replace(self.survey, schema=schema))

    def list_losses(self) -> None:
        """Write to the quarantine what damaged pages of the source have made unreadable."""
        self.losses = frozenset(quarantine.add(self.files.quarantining, self.memory.rejects))

    def job(self, task: Task, **facts: Any) -> Job:
        """A job on this run's source and staging file within the plan's limits."""
        return Job(
            task=task,
            **{
                "source": str(self.source.path),
                "target": str(self.files.staging),
                "schema": self.survey.schema,
                "address_space_bytes": self.plan.address_space_bytes,
                "threads": self.plan.threads,
                "ledger": str(self.files.ledger),
                "quarantine": str(self.files.quarantining),
                "strict": self.settings.strict,
                "chunk_rows": self.plan.chunk_rows,
                "chunk_bytes": self.plan.chunk_bytes,
                "isolated": self.isolated,
                "refused": self.refused,
                "salvaged": self.memory.salvaged,
                "rebuilds": self.state.rebuilds,
                **facts,
            },
        )

    def do(self, job: Job) -> WorkerResult:
        """Do a job in a fresh worker, with the pool that is needed now and within the time that it may take."""
        if not self.settings.dry_run:
            hold_while_paused(self.files, self.workers, self.listener)
        self.check_source()
        file = machine.space_taken(Path(job.target)) if job.target else 0
        work = file + sum(each.bytes for each in (job.range, *job.then) if each)
        limited = replace(job, pool_bytes=self.plan.pool_for(file, self.pool_bytes))
        limit_s = self.timeout.limit_s(work, trial=job.task is Task.TRIAL_LOAD)
        large = job.task is Task.LOAD and job.range is not None and job.range.bytes > ALONE_BYTES
        last = job.task is Task.VERIFY  # mostly; a worker that nobody needs costs as much as another
        answer = self.workers.do(limited, limit_s=limit_s, last=large or last)
        if large:
            self.workers.prepare()
        if answer.ok:
            self.timeout.note(work, answer.facts["seconds"])
            self.state.note_peak(answer.facts["peak_rss"])
        return worker_failure.with_holder(answer, Path(job.target))

    def raise_pool(self) -> bool:
        """Give the engine a larger pool from now on; whether the plan allows one."""
        before, self.pool_bytes = self.pool_bytes, min(self.pool_bytes * POOL_STEP, self.plan.pool_limit)
        return self.pool_bytes > before

    def engine_name(self) -> str:
        """The engine that the workers use, as `ladybug 0.22.0`."""
        return f"{self.state.engine.get('name', '?')} {self.state.engine.get('version', '?')}"

    def check_source(self) -> None:
        """Raise `SourceError` when the file this run began with is no longer the one of that name."""
        path = self.settings.source
        if not path.exists() or SourceFile(path).identity() != self.survey.identity:
            raise SourceError(
                f"{path} was replaced or taken away during the run, so nothing is published; put it back "
                "and run again, or start over with --restart"
            )
        if not path.stat().st_size:
            raise SourceError(
                f"{path} is empty now, so nothing is published; what was copied is still in {self.files.staging}. "
                "Restore the source and run again"
            )
        version = self.source.number("PRAGMA schema_version")
        if version != self.schema_version:
            self._check_columns()
            self.schema_version = version

    def _check_columns(self) -> None:
        """Raise `RefusedError` when a table that migrates has other columns than when the run began."""
        for table in self.survey.schema.tables():
            declared, moved = self.source.read(
                lambda c, t=table: (columns_of(c, t.name), moved_columns(c, t))  # type: ignore[misc]
            )
            if not declared:
                raise RefusedError(
                    f"{table.name} is gone from {self.settings.source}, so nothing is published; what was copied is "
                    f"still in {self.files.staging}. Restore the source and run again"
                )
            if moved:
                raise RefusedError(
                    f"the columns of {table.name} changed during the run ({', '.join(moved)}), so nothing is "
                    "published; start over with --restart"
                )

    def check_shrunk(self, table: str, lost: int, copied: int) -> None:
        """Raise `RefusedError` when the source lost more of what was copied than an agent deletes in passing."""
        if lost > deleted_in_passing(copied) and not self.memory.salvaged:
            raise RefusedError(
                f"{self.settings.source} has lost {lost} of the {copied} rows of {table} that were copied already. "
                f"Nothing is published, and they are still in {self.files.staging}. Restore the source and run again; "
                "if they are meant to be gone, start over with --restart"
            )

    def check_set_aside(self, nodes: int) -> None:
        """Raise `RefusedError` when more nodes are set aside whole than `--max-set-aside` allows."""
        total, allowed = self.survey.nodes.rows, self.settings.max_set_aside
        if not self.settings.allows_aside(nodes, total):
            look = command.line("quarantine", "list", "--target", self.files.target)
            raise RefusedError(
                f"{nodes} of {total} memories would be set aside whole, more than the {allowed} of --max-set-aside, so "
                f"nothing is published; correct them in the source (a run lists them for: {look}), or run again with "
                "--max-set-aside 100%"
            )
        self._check_blank(nodes, total)

    def _check_blank(self, nodes: int, total: int) -> None:
        """Raise `RefusedError` when too much of the source's file is blank, unless an earlier run copied it before."""
        gone = self.memory.blank
        saved = max(0, self.counted.get(TARGET_TABLES[NODES], 0) + nodes - total)
        lost = max(0, gone.nodes - saved)
        if not self.settings.allows_aside(nodes + lost, total + gone.nodes):
            raise RefusedError(
                f"{gone.blank} of the {gone.pages} pages of {self.settings.source} are blank, and with them some "
                f"{lost} memories besides the {total} that can be read are lost, more than the "
                f"{self.settings.max_set_aside} of --max-set-aside, so nothing is published; restore a backup of it, "
                "if there is one, or run again with --max-set-aside 100%"
            )

    def check_disk(self, needed: int, what: str) -> None:
        """Raise `DiskError` when `what` may take more bytes than are free."""
        folder = self.files.staging.parent
        free = machine.free_disk(folder)
        if free < needed:
            held = 0 if self.memory.salvaged else machine.space_taken(self.files.staging)  # else rows could be lost
            restart = self.plan.restart_hint(free, held)
            raise DiskError(
                f"{folder} has {free / 10**6:.1f} MB free, and {what} needs up to {needed / 10**6:.1f} MB{restart}"
            )

    def bounds(self) -> dict[str, int]:
        """The highest key of each table when the run began."""
        return {name: table.last for name, table in self.survey.tables.items() if table.last is not None}

    def note_counts(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        self.counted = {name: count["rows"] for name, count in counts.items()}

    def note_staging(self, counts: Mapping[str, Mapping[str, Any]]) -> None:
        """What there is to go on from: the rows of each table, and the highest key among them."""
        self.note_counts(counts)
        self.last_keys = {name: count["last"] for name, count in counts.items() if count["last"] is not None}

    def note_progress(self) -> None:
        """Have the state file tell what an earlier run left, from the first time that this one writes it."""
        tables = self.survey.tables.items()
        rows = {name: (self.counted.get(TARGET_TABLES[name], 0), table.rows) for name, table in tables}
        self.state.counts = {name: {"done": min(done, of), "of": of} for name, (done, of) in rows.items()}

    def nodes_above(self, bound: int) -> int:
        """Nodes that reached the source with a higher key than `bound`."""
        key = sql_name(self.survey.schema.nodes.key)
        query = f"SELECT count(*) FROM {sql_name(NODES)} WHERE typeof({key}) = 'integer' AND {key} > ?"
        return self.source.number(query, bound)

    def clock_instead(self, phase: str, seconds: float, other: str) -> None:
        """Count as another phase's what the worker of one did for that as well."""
        clocks = self.state.phases_s
        clocks[other] = clocks.get(other, 0.0) - seconds
        clocks[phase] = clocks.get(phase, 0.0) + seconds

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Name what goes on in the state file, and clock it there."""
        self.state.phase = name
        self.state.write()
        began = time.monotonic()
        try:
            yield
        finally:
            spent = self.state.phases_s.get(name, 0.0) + time.monotonic() - began
            self.state.phases_s[name] = spent


def hold_while_paused(files: Files, workers: WorkerPool, listener: Listener) -> None:
    """Wait for as long as a pause lasts. Raises `StoppedError` when a stop is asked for meanwhile."""
    if not pause_file.is_paused(files):
        return
    workers.rest()
    listener(pause_file.paused(files))
    while pause_file.is_paused(files):
        workers.pause(PAUSE_POLL_S)
    listener(Resumed())
    workers.prepare()
