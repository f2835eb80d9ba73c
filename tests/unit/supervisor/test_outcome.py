"""Every way in which a worker can end is told from all others, and is followed by what helps."""

import json
import re
import signal
from collections.abc import Sequence

import pytest
from test_ends import PROVOKED, bench, loaded

from nimad.errors import ExitCode
from nimad.supervisor import outcome, worker_failure
from nimad.supervisor.outcome import Action, ExitStatus, FailureKind, WorkerResult, classify
from nimad.worker.protocol import Failure

__all__ = ["bench", "loaded"]  # fixtures

#: What cannot be had from ladybug 0.22 on this machine: the one is an older engine's on pages of 16 KiB, for the other
#: a disk has to fail in one moment of a checkpoint. `MESSAGES` has their words.
NOT_HERE = {FailureKind.FRAME_RELEASE, FailureKind.PANIC}
DURABLE = (
    "Transaction committed successfully, but the post-commit checkpoint failed. The committed data is durable and will "
    "be recovered on restart: "
)
POOL = "Buffer manager exception: Unable to allocate memory! The buffer pool is full and no memory could be freed!"
NO_SPACE = (
    "IO exception: Cannot write to file. path: /srv/graph.ladybug.migrating fileDescriptor: 3 offsetToWrite: 20971520 "
    "numBytesToWrite: 4096 numBytesWritten: -1. Error: No space left on device"
)
SHORT_WRITE = (
    "IO exception: Cannot write to file. path: /srv/graph.ladybug.migrating.wal fileDescriptor: 4 offsetToWrite: "
    "5313853 numBytesToWrite: 4096 numBytesWritten: 2755. Error: Success"
)
SHORT_WRITE_ODD = (
    "IO exception: Cannot write to file. path: /srv/graph.ladybug.migrating fileDescriptor: 3 offsetToWrite: 3125248 "
    "numBytesToWrite: 4096 numBytesWritten: 2048. Error: No such file or directory"
)
DEAD_DISK = (
    "IO exception: Cannot write to file. path: /srv/graph.ladybug.migrating fileDescriptor: 3 offsetToWrite: 4096 "
    "numBytesToWrite: 4096 numBytesWritten: -1. Error: Input/output error"
)
QUOTA = (
    "IO exception: Cannot write to file. path: /srv/graph.ladybug.migrating fileDescriptor: 3 offsetToWrite: 3125248 "
    "numBytesToWrite: 4096 numBytesWritten: -1. Error: Disk quota exceeded"
)
TOO_LARGE = (
    "IO exception: Cannot write to file. path: /srv/graph.ladybug.migrating fileDescriptor: 3 offsetToWrite: 8388608 "
    "numBytesToWrite: 4096 numBytesWritten: -1. Error: File too large"
)
DEAD_READ = (
    "IO exception: Cannot read from file: /srv/graph.ladybug.migrating fileDescriptor: 3 numBytesRead: -1 "
    "numBytesToRead: 4096 position: 4096"
)
SYNC = "IO exception: Failed to sync file /srv/graph.ladybug.migrating.shadow."
WAL_SYNC = (
    "Runtime exception: WAL sync failed; database is in a panic state and refuses further writes until restart. "
    "Original error: IO exception: Failed to sync file /srv/graph.ladybug.migrating.wal."
)
RETIREMENT = (
    "Runtime exception: WAL retirement failed; database is in a panic state and refuses further writes until restart. "
    "Correct persistent filesystem errors before reopening. Original error: unknown exception"
)
LOCK = (
    "IO exception: Could not set lock on file : /srv/graph.ladybug.migrating (Lock is held by PID 28738) (Error: "
    "Resource temporarily unavailable) See the docs: https://docs.ladybugdb.com/concurrency for more information."
)
OLD_LOCK = (
    "IO exception: Could not set lock on file : /srv/graph.ladybug.migrating See the docs: "
    "https://docs.ladybugdb.com/concurrency for more information."
)
DATABASE_ID = (
    "Runtime exception: Database ID for temporary file '/srv/graph.ladybug.migrating.wal' does not match the current "
    "database. This file may have been left behind from a previous database with the same name. If it is safe to do "
    "so, please delete this file and restart the database."
)
CHECKSUMS = (
    "Runtime exception: The database you are trying to open was serialized with enableChecksums=False but you are "
    "trying to open it with enableChecksums=True. Please open your database using the correct enableChecksums config. "
    "If you wish to change this for your database, please use the export/import functionality."
)
TORN = "Storage exception: Checksum verification failed, the WAL file is corrupted."
OLD_TORN = (
    "Runtime exception: Reading past the end of the file /srv/graph.ladybug.migrating.wal with size 119595 at offset "
    "119595"
)
VERSION = (
    "Runtime exception: Trying to read a database file with a different version. Database file version: {}, Current "
    "build storage version: 49"
)
OUTSIDE = (
    "Runtime exception: Cannot read checkpoint: catalog page range starts at 1627 and spans 91 pages, outside the "
    "database file with 1644 pages. The database may be checkpointing; please retry later."
)
HEADER = (
    "Runtime exception: Cannot read checkpoint: header expects 1509951084 database pages, but the file has 1644 pages. "
    "The database may be checkpointing; please retry later."
)
PAGES = (
    "Runtime exception: Cannot read PIP page 2779096485 from disk: out of bounds for file with 1644 pages. The "
    "database file may be corrupted."
)
PENDING = (
    "Runtime exception: Cannot open database in read-only mode while checkpoint recovery is pending. If another "
    "process is checkpointing, retry after it finishes; otherwise reopen in read-write mode to complete recovery "
    "before reopening read-only."
)
DUPLICATE = (
    "Copy exception: Found duplicated primary key value 601, which violates the uniqueness constraint of the primary "
    "key column."
)
TOO_SMALL = (
    "Buffer manager exception: Maximum database size of 16777216 bytes has been reached. Reopen the database with a "
    "larger max_db_size to continue."
)
INVALID_OFFSET = "Storage exception: String dictionary has an invalid first offset."
FRAME_FREE = (
    "Buffer manager exception: Releasing physical memory associated with a frame failed with error code -1: Invalid "
    "argument."
)
#: What a worker says of itself, the engine's words (0.22 where not said otherwise), and what that is.
MESSAGES: Sequence[tuple[Failure, str, FailureKind]] = (
    (Failure.TARGET, FRAME_FREE, FailureKind.FRAME_RELEASE),  # before 0.18
    (Failure.TARGET, DURABLE + FRAME_FREE, FailureKind.FRAME_RELEASE),
    (Failure.TARGET, POOL, FailureKind.POOL_FULL),
    (Failure.TARGET, DURABLE + POOL, FailureKind.POOL_FULL),
    (Failure.UNOPENED, POOL, FailureKind.POOL_FULL),
    (Failure.TARGET, DURABLE + TOO_SMALL, FailureKind.CHECKPOINT_FAILED),
    (Failure.TARGET, DURABLE + INVALID_OFFSET, FailureKind.CHECKPOINT_FAILED),
    (Failure.TARGET, TOO_SMALL, FailureKind.ENGINE_ERROR),
    (Failure.TARGET, NO_SPACE, FailureKind.DISK),
    (Failure.TARGET, DURABLE + NO_SPACE, FailureKind.DISK),
    (Failure.UNOPENED, NO_SPACE, FailureKind.DISK),
    (Failure.TARGET, SHORT_WRITE, FailureKind.DISK),
    (Failure.TARGET, SHORT_WRITE_ODD, FailureKind.DISK),
    (Failure.TARGET, DEAD_DISK, FailureKind.DISK),
    (Failure.TARGET, QUOTA, FailureKind.DISK),
    (Failure.TARGET, TOO_LARGE, FailureKind.DISK),
    (Failure.UNOPENED, DEAD_READ, FailureKind.DISK),
    (Failure.TARGET, SYNC, FailureKind.DISK),
    (Failure.TARGET, "IO exception: Failed to truncate file /srv/graph.ladybug.migrating.wal.", FailureKind.DISK),
    (Failure.TARGET, WAL_SYNC, FailureKind.DISK),
    (Failure.DISK, "[Errno 28] No space left on device: '/srv/graph.ladybug.migrating.ledger'", FailureKind.DISK),
    (Failure.TARGET, "IO exception: Cannot open file /srv/graph.ladybug: Too many open files", FailureKind.DISK),
    (Failure.DISK, "[Errno 5] Input/output error", FailureKind.DISK),
    (Failure.TARGET, RETIREMENT, FailureKind.PANIC),
    (
        Failure.UNOPENED,
        "IO exception: Cannot open file /srv/graph.ladybug: Read-only file system",
        FailureKind.NOT_ALLOWED,
    ),
    (Failure.UNOPENED, "IO exception: Cannot open file /srv/graph.ladybug: Permission denied", FailureKind.NOT_ALLOWED),
    (Failure.TARGET, "[Errno 13] Permission denied: '/srv/graph.ladybug.migrating.ledger'", FailureKind.NOT_ALLOWED),
    (Failure.UNOPENED, LOCK, FailureKind.LOCKED),
    (Failure.UNOPENED, OLD_LOCK, FailureKind.LOCKED),  # before 0.18
    (Failure.UNOPENED, "Buffer manager exception: Mmap for size 17179869184 failed.", FailureKind.ADDRESS_SPACE),
    (Failure.UNOPENED, TORN, FailureKind.WAL_REPLAY),
    (Failure.UNOPENED, OLD_TORN, FailureKind.WAL_REPLAY),  # before 0.18
    (
        Failure.UNOPENED,
        "Runtime exception: Corrupted wal file. Read out invalid WAL record type.",
        FailureKind.WAL_REPLAY,
    ),
    (
        Failure.UNOPENED,
        "Runtime exception: Corrupted WAL record: table insertion has no vectors; discarding torn tail.",
        FailureKind.WAL_REPLAY,
    ),
    (Failure.UNOPENED, DATABASE_ID, FailureKind.WAL_REPLAY),
    (Failure.UNOPENED, CHECKSUMS, FailureKind.WAL_REPLAY),
    (Failure.UNOPENED, VERSION.format(50), FailureKind.STORAGE_VERSION),
    (Failure.UNOPENED, VERSION.format(6510615555426900587), FailureKind.UNREADABLE),  # damage, and no version
    (Failure.UNOPENED, OUTSIDE, FailureKind.UNREADABLE),
    (Failure.UNOPENED, HEADER, FailureKind.UNREADABLE),
    (Failure.UNOPENED, PAGES, FailureKind.UNREADABLE),
    (Failure.UNOPENED, PENDING, FailureKind.RECOVERY_PENDING),
    (
        Failure.UNOPENED,
        "Runtime exception: Load table failed: table 0 doesn't exist in catalog.",
        FailureKind.UNREADABLE,
    ),
    (Failure.UNOPENED, "std::bad_alloc", FailureKind.UNREADABLE),
    (Failure.UNOPENED, "basic_string::_M_replace_aux", FailureKind.UNREADABLE),
    (
        Failure.UNOPENED,
        "Runtime exception: Unable to open database. The file is not a valid Lbug database file!",
        FailureKind.UNREADABLE,
    ),
    (Failure.UNOPENED, "Cannot create an empty database under READ ONLY mode.", FailureKind.UNREADABLE),
    (
        Failure.UNOPENED,
        "IO exception: Cannot open file /srv/graph.ladybug.migrating.shadow: No such file or directory",
        FailureKind.UNREADABLE,
    ),
    # Too many processes for a further thread, which is nothing that the file could help.
    (Failure.UNOPENED, "Resource temporarily unavailable", FailureKind.ALLOCATION),
    (Failure.TARGET, "Resource temporarily unavailable", FailureKind.ALLOCATION),
    (Failure.TARGET, PAGES, FailureKind.DAMAGED),
    (Failure.TARGET, OUTSIDE, FailureKind.DAMAGED),
    (Failure.TARGET, "Runtime exception: Load table failed: table 0 doesn't exist in catalog.", FailureKind.DAMAGED),
    (Failure.UNEXPECTED, "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte", FailureKind.DAMAGED),
    (Failure.TARGET, "std::bad_alloc", FailureKind.ALLOCATION),
    (Failure.UNEXPECTED, "std::bad_alloc", FailureKind.ALLOCATION),
    (Failure.UNEXPECTED, "MemoryError", FailureKind.ALLOCATION),
    (Failure.TARGET, "[Errno 12] Cannot allocate memory", FailureKind.ALLOCATION),
    (Failure.TARGET, DUPLICATE, FailureKind.DUPLICATE_KEY),
    (Failure.TARGET, DUPLICATE.replace("Copy", "Runtime"), FailureKind.DUPLICATE_KEY),
    (
        Failure.TARGET,
        "Copy exception: Found NULL, which violates the non-null constraint of the primary key column.",
        FailureKind.CONVERSION,
    ),
    (Failure.TARGET, 'Conversion exception: Cast failed. Could not convert "abc" to INT64.', FailureKind.CONVERSION),
    (
        Failure.TARGET,
        "Conversion exception: Unsupported casting LIST with incorrect list entry to ARRAY. Expected: 64, Actual: 63.",
        FailureKind.CONVERSION,
    ),
    (Failure.TARGET, "Overflow exception: Value 9223372036854775813 is not within INT64 range", FailureKind.CONVERSION),
    (
        Failure.TARGET,
        "Binder exception: Cannot change variable expression data type from FLOAT[63] to FLOAT[64].",
        FailureKind.CONVERSION,
    ),
    (Failure.TARGET, "Parser exception: extraneous input 'MATCHX' expecting {ALTER, …}", FailureKind.CONVERSION),
    (Failure.TARGET, "unordered_map::at", FailureKind.ENGINE_ERROR),
    (Failure.TARGET, "Runtime exception: something nobody has a rule for", FailureKind.ENGINE_ERROR),
    (Failure.ENGINE, "LadybugDB not available. Install: pip install 'ladybug>=0.22,<0.23'", FailureKind.ENGINE_MISSING),
    (Failure.SOURCE, "/srv/graph.sqlite cannot be read (no such table: memory_nodes)", FailureKind.SOURCE),
    (Failure.SOURCE, "/srv/graph.sqlite cannot be opened: Permission denied", FailureKind.SOURCE),
    (Failure.BUSY, "/srv/graph.sqlite is locked by another program (database is locked)", FailureKind.SOURCE_BUSY),
    (Failure.SCHEMA, "MemoryNode.mood is missing, the source asks for STRING", FailureKind.SCHEMA),
    (Failure.STRICT, "memory_nodes id 7: text is no UTF-8", FailureKind.STRICT),
    (Failure.UNEXPECTED, "a load job without a range", FailureKind.UNEXPECTED),
)
#: Ends that say something without a word: status or minus the signal, output, seconds overrun, OOM kills.
WORDLESS: Sequence[tuple[ExitStatus, FailureKind | None]] = (
    (ExitStatus(-signal.SIGSEGV, b"", b""), FailureKind.CRASHED),
    (ExitStatus(-signal.SIGABRT, b"", b"Fatal Python error: Aborted"), FailureKind.CRASHED),
    (ExitStatus(-signal.SIGSEGV, b'{"ok": true}\n', b""), FailureKind.CRASHED),  # on its way out, after its answer
    (ExitStatus(-signal.SIGSEGV, b"", b"", None, 3), FailureKind.CRASHED),  # others were out of memory
    (ExitStatus(-signal.SIGKILL, b"", b""), FailureKind.KILLED),
    (ExitStatus(-signal.SIGTERM, b"", b"", None, 1), FailureKind.KILLED),
    (ExitStatus(-40, b"", b""), FailureKind.KILLED),  # a signal without a name
    (ExitStatus(-signal.SIGKILL, b"", b"", None, 1), FailureKind.OUT_OF_MEMORY),
    (ExitStatus(-signal.SIGABRT, b"", b"", 120.0), FailureKind.HUNG),
    (ExitStatus(-signal.SIGKILL, b"", b"", 120.0), FailureKind.HUNG),
    (ExitStatus(-signal.SIGKILL, b"", b"", 120.0, 1), FailureKind.HUNG),
    (ExitStatus(0, b"", b""), FailureKind.NO_ANSWER),
    (ExitStatus(3, b"", b"Traceback"), FailureKind.NO_ANSWER),
    (ExitStatus(0, b'{"ok": tr', b""), FailureKind.HALF_ANSWER),
    (ExitStatus(0, b'{"ok": true}', b""), FailureKind.HALF_ANSWER),  # the end of the line is part of it
    (ExitStatus(1, b'{"ok": false, "failure": "target"}\n', b""), FailureKind.HALF_ANSWER),
    (ExitStatus(0, b"[]\n", b""), FailureKind.HALF_ANSWER),
    (ExitStatus(0, b"\xff\xfe\n", b""), FailureKind.HALF_ANSWER),
    (ExitStatus(0, b'{"ok": true}\n', b""), None),
)


