"""Files on the disk: what belongs together, and how it is made to last."""

import errno
import hashlib
import os
import stat
from enum import StrEnum
from pathlib import Path

#: How the system says that the disk, and not the program, is at fault.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
#: What the engine itself may leave beside a file of its own: what it would still read, and marks of its checkpoints.
#: After 40 kills in the middle of checkpoints, 9 left a `.wal.checkpoint`, 22 a `.shadow`, 30 the marks.
LOG_SUFFIXES = (".wal", ".wal.checkpoint")
READ_SUFFIXES = (*LOG_SUFFIXES, ".shadow")
ENGINE_SUFFIXES = (*READ_SUFFIXES, ".checkpoint.intent.lock", ".checkpoint.apply.lock")

#: What SQLite may leave beside a file of its own.
SQLITE_SUFFIXES = ("-journal", "-wal", "-shm")

#: How each kind of file begins. The engine's has its storage version next, in eight bytes, the lowest first.
SQLITE_MAGIC, ENGINE_MAGIC = b"SQLite format 3\x00", b"LBUG"
_HEADER_BYTES = 16


class FileKind(StrEnum):
    """What a file is, by how it begins."""

    SQLITE = "sqlite"
    LADYBUG = "ladybug"


def kind_of(path: Path) -> FileKind | None:
    """The kind of a file's content, None for any other; raises `OSError` where it cannot be read."""
    header = _header(path)
    if header.startswith(SQLITE_MAGIC):
        return FileKind.SQLITE
    return FileKind.LADYBUG if header.startswith(ENGINE_MAGIC) else None


def storage_version(path: Path) -> int | None:
    """The storage version of an engine's file; None for any other file."""
    header = _header(path)
    return int.from_bytes(header[4:12], "little") if header.startswith(ENGINE_MAGIC) else None


def _header(path: Path) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # nobody waits for a FIFO's writer
        return file.read(_HEADER_BYTES) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""


def pieces(path: Path) -> list[Path]:
    """An engine's file and what may stand beside it."""
    return [path, *(path.with_name(path.name + suffix) for suffix in ENGINE_SUFFIXES)]


def sqlite_pieces(path: Path) -> list[Path]:
    """An SQLite file and what may stand beside it."""
    return [path, *(path.with_name(path.name + suffix) for suffix in SQLITE_SUFFIXES)]


def discard(path: Path) -> None:
    """Throw away an engine's file and what stands beside it."""
    for piece in pieces(path):
        piece.unlink(missing_ok=True)


def export_folder(path: Path) -> Path:
    """Where the rows of a file that is being compacted lie in between.

    A plain name whatever the file's is: the engine writes it into a script of its own without quoting it.
    """
    digest = hashlib.blake2b(os.fsencode(path.name), digest_size=6).hexdigest()
    return path.with_name(f".nimad-{digest}.export")


def is_closed(path: Path) -> bool:
    """Whether the engine left nothing beside the file that it would still read."""
    read = [path.with_name(path.name + suffix) for suffix in READ_SUFFIXES]
    return not any(piece.exists() and piece.stat().st_size for piece in read)


def has_log(path: Path) -> bool:
    """Whether the engine would replay something into the file when it opens it for writing."""
    return any(log.stat().st_size for log in logs(path))


def logs(path: Path) -> list[Path]:
    """What stands beside an engine's file and would be replayed into it."""
    return [log for suffix in LOG_SUFFIXES if (log := path.with_name(path.name + suffix)).exists()]


def sync(path: Path) -> None:
    """Write a file, or a folder's entries, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
