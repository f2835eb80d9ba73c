"""Outcomes: how a worker can end, and which action follows.

`RULES` is the one table of this: a kind of end, the action, and why. A kind is told by the exit status, by the
kernel's word on memory, by what the worker itself says, and by the engine's messages (ladybug 0.22, where not said
otherwise; each was provoked once and its text taken from there).
"""

import json
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from nimad.worker.protocol import Failure


class FailureKind(StrEnum):
    """How a worker ended that did not do its job."""

    CRASHED = "crashed"
    KILLED = "killed"
    OUT_OF_MEMORY = "out of memory"
    HUNG = "hung"
    NO_ANSWER = "no answer"
    HALF_ANSWER = "half an answer"
    FRAME_RELEASE = "frame release"
    POOL_FULL = "pool full"
    CHECKPOINT_FAILED = "checkpoint failed"
    PANIC = "engine in panic"
    ALLOCATION = "allocation failed"
    ADDRESS_SPACE = "address space"
    WAL_REPLAY = "write-ahead log"
    RECOVERY_PENDING = "recovery pending"
    UNREADABLE = "unreadable target"
    DAMAGED = "damaged target"
    LOCKED = "locked"
    STORAGE_VERSION = "storage version"
    DISK = "disk"
    NOT_ALLOWED = "not allowed"
    DUPLICATE_KEY = "duplicate key"
    CONVERSION = "conversion"
    ENGINE_ERROR = "engine error"
    ENGINE_MISSING = "engine missing"
    SOURCE_BUSY = "source busy"
    SOURCE = "source"
    SCHEMA = "schema"
    STRICT = "strict"
    UNEXPECTED = "unexpected"


class Action(StrEnum):
    """What follows an end. After the last try, every action but STOP and REPAIR becomes ISOLATE."""

    RETRY = "retry"
    LARGER_POOL = "larger pool"
    SMALLER_BATCH = "smaller batch"
    ISOLATE = "isolate"
    REPAIR = "repair"
    STOP = "stop"


@dataclass(frozen=True)
class Rule:
    """One row of the table."""

    action: Action
    why: str


RULES: Mapping[FailureKind, Rule] = {
    FailureKind.CRASHED: Rule(Action.RETRY, "a crash may be chance; a row that causes it does so in every try"),
    FailureKind.KILLED: Rule(Action.RETRY, "another process did that, not the batch"),
    FailureKind.OUT_OF_MEMORY: Rule(
        Action.SMALLER_BATCH, "the kernel ended it for want of memory: fewer rows need less"
    ),
    FailureKind.HUNG: Rule(Action.SMALLER_BATCH, "fewer rows take less time; a row that hangs is left over in the end"),
    FailureKind.NO_ANSWER: Rule(Action.RETRY, "it went without a word; the count tells what arrived"),
    FailureKind.HALF_ANSWER: Rule(Action.RETRY, "it went in the middle of a word; the count tells what arrived"),
    FailureKind.FRAME_RELEASE: Rule(Action.RETRY, "the pages were written before it: a fresh process counts them"),
    FailureKind.POOL_FULL: Rule(Action.LARGER_POOL, "it has to hold the node group that a checkpoint rewrites"),
    FailureKind.CHECKPOINT_FAILED: Rule(
        Action.RETRY, "«durable», says the engine, and it may be: a fresh process counts"
    ),
    FailureKind.PANIC: Rule(Action.RETRY, "it refuses to go on in this process; a fresh one counts"),
    FailureKind.ALLOCATION: Rule(
        Action.SMALLER_BATCH, "rows and Arrow table stand beside the pool: fewer rows need less"
    ),
    FailureKind.ADDRESS_SPACE: Rule(Action.STOP, "the limit on our address space is below what the plan asks for"),
    FailureKind.WAL_REPLAY: Rule(Action.REPAIR, "the log is torn; what the last checkpoint holds is whole without it"),
    FailureKind.RECOVERY_PENDING: Rule(
        Action.REPAIR, "a program was killed in a checkpoint, which opening for writing ends"
    ),
    FailureKind.UNREADABLE: Rule(Action.REPAIR, "no repetition opens it"),
    FailureKind.DAMAGED: Rule(Action.REPAIR, "it opens, and what it holds cannot be read, or is wrong"),
    FailureKind.LOCKED: Rule(Action.RETRY, "another process has the file open, and may be about to close it"),
    FailureKind.STORAGE_VERSION: Rule(Action.STOP, "the file belongs to another engine"),
    FailureKind.DISK: Rule(Action.STOP, "only the owner can make room"),
    FailureKind.NOT_ALLOWED: Rule(Action.STOP, "only the owner can change the permissions"),
    FailureKind.DUPLICATE_KEY: Rule(Action.REPAIR, "its keys were looked up a moment ago: the file contradicts itself"),
    FailureKind.CONVERSION: Rule(Action.ISOLATE, "the same value fails in the same way every time"),
    FailureKind.ENGINE_ERROR: Rule(Action.RETRY, "an error without a rule of its own may be chance"),
    FailureKind.ENGINE_MISSING: Rule(Action.STOP, "it has to be installed"),
    FailureKind.SOURCE_BUSY: Rule(Action.RETRY, "whoever holds the source lets go of it some time"),
    FailureKind.SOURCE: Rule(Action.STOP, "the source cannot be read as it is"),
    FailureKind.SCHEMA: Rule(Action.STOP, "the columns are no longer those that the target was begun with"),
    FailureKind.STRICT: Rule(Action.STOP, "that is what --strict asks for"),
    FailureKind.UNEXPECTED: Rule(Action.RETRY, "an error without a rule of its own may be chance"),
}