@pytest.mark.parametrize(("failure", "message", "kind"), MESSAGES)
def test_the_engines_own_words_are_understood(failure: Failure, message: str, kind: FailureKind) -> None:
    line = json.dumps({"ok": False, "failure": failure, "message": message}) + "\n"
    answer = classify(ExitStatus(1, line.encode(), b""))
    assert (answer.kind, answer.message) == (kind, message)


@pytest.mark.parametrize(("end", "kind"), WORDLESS)
def test_an_end_without_a_word_is_told_by_how_it_came(end: ExitStatus, kind: FailureKind | None) -> None:
    answer = classify(end)
    assert answer.kind is kind
    assert answer.ok == (kind is None)
    assert bool(answer.message) == (kind is not None)


def test_every_kind_has_a_rule_with_a_reason() -> None:
    assert set(outcome.RULES) == set(FailureKind)
    for kind, rule in outcome.RULES.items():
        assert len(rule.why.split()) >= 4, f"why {kind} is followed by {rule.action} is not said"
    assert {rule.action for rule in outcome.RULES.values()} == set(Action), "an action that nothing leads to"


def test_every_kind_has_a_row_here_and_is_reached_by_a_real_worker() -> None:
    rows = {kind for _, _, kind in MESSAGES} | {kind for _, kind in WORDLESS}
    assert rows - {None} == set(FailureKind)
    assert set(PROVOKED) == set(FailureKind) - NOT_HERE


