"""The protocol between supervisor and worker: a job as one JSON line, a result as one JSON line.

Standard library only: both sides read this, and neither may need the other's packages.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from nimad.source.ranges import Range
from nimad.source.schema import Schema
from nimad.state.left_out import Failed, Isolated, Refused


class Task(StrEnum):
    PROBE = "probe"  # which engine is there
    CONVERT = "convert"  # read and convert a range, touch no target: the dry run
    COUNT = "count"  # open the target and count it
    LOAD = "load"  # put a range of one table into the target
    VERIFY = "verify"  # compare target and source
    REFRESH = "refresh"  # write rows that changed in the source once more
    TRIAL_LOAD = "trial load"  # load rows into a target that is discarded: do they alone take a worker down?
    QUARANTINE = "quarantine"  # write isolated rows to the quarantine
    COMPACT = "compact"  # copy the target into a new file without holes
    INDEX = "index"  # build the vector index in a file, and query it once
    SEARCH = "search"  # answer a question from the target
    STATS = "stats"  # figures of the target, for a health check
    HAS_ROWS = "has rows"  # whether any table of the target holds a row
    SYNC = "sync"  # bring later rows into the published target
    CONFIRM = "confirm"  # find what a SYNC says it did, and note what is found
    COMPARE = "compare"  # compare a finished target with SQLite, and change nothing
    COUNT_UNMATCHED = "count unmatched"  # how many rows one side alone has, by the same matches
    EXPORT_ROLLBACK = "export rollback"  # COMPARE, and write what SQLite lacks of the target into a file
    EXPORT_TARGET_ONLY = "export target-only"  # COMPARE, and write what only the target holds into a file
    RESTORE_TARGET_ONLY = "restore target-only"  # write what such a file holds into another target
    CONFIRM_RESTORED = "confirm restored"  # find what RESTORE_TARGET_ONLY says it did
    COMPARE_TARGETS = "compare targets"  # compare two files of the engine
    RECOGNIZE = "recognize"  # whether SQLite's rows are those of a ledger


class Failure(StrEnum):
    """Why a worker could not do its job, in the words of its answer."""

    ENGINE = "engine"  # the engine is missing, wrong or cannot be loaded
    SOURCE = "source"  # SQLite cannot be read
    BUSY = "busy"  # another program holds the SQLite file
    SCHEMA = "schema"  # the target was begun with another schema
    DISK = "disk"  # full, or failing
    FREE_PAGES = "free pages"  # a file whose free pages are listed twice
    STRICT = "strict"  # a row would have to be quarantined
    TARGET = "target"  # the engine reported an error
    UNOPENED = "unopened"  # the engine reported an error while it opened the target
    UNEXPECTED = "unexpected"


class JobError(Exception):
    """The job cannot be done, for a reason that has a word of its own."""

    def __init__(self, failure: Failure, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.failure = failure
        self.facts = facts


#: By source table and id: why a row is in quarantine.
Quarantined = Mapping[str, Mapping[int, str]]


@dataclass(frozen=True, kw_only=True)
class Late:
    """What a SYNC looks for."""

    thorough: bool = False  # compare every row with what is noted of it, and not just what is new or was recalled
    distrust: bool = False  # and with the target itself: it lost some of what is noted
    since: int = 0  # the latest recall that was seen
    removed: Mapping[str, int] = field(default_factory=dict)  # rows of each table that earlier looks took out
    again: Mapping[str, Sequence[int]] = field(default_factory=dict)  # rows to take whatever is noted of them
    keep_log: bool = False  # leave the write-ahead log to the next one that opens the file
    strange: bool = False  # the target may be another than the one that the ledger tells of


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What a SYNC did, by source table and id."""

    digests: Mapping[str, Mapping[int, str]] = field(default_factory=dict)  # rows that are there, as they were read
    aliases: Mapping[str, Mapping[int, int]] = field(default_factory=dict)  # the target's id, where it is another
    kept: Mapping[str, Mapping[int, Sequence[str]]] = field(default_factory=dict)  # columns with the target's own value
    undecided: Mapping[str, Mapping[int, Sequence[str]]] = field(default_factory=dict)  # of these, maybe an older one
    removed: Mapping[str, Sequence[int]] = field(default_factory=dict)
    forgotten: Mapping[str, Sequence[int]] = field(default_factory=dict)  # left the source, and are the agent's now


