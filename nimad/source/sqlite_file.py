"""The SQLite file, opened so that nothing in its folder changes."""

import fcntl
import os
import shlex
import sqlite3
import struct
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from nimad.errors import (
    SourceBusyError,
    SourceDamagedError,
    SourceError,
    StoppedError,
    limit_reached,
)
from nimad.host import filesystems
from nimad.host.disk import mount_number
from nimad.printable import said
from nimad.source import bounds, foreign_wal
from nimad.source.cells import text
from nimad.source.damaged_pages import corrupt
from nimad.source.header import READ_VERSION, WAL_FORMAT, beside, header_of, locks_kept, open_kept, size_or_zero
from nimad.source.row_numbers import number_rows
from nimad.source.schema import NODES
from nimad.source.sql import error_code
from nimad.source.stand_ins import Reading
from nimad.source.wal import holds_commit

T = TypeVar("T")

#: Seconds to wait for a writer that holds the file, and of one look in between at whether to stop.
BUSY_TIMEOUT_S = 120.0
BUSY_LOOK_S = 1.0
#: How often a read is repeated when the file changes under it, and the seconds in between.
ATTEMPTS = 40
PAUSE_S = 0.05

#: The byte of a log's index that each program which has it open holds a lock on (`UNIX_SHM_DMS` in SQLite's os_unix.c).
_DMS_BYTE = 128
#: `struct flock` of 64-bit Linux.
_FLOCK = "hhqqi4x"


class _EndlessError(Exception):
    """A reading used up its steps."""


#: What SQLite raises through Python: for want of memory, and where a message of it quotes what is no UTF-8, others.
_UNREADABLE = (sqlite3.Error, MemoryError, UnicodeDecodeError, _EndlessError)


class _MovedError(Exception):
    """The file, or its log, changed while it was opened or read without locks; `explained` is what to say at last."""

    def __init__(self, explained: SourceError) -> None:
        self.explained = explained


@dataclass(frozen=True)
class Identity:
    """Which file this is: it stays the same while programs write to it, and differs once it is replaced.

    `inode`: None where the file system invents numbers, and `device` the mount then; 0 where nobody noted it.
    """

    path: str
    inode: int | None
    device: int = 0

    def is_certain(self, noted: "Identity") -> bool:
        """Whether this is the very file that was noted. If not, it may be the same memory all the same."""
        if self.inode is None or (self.path, self.inode) != (noted.path, noted.inode):
            return False
        return not noted.device or self.device == noted.device

    def to_json(self) -> dict[str, str | int | None]:
        return {"path": self.path, "inode": self.inode, "device": self.device}

    def is_elsewhere(self, noted: "Identity") -> bool:
        """Whether the memory has another place, or is another file there, as far as the numbers tell."""
        numbers = self.inode is not None and noted.inode is not None
        return self.path != noted.path or (numbers and self.inode != noted.inode)