def test_every_word_that_is_looked_for_is_said_in_one_of_the_messages() -> None:
    """A pattern that no real message matches has not been seen, or is no longer said."""
    said = [message for _, message, _ in MESSAGES]
    for kind, pattern in outcome._MESSAGES:
        for part in _alternatives(pattern):
            assert any(re.search(part, message) for message in said), f"nothing here says {part!r} ({kind})"


def _alternatives(pattern: str) -> list[str]:
    """The parts of `a|b(c|d)` between bars that stand in no bracket."""
    parts, depth = [""], 0
    for sign in pattern:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(sign, 0)
        if sign == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def test_every_failure_that_a_worker_can_name_has_a_kind() -> None:
    assert set(outcome._OF_FAILURE) == set(Failure)


#: Exit codes of a run that such an end finishes, where it is not 75, «run again».
CODES = {
    FailureKind.ENGINE_MISSING: ExitCode.ENGINE,
    FailureKind.STORAGE_VERSION: ExitCode.ENGINE,
    FailureKind.DISK: ExitCode.IO_ERROR,
    FailureKind.NOT_ALLOWED: ExitCode.CANNOT_WRITE,
    FailureKind.SOURCE: ExitCode.USAGE,
}


@pytest.mark.parametrize("kind", list(FailureKind))
def test_an_end_that_finishes_a_run_says_what_to_do(kind: FailureKind) -> None:
    facts = {"exit_code": ExitCode.INTERRUPTED} if kind is FailureKind.SOURCE_BUSY else {}
    error = worker_failure.error_of(WorkerResult(kind, "so it was", facts))
    assert error.exit_code == CODES.get(kind, ExitCode.INTERRUPTED)
    assert "so it was" in str(error)
