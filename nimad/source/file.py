"""The SQLite file: opened so that not one byte in its folder changes."""

import os
import shlex
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from nimad.disk import SQLITE_MAGIC
from nimad.errors import NotAllowedError, SourceBusyError, SourceDamagedError, SourceError, StoppedError
from nimad.source.log import holds_commit

T = TypeVar("T")

#: Seconds to wait for a writer that holds the file, and of one look in between at whether to stop.
BUSY_TIMEOUT_S = 120.0
BUSY_LOOK_S = 1.0
#: Steps of SQLite's machine between two looks at whether to stop: some milliseconds.
_STEPS = 100_000
#: How often a read is repeated when the file changes under it, and the seconds in between.
ATTEMPTS = 40
PAUSE_S = 0.05

_HEADER_BYTES = 100
_WAL_FORMAT = 2  # byte 18 of the header: 1 is a rollback journal, 2 is WAL (sqlite.org/fileformat.html)


@dataclass(frozen=True)
class InvalidText:
    """A TEXT value whose bytes are no UTF-8."""

    raw: bytes


class _MovedError(Exception):
    """The file, or its log, changed while it was opened or read without locks; `explained` is what to say at last."""

    def __init__(self, explained: SourceError) -> None:
        self.explained = explained


@dataclass(frozen=True)
class Identity:
    """Which file this is: it stays the same while programs write to it, and differs once it is replaced."""

    path: str
    inode: int


class SourceFile:
    """A NIMA memory in SQLite, read while other programs go on writing to it."""

    def __init__(self, path: Path, stop: threading.Event | None = None) -> None:
        self.path = path
        self.stop = stop or threading.Event()

    def identity(self) -> Identity:
        return Identity(str(self.path.resolve()), self.path.stat().st_ino)

    def size(self) -> int:
        """Bytes of the database and of what still stands in its write-ahead log."""
        return self.path.stat().st_size + _size_or_zero(_beside(self.path, "-wal"))

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

    def _read_once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        before = _fingerprint(self.path)  # first: a writer that comes after this line is noticed
        access = _access_mode(self.path)
        try:
            result = self._query(access, work)
        except sqlite3.Error as error:
            explained = self._explain(error)
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            # The last program to close the file takes its log away, maybe between our look and our opening.
            vanished = access.parameters and code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
            if vanished or (access.still and before != _fingerprint(self.path)):
                raise _MovedError(explained) from error
            raise explained from error
        if access.still and before != _fingerprint(self.path):
            raise _MovedError(SourceBusyError(f"{self.path} changes faster than it can be read; run again later"))
        return result

    def _query(self, access: "_Access", work: Callable[[sqlite3.Connection], T]) -> T:
        uri = f"file:{quote(str(self.path.resolve()))}?mode=ro{access.parameters}"
        connection = sqlite3.connect(uri, uri=True, timeout=min(BUSY_LOOK_S, BUSY_TIMEOUT_S), isolation_level=None)
        try:
            connection.text_factory = _text
            connection.set_progress_handler(self.stop.is_set, _STEPS)
            connection.execute("PRAGMA query_only = 1")
            if access.private_index:
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN")  # one snapshot for all statements of `work`
            return work(connection)
        finally:
            connection.close()

    def _explain(self, error: sqlite3.Error) -> SourceError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return SourceDamagedError(f"{self.path} is damaged ({error}); restore a backup of it, if there is one")
        if code == sqlite3.SQLITE_IOERR:
            return SourceDamagedError(f"{self.path} cannot be read ({error}); check the disk (dmesg), then run again")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return SourceBusyError(f"{self.path} is locked by another program ({error}); close it and run again")
        if code == sqlite3.SQLITE_READONLY and _size_or_zero(_beside(self.path, "-journal")):
            return SourceError(
                f"{self.path} has an unfinished transaction of a program that was killed; let SQLite undo it with: "
                f"{shlex.join(['sqlite3', str(self.path), 'PRAGMA user_version'])}"
            )
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY):
            return SourceError(f"{self.path} cannot be opened ({error}); check its permissions and its folder's")
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
    there. So: a still file is read as immutable; one that programs have open through their `-shm`, read-only;
    a `-wal` left by a killed program with an index in our own memory, but not one without a single commit: SQLite
    removes that as it closes the file. (Measured with SQLite 3.40.)
    """
    if not _is_wal(path):
        return _Access("")
    log, index = _beside(path, "-wal"), _beside(path, "-shm")
    if log.exists() and index.exists():
        return _Access("&readonly_shm=1")
    if _size_or_zero(log) > 0 and holds_commit(log):
        return _Access("&vfs=unix-none", still=True, private_index=True)
    return _Access("&immutable=1", still=True)


def check_source(path: Path) -> None:
    """Raise an error that says what is wrong when `path` is no whole SQLite file that we may read."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise SourceError(f"there is no memory at {path}; name the file with --source, or set NIMA_DB_PATH") from None
    except PermissionError:
        raise NotAllowedError(f"{path} may not be read by this user; run as its owner") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be opened ({error.strerror}); name a file with --source") from None
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{path} is not a file; name the SQLite file with --source")
    if status.st_size == 0:
        raise SourceError(f"{path} is empty; name the file that holds the memory with --source")
    _check_header(path, _header(path), status.st_size)


