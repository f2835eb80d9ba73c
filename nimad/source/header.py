"""The header of an SQLite file: whether the file is complete and in a format that SQLite reads.

Its bytes are read without a connection, and with care: closing any descriptor of a file drops all locks that this
process has on it, those of SQLite among them (fcntl(2), sqlite.org/howtocorrupt.html, 2.2). Without its lock, a reader
is in no writer's way, and finds pages of two moments: damage that is none.
"""

import os
import shlex
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nimad.errors import NotAllowedError, SourceDamagedError, SourceError
from nimad.host.disk import SQLITE_MAGIC

_HEADER_BYTES = 100
#: Places in the header, and what stands there (sqlite.org/fileformat.html, 1.3): 1 is a rollback journal, 2 is WAL.
READ_VERSION = 19
WAL_FORMAT = 2
#: Of a file that is encrypted whole: bytes that are looked at, and how many of the 256 values they have at least.
_SAMPLE_BYTES, _SAMPLE_VALUES = 4_096, 240
#: Zeros in each file of SQLite; encrypted, too, where a program leaves the first bytes of the header plain.
_ZEROS = slice(72, 92)
#: An encrypted file has whole pages, of at least so many bytes.
_LEAST_PAGE = 512

_lock = threading.Lock()
_reads = 0
_kept: list[int] = []


@contextmanager
def locks_kept() -> Iterator[None]:
    """While this lasts, no descriptor is closed that `read_bytes` opened, so that SQLite's locks hold."""
    global _reads  # noqa: PLW0603 - locks belong to the process, and so does this
    with _lock:
        _reads += 1
    try:
        yield
    finally:
        with _lock:
            _reads -= 1
            while not _reads and _kept:
                os.close(_kept.pop())


def open_kept(path: Path) -> int:
    """A descriptor for reading that stays open as long as anything of this process reads a source."""
    with _lock:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        _kept.append(descriptor)
    return descriptor


def read_bytes(path: Path, start: int, length: int) -> bytes:
    """Some bytes of a source's file, as they are on the disk."""
    with locks_kept():
        return os.pread(open_kept(path), length, start)


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
    _check_header(path, header_of(path), status.st_size)


def _check_header(path: Path, header: bytes, size: int) -> None:
    plain = path.with_name(f"{path.name}.plain")
    is_known = header.startswith(SQLITE_MAGIC)
    if (not is_known or any(header[_ZEROS])) and _is_encrypted(path, size):
        raise SourceError(
            f"{path} seems to be encrypted, as SQLCipher does it, and cannot be read without its key; write a plain "
            f"copy with: {_decrypt(path, plain)} and migrate that with --source {shlex.quote(str(plain))}"
        )
    if not is_known:
        raise SourceError(f"{path} is not an SQLite file; name the NIMA memory with --source")
    if len(header) < _HEADER_BYTES:
        raise SourceDamagedError(f"{path} is truncated: it ends after {len(header)} bytes; restore a backup")
    if (version := header[READ_VERSION]) > WAL_FORMAT:
        raise SourceError(
            f"{path} has format version {version}, which another program than SQLite wrote; SQLite "
            f"{sqlite3.sqlite_version} reads versions 1 and 2. With that program, write a copy of it (VACUUM INTO "
            f"'{_in_sql(plain)}') and migrate that with --source {shlex.quote(str(plain))}, or switch the file back "
            "with PRAGMA journal_mode = 'wal'"
        )
    page = page_size(header)
    # The page count in the header is valid only when both change counters agree (fileformat.html, 1.3.7).
    counted = header[24:28] == header[92:96]
    expected = int.from_bytes(header[28:32], "big") * page
    # What lacks pages may have them in its log: a checkpoint that was cut short wrote the header first.
    if counted and size < expected and not size_or_zero(beside(path, "-wal")):
        raise SourceDamagedError(
            f"{path} is truncated: {size:,} of {expected:,} bytes are there; restore a backup and run again, or, "
            f"without one, {rescue(path)}"
        )


def _is_encrypted(path: Path, size: int) -> bool:
    """Whether a file is whole pages of bytes without any order."""
    sample = read_bytes(path, 0, _SAMPLE_BYTES)
    return not size % _LEAST_PAGE and len(sample) == _SAMPLE_BYTES and len(set(sample)) >= _SAMPLE_VALUES


def _decrypt(path: Path, plain: Path) -> str:
    export = (
        f"PRAGMA key = 'PASSPHRASE'; ATTACH DATABASE '{_in_sql(plain)}' AS plain KEY ''; "
        "SELECT sqlcipher_export('plain');"
    )
    return shlex.join(["sqlcipher", str(path), export])


def _in_sql(path: Path) -> str:
    return str(path).replace("'", "''")


def rescue(path: Path) -> str:
    """What to do about a file of which this program can save nothing, in words that follow a comma.

    SQLite's shell works on a copy: it writes to the file that it opens, or to a log beside it. Debian and Ubuntu build
    theirs without what `.recover` needs (sqlite_dbpage): it stops with an error, having saved nothing.
    """
    copy, made = path.with_name(f"{path.name}.copy"), path.with_name(f"{path.name}.recovered")
    copied = [(path, copy)]
    if size_or_zero(beside(path, "-wal")):
        copied.append((beside(path, "-wal"), copy.with_name(f"{copy.name}-wal")))
    steps = [shlex.join(["cp", str(old), str(new)]) for old, new in copied]
    steps.append(f"{shlex.join(['sqlite3', str(copy), '.recover'])} | {shlex.join(['sqlite3', str(made)])}")
    found = shlex.quote(str(made))
    return (
        f"migrate with --source {found} what the sqlite3 of sqlite.org (those of Debian and Ubuntu cannot) recovers "
        f"with: {' && '.join(steps)}"
    )


def header_of(path: Path) -> bytes:
    """The first bytes of the file, as many as a header has at most."""
    try:
        return read_bytes(path, 0, _HEADER_BYTES)
    except PermissionError:
        raise NotAllowedError(f"{path} may not be read by this user; run as its owner") from None
    except OSError as error:
        raise SourceDamagedError(f"{path} cannot be read ({error.strerror})") from None


def page_size(header: bytes) -> int:
    """Bytes of a page (sqlite.org/fileformat.html, 1.3.2)."""
    size = int.from_bytes(header[16:18], "big")
    return 65_536 if size == 1 else size


def beside(path: Path, suffix: str) -> Path:
    """What SQLite calls a file that belongs to another one."""
    return path.resolve().with_name(path.resolve().name + suffix)


def size_or_zero(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