#: Ends that may be the machine's doing as well as a row's: memory, time, or somebody with `kill`.
CIRCUMSTANTIAL = frozenset(
    {
        FailureKind.KILLED,
        FailureKind.OUT_OF_MEMORY,
        FailureKind.HUNG,
        FailureKind.POOL_FULL,
        FailureKind.ALLOCATION,
        FailureKind.LOCKED,
    }
)

#: The engine's messages; the first match counts, so what made a checkpoint fail comes before its having failed.
_MESSAGES: tuple[tuple[FailureKind, str], ...] = (
    (FailureKind.FRAME_RELEASE, r"Releasing physical memory"),
    (
        FailureKind.DISK,
        r"No space left on device|Disk quota exceeded|Input/output error|File too large|Too many open files",
    ),
    # A full disk may also show as a short write, with whatever error number came before it.
    (FailureKind.DISK, r"Cannot write to file|Failed to (sync|truncate) file|WAL sync failed|numBytesRead: -1"),
    (FailureKind.NOT_ALLOWED, r"Permission denied|Read-only file system"),
    (FailureKind.LOCKED, r"Could not (set )?lock"),
    (FailureKind.RECOVERY_PENDING, r"checkpoint recovery is pending"),
    (FailureKind.POOL_FULL, r"buffer pool is full"),
    (FailureKind.ADDRESS_SPACE, r"Mmap for size"),
    (
        FailureKind.WAL_REPLAY,
        r"WAL file is corrupted|Corrupted [Ww]|\.wal with size|Database ID for temporary|enableChecksums",
    ),
    (FailureKind.STORAGE_VERSION, r"different version\. Database file version: \d{1,4}\b"),
    (FailureKind.DAMAGED, r"may be corrupted|outside the database file|Load table failed|codec can't decode"),
    (FailureKind.PANIC, r"panic state|refuses further writes"),
    (FailureKind.CHECKPOINT_FAILED, r"Transaction committed successfully"),
    (FailureKind.ALLOCATION, r"bad_alloc|MemoryError|Cannot allocate memory|Resource temporarily unavailable"),
    (FailureKind.DUPLICATE_KEY, r"duplicated primary key"),
    (FailureKind.CONVERSION, r"^(Copy|Conversion|Overflow|Binder|Parser) exception"),
)
_PATTERNS = tuple((kind, re.compile(pattern)) for kind, pattern in _MESSAGES)