class SourceFile:
    """A NIMA memory in SQLite, read while other programs go on writing to it."""

    def __init__(self, path: Path, stop: threading.Event | None = None) -> None:
        self.path = path
        self.stop = stop or threading.Event()

    def identity(self) -> Identity:
        inode = filesystems.number_of(self.path)
        device = mount_number(self.path) if inode is None else self.path.stat().st_dev
        return Identity(str(self.path.resolve()), inode, device)

    def size(self) -> int:
        """Bytes of the database and of what still stands in its write-ahead log."""
        return self.path.stat().st_size + size_or_zero(beside(self.path, "-wal"))

    def _size_taken(self) -> int:
        """The same, but of what holes make large no more than the disk has of it."""
        return sum(bounds.size_taken(path) for path in (self.path, beside(self.path, "-wal")))

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` with a read-only connection that sees one unchanging state of the memory.

        Raises `SourceError`, `SourceDamagedError` where pages cannot be read, `StoppedError` once a stop is asked for.
        """
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                return self._read_still(work)
            except SourceError as error:
                if self.stop.is_set():
                    raise StoppedError("stopped") from error
                if not isinstance(error, SourceBusyError) or time.monotonic() > deadline:
                    raise

    def _read_still(self, work: Callable[[sqlite3.Connection], T]) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._read_once(work)
            except _MovedError as moved:
                if attempt == ATTEMPTS:
                    raise moved.explained from moved
                time.sleep(PAUSE_S)
        raise AssertionError  # the loop above ends in a return or a raise

    def number(self, query: str, *values: int | None) -> int:
        """The one number that a query gives, such as a count."""
        return self.read(lambda connection: int(connection.execute(query, values).fetchone()[0]))

    def has_log_of_dead(self) -> bool:
        """Whether a log is read with the file that no program has open: one that was killed left it."""
        with locks_kept():
            return _access_mode(self.path).private_index

    def stamps(self) -> object:
        """What differs once somebody wrote to the file or its log."""
        return _fingerprint(self.path)

    def _read_once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with locks_kept():
            before = _fingerprint(self.path)  # first: a writer that comes after this line is noticed
            access = _access_mode(self.path)
            try:
                result = self._query(access, work)
            except _UNREADABLE as error:
                explained = self._explain(error)
                code = error_code(error) if isinstance(error, sqlite3.Error) else 0
                # The last program to close the file takes its log away, maybe between our look and our opening.
                vanished = access.parameters and code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
                # Pages of two moments look like damage.
                doubted = access.still or isinstance(explained, SourceDamagedError)
                if vanished or (doubted and before != _fingerprint(self.path)):
                    raise _MovedError(explained) from error
                if isinstance(explained, SourceDamagedError):
                    foreign_wal.refuse(self.path, str(error))
                raise explained from error
            if access.still and before != _fingerprint(self.path):
                raise _MovedError(SourceBusyError(f"{self.path} changes faster than it can be read; run again later"))
            return result

    def _query(self, access: "_Access", work: Callable[[sqlite3.Connection], T]) -> T:
        uri = f"file:{quote(str(self.path.resolve()))}?mode=ro{access.parameters}"
        timeout = min(BUSY_LOOK_S, BUSY_TIMEOUT_S)
        with closing(sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None, factory=Reading)) as reading:
            reading.text_factory = text
            steps = bounds.limit(reading, self._size_taken(), self.stop)
            if access.private_index:
                reading.execute("PRAGMA locking_mode = EXCLUSIVE")
            reading.execute("BEGIN")  # one snapshot for all statements of `work`
            while True:
                try:
                    number_rows(reading)
                    reading.execute("PRAGMA query_only = 1")
                    return work(reading)
                except UnicodeDecodeError as error:
                    raise corrupt("its schema is no text") from error
                except sqlite3.Error as error:
                    if steps.used_up and not self.stop.is_set():
                        raise _EndlessError from error
                    if reading.beneath is not None:
                        raise reading.beneath from error
                    if not reading.provide(error) and not reading.compute_each_alone(error):
                        raise
                    reading.execute("PRAGMA query_only = 0")  # for the views of `number_rows`

    def _explain(self, error: Exception) -> SourceError:
        if isinstance(error, _EndlessError):
            return SourceError(
                f"{self.path} takes more steps to read than its size can need, so a view or a generated column in it "
                "has no end; name another file with --source"
            )
        if isinstance(error, MemoryError):
            return SourceError(f"{self.path} takes more memory to read than it may; free some, or name another file")
        code = error_code(error) if isinstance(error, sqlite3.Error) else 0
        if code == sqlite3.SQLITE_TOOBIG:
            return SourceError(
                f"{self.path} computes a value that is far longer than the file ({error}); take that view or generated "
                "column out of a copy of it, and name the copy with --source"
            )
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return SourceDamagedError(f"{self.path} is damaged ({error}); restore a backup of it, if there is one")
        if code == sqlite3.SQLITE_IOERR:
            return SourceDamagedError(f"{self.path} cannot be read ({error}); check the disk (dmesg), then run again")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return SourceBusyError(f"{self.path} is locked by another program ({error}); close it and run again")
        if code == sqlite3.SQLITE_READONLY and size_or_zero(beside(self.path, "-journal")):
            return SourceError(
                f"{self.path} has an unfinished transaction of a program that was killed; let SQLite undo it with: "
                f"{shlex.join(['sqlite3', str(self.path), 'PRAGMA user_version'])}"
            )
        if code == sqlite3.SQLITE_CANTOPEN and (limit := _limit_on_files()):
            return SourceError(f"{self.path} cannot be opened ({error}); {limit}")
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY):
            return SourceError(f"{self.path} cannot be opened ({error}); check its permissions and its folder's")
        if code == sqlite3.SQLITE_ERROR:
            schema = shlex.join(["sqlite3", str(self.path), f".schema {NODES}"])
            return SourceError(
                f"{self.path} cannot be read ({said(error)}): its own schema asks for what is not here, or is not let; "
                f"see it with: {schema} and put what a view gives into a plain table, in a copy, and name that with "
                "--source"
            )
        return SourceError(f"{self.path} cannot be read ({error})")


@dataclass(frozen=True)
class _Access:
    """How to open the file. `still`: without locks, so a change meanwhile has to be noticed by us."""

    parameters: str
    still: bool = False
    private_index: bool = False


def _access_mode(path: Path) -> _Access:
    """Choose the way of opening that creates no file and changes none.

    SQLite's plain `mode=ro` makes `-wal` and `-shm` beside a WAL database that lies still, and leaves them
    there; so it does beside any file that has a log, whatever the header says. So: a still file is read as immutable;
    one that programs have open through their `-shm`, read-only; a `-wal` left by a killed program with an index in our
    own memory, but not one without a single commit: SQLite removes that as it closes the file. (Measured with
    SQLite 3.40.)
    """
    log, index = beside(path, "-wal"), beside(path, "-shm")
    if header_of(path)[READ_VERSION : READ_VERSION + 1] != bytes([WAL_FORMAT]) and not size_or_zero(log):
        return _Access("")
    if log.exists() and index.exists() and _is_used(index):
        return _Access("&readonly_shm=1")
    if size_or_zero(log) > 0 and holds_commit(log):
        return _Access("&vfs=unix-none", still=True, private_index=True)
    return _Access("&immutable=1", still=True)


def _limit_on_files() -> str:
    """What to do where no further file can be opened, which SQLite does not tell from a file that is closed to us."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return limit_reached(str(error))
    return ""


def _is_used(index: Path) -> bool:
    """Whether another program has the log's index open: each holds a lock on one byte of it for as long.

    Without one, the index is what a killed program left, and nothing keeps a program that comes now from moving pages
    into the file while we read.
    """
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _DMS_BYTE, 1, 0)
    try:
        told = fcntl.fcntl(open_kept(index), fcntl.F_GETLK, asked)
    except OSError:  # it vanished, or may not be read: SQLite says so better
        return True
    return bool(struct.unpack(_FLOCK, told)[0] != fcntl.F_UNLCK)


def _fingerprint(path: Path) -> tuple[tuple[int, int, int] | None, ...]:
    return tuple(_stamp(file) for file in (path, beside(path, "-wal")))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - as cheap as it gets: called around every read
    except FileNotFoundError:
        return None
    if path.name.endswith("-wal") and status.st_size == 0:
        return None  # an empty log holds nothing that a reader could miss
    return (status.st_ino, status.st_size, status.st_mtime_ns)