@dataclass(frozen=True)
class JobLimits:
    """What the engine may take, as in `Job`."""

    pool_bytes: int
    address_space_bytes: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything a worker needs to know. Paths are absolute; sizes in bytes."""

    task: Task
    source: str = ""
    target: str = ""
    schema: Schema | None = None
    pool_bytes: int = 0
    address_space_bytes: int = 0
    threads: int = 1
    range: Range | None = None  # rows of CONVERT, LOAD and VERIFY
    then: Sequence[Range] = ()  # rows of other tables that LOAD brings as well, after those
    previous: Sequence[Range] = ()  # the batch before, which LOAD and COUNT look for
    spool: bool = False  # rows of a large LOAD may wait on the disk beside the target, instead of in memory
    strays: bool = False  # also rows whose key is no integer
    ids: Sequence[int] = ()  # rows of REFRESH that changed or are missing, or of TRIAL_LOAD and QUARANTINE
    removed: Sequence[int] = ()  # rows of REFRESH that the source no longer has; nodes that CONVERT is to do without
    table: str = ""  # table of REFRESH, and of VERIFY by ids
    bounds: Mapping[str, int] = field(default_factory=dict)  # highest key of each table that was migrated
    isolated: Isolated = field(default_factory=dict)  # rows that took workers down, which go to quarantine
    refused: Refused = field(default_factory=dict)  # values that did, or that the engine did not give back
    salvaged: bool = False  # the source is a copy of what can be read: VERIFY takes nothing for removed from it
    chunk_rows: int = 0
    chunk_bytes: int = 0
    ledger: str = ""
    quarantine: str = ""
    conflicts: str = ""  # where SYNC records values that gave way to the other side's
    strict: bool = False
    rebuilds: int = 0  # how often the unfinished target was started over, for LOAD
    unfinished: bool = False  # COUNT is of a target that is to be published, or gone on with
    writable: bool = False  # COUNT takes in what a write-ahead log still holds
    copy_to: str = ""  # the new file of COMPACT (the other of COMPARE_TARGETS) and of both exports; empty: count only
    own: str = ""  # the file of an EXPORT, for IMPORT and FIND
    own_ids: Mapping[str, Mapping[int, int]] = field(default_factory=dict)  # by table: ids that IMPORT gave, by the old
    extension: str = ""  # the VECTOR extension for INDEX; empty: the installed one
    text: str = ""  # the question of SEARCH
    like: int | None = None  # or the node whose neighbours are wanted
    limit: int = 0
    counts_only: bool = False  # COMPARE counts tables, and reads no row
    strange: bool = False  # the target of COMPARE may be another than the one that the ledger tells of
    quarantined: Quarantined = field(default_factory=dict)  # rows that COMPARE does not expect in the target
    since_ms: int = 0  # from when on a memory is a recent one, for STATS
    late: Late | None = None
    applied: Applied | None = None  # what CONFIRM looks for

    def within(self, limits: JobLimits) -> "Job":
        """The same job, with what the engine may take."""
        pool, space = limits.pool_bytes, limits.address_space_bytes
        return replace(self, pool_bytes=pool, address_space_bytes=space, threads=limits.threads)

    def to_line(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Job":
        data = json.loads(line)
        data["task"] = Task(data["task"])
        data["schema"] = Schema.from_json(data["schema"]) if data["schema"] else None
        data["range"] = Range(**data["range"]) if data["range"] else None
        for name in ("then", "previous"):
            data[name] = tuple(Range(**one) for one in data[name])
        data["isolated"] = {  # JSON knows no numbers as names, and no tuples
            table: {int(key): tuple(why) for key, why in rows.items()} for table, rows in data["isolated"].items()
        }
        data["quarantined"] = {
            table: {int(key): why for key, why in rows.items()} for table, rows in data["quarantined"].items()
        }
        data["own_ids"] = {table: {int(old): at for old, at in ids.items()} for table, ids in data["own_ids"].items()}
        data["refused"] = {
            table: {int(key): {name: tuple(why) for name, why in row.items()} for key, row in rows.items()}
            for table, rows in data["refused"].items()
        }
        data["late"] = Late(**data["late"]) if data["late"] else None
        data["applied"] = _applied(data["applied"]) if data["applied"] else None
        return cls(**data)

    def isolated_of(self, table: str) -> Mapping[int, Failed]:
        return self.isolated.get(table, {})

    def refused_of(self, table: str) -> Mapping[int, Mapping[str, Failed]]:
        return self.refused.get(table, {})

    def needs(self) -> Schema:
        """The schema, for the tasks that cannot do without."""
        if self.schema is None:
            raise ValueError(f"a {self.task} job without a schema")
        return self.schema

    def source_path(self) -> Path:
        return Path(self.source)

    def target_path(self) -> Path:
        return Path(self.target)


def _applied(data: Mapping[str, Mapping[str, Any]]) -> Applied:
    numbered = {
        name: {table: {int(key): value for key, value in rows.items()} for table, rows in data[name].items()}
        for name in ("digests", "aliases", "kept", "undecided")
    }
    return Applied(**numbered, removed=data["removed"], forgotten=data["forgotten"])