_OF_FAILURE: Mapping[Failure, FailureKind] = {
    Failure.ENGINE: FailureKind.ENGINE_MISSING,
    Failure.SOURCE: FailureKind.SOURCE,
    Failure.BUSY: FailureKind.SOURCE_BUSY,
    Failure.SCHEMA: FailureKind.SCHEMA,
    Failure.DISK: FailureKind.DISK,
    Failure.FREE_PAGES: FailureKind.DAMAGED,
    Failure.STRICT: FailureKind.STRICT,
    Failure.TARGET: FailureKind.ENGINE_ERROR,
    Failure.UNOPENED: FailureKind.UNREADABLE,
    Failure.UNEXPECTED: FailureKind.UNEXPECTED,
}

#: What means a damaged file when the engine says it while opening one: «bad_alloc» is a wild length in its catalog.
_DAMAGE_AT_OPENING = (None, FailureKind.DAMAGED, FailureKind.CONVERSION)
_WILD_LENGTH = re.compile(r"bad_alloc|MemoryError")

_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT})


@dataclass(frozen=True)
class WorkerResult:
    """How a worker ended, and what it said. `kind` is None when it did its job."""

    kind: FailureKind | None = None
    message: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    stack: str = ""  # the end of its stderr, when it failed

    @property
    def ok(self) -> bool:
        return self.kind is None

    @property
    def rule(self) -> Rule:
        """What to do about it. Only a worker that did not do its job has one."""
        if self.kind is None:
            raise ValueError("a worker that did its job needs no rule")
        return RULES[self.kind]


@dataclass(frozen=True)
class ExitStatus:
    """A worker's end as the system sees it. `status`: exit status, or minus the signal."""

    status: int
    output: bytes
    errors: bytes
    limit_s: float | None = None  # that it overran
    oom_kills: int = 0  # of the kernel's, while it worked


def classify(end: ExitStatus) -> WorkerResult:
    """What an end means."""
    stack = end.errors.decode(errors="replace").strip()
    if end.limit_s is not None:
        return WorkerResult(
            FailureKind.HUNG, f"the worker did not end within {end.limit_s:.0f} s and was ended", {}, stack
        )
    if end.status < 0:
        return WorkerResult(*_of_signal(-end.status, end.oom_kills), {}, stack)
    facts = _facts(end.output)
    if facts is None:
        kind, what = (FailureKind.HALF_ANSWER, "half an answer") if end.output else (FailureKind.NO_ANSWER, "no answer")
        return WorkerResult(kind, f"the worker ended with status {end.status} and {what}", {}, stack)
    if facts.get("ok"):
        return WorkerResult(None, "", facts)
    return WorkerResult(_of_words(Failure(facts["failure"]), facts["message"]), facts["message"], facts, stack)


def _of_signal(number: int, oom_kills: int) -> tuple[FailureKind, str]:
    if number == signal.SIGKILL and oom_kills:
        return FailureKind.OUT_OF_MEMORY, "the worker was ended by the kernel: out of memory (SIGKILL)"
    kind = FailureKind.CRASHED if number in _CRASHES else FailureKind.KILLED
    return kind, f"the worker was ended by {_signal_name(number)}"


def _of_words(failure: Failure, message: str) -> FailureKind:
    found = next((kind for kind, pattern in _PATTERNS if pattern.search(message)), None)
    if failure is Failure.UNOPENED and (found in _DAMAGE_AT_OPENING or _WILD_LENGTH.search(message)):
        return FailureKind.UNREADABLE
    if failure in (Failure.TARGET, Failure.UNOPENED, Failure.UNEXPECTED) and found is not None:
        return found
    return _OF_FAILURE[failure]


def _facts(output: bytes) -> dict[str, Any] | None:
    try:
        facts = json.loads(output) if output.endswith(b"\n") else None
    except ValueError:
        return None
    return facts if isinstance(facts, dict) and (facts.get("ok") or {"failure", "message"} <= facts.keys()) else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