def _check_header(path: Path, header: bytes, size: int) -> None:
    if not header.startswith(SQLITE_MAGIC):
        raise SourceError(f"{path} is not an SQLite file; name the NIMA memory with --source")
    if len(header) < _HEADER_BYTES:
        raise SourceDamagedError(f"{path} is truncated: it ends after {len(header)} bytes; restore a backup")
    page = int.from_bytes(header[16:18], "big")
    page = 65_536 if page == 1 else page
    # The page count in the header is valid only when both change counters agree (fileformat.html, 1.3.7).
    counted = header[24:28] == header[92:96]
    expected = int.from_bytes(header[28:32], "big") * page
    if counted and size < expected:
        raise SourceDamagedError(
            f"{path} is truncated: {size:,} of {expected:,} bytes are there; restore a backup and run again, or, "
            f"without one, {rescue(path)}"
        )


def rescue(path: Path) -> str:
    """What to do about a file of which this program can save nothing, in words that follow a comma.

    SQLite's shell works on a copy: it writes to the file that it opens, or to a log beside it. Debian and Ubuntu build
    theirs without what `.recover` needs (sqlite_dbpage): it stops with an error, having saved nothing.
    """
    copy, made = path.with_name(f"{path.name}.copy"), path.with_name(f"{path.name}.recovered")
    copied = [(path, copy)]
    if _size_or_zero(_beside(path, "-wal")):
        copied.append((_beside(path, "-wal"), copy.with_name(f"{copy.name}-wal")))
    steps = [shlex.join(["cp", str(old), str(new)]) for old, new in copied]
    steps.append(f"{shlex.join(['sqlite3', str(copy), '.recover'])} | {shlex.join(['sqlite3', str(made)])}")
    found = shlex.quote(str(made))
    return (
        f"migrate with --source {found} what the sqlite3 of sqlite.org (those of Debian and Ubuntu cannot) recovers "
        f"with: {' && '.join(steps)}"
    )


def _header(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEADER_BYTES)
    except PermissionError:
        raise NotAllowedError(f"{path} may not be read by this user; run as its owner") from None
    except OSError as error:
        raise SourceDamagedError(f"{path} cannot be read ({error.strerror})") from None


def _is_wal(path: Path) -> bool:
    header = _header(path)
    return len(header) > 18 and header[18] == _WAL_FORMAT  # noqa: PLR2004 - the offset stands beside its meaning


def _fingerprint(path: Path) -> tuple[tuple[int, int, int] | None, ...]:
    return tuple(_stamp(file) for file in (path, _beside(path, "-wal")))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - as cheap as it gets: called around every read
    except FileNotFoundError:
        return None
    if path.name.endswith("-wal") and status.st_size == 0:
        return None  # an empty log holds nothing that a reader could miss
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def _beside(path: Path, suffix: str) -> Path:
    return path.resolve().with_name(path.resolve().name + suffix)


def _size_or_zero(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _text(raw: bytes) -> str | InvalidText:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return InvalidText(raw)
