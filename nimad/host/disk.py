"""Files on disk: which belong together, and how they are made durable."""

import ctypes
import errno
import hashlib
import os
import stat
import time
from enum import StrEnum
from pathlib import Path
from struct import unpack_from
from typing import Final

from nimad.host.bounded import COMPRESSED, STAT_BLOCK

#: How the system says that the disk, and not the program, is at fault.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
#: What the engine itself may leave beside a file of its own: what it would still read, and marks of its checkpoints.
#: After 40 kills in the middle of checkpoints, 9 left a `.wal.checkpoint`, 22 a `.shadow`, 30 the marks.
LOG_SUFFIXES = (".wal", ".wal.checkpoint")
READ_SUFFIXES = (*LOG_SUFFIXES, ".shadow")
ENGINE_SUFFIXES = (*READ_SUFFIXES, ".checkpoint.intent.lock", ".checkpoint.apply.lock")

#: The date and time in names of backups and of files that were set aside; local time, as in the log.
NAME_STAMP = "%Y%m%d-%H%M%S"

#: What SQLite may leave beside a file of its own.
SQLITE_SUFFIXES = ("-journal", "-wal", "-shm")

#: How each kind of file begins. The engine's has its storage version next, in eight bytes, the lowest first.
SQLITE_MAGIC, ENGINE_MAGIC = b"SQLite format 3\x00", b"LBUG"
_HEADER_BYTES = 16


#: Bytes that holes cost nobody anything in.
_SOLID_BYTES: Final = 1 << 30

#: Of statx(2) (linux/stat.h): the folder of the process, the bytes of an answer, the bits that say that a birth time
#: and the number of the mount are in it, and where these are.
_AT_FDCWD, _STATX_BYTES, _STATX_BTIME, _STATX_MNT_ID = -100, 256, 0x800, 0x1000
_BTIME_AT, _MNT_ID_AT = 80, 144
_NS = 10**9


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


def is_hollow(path: Path) -> bool:
    """Whether nearly all of a file is holes, which no program leaves and which take hours to read through."""
    status = path.stat()
    return status.st_size > max(_SOLID_BYTES, status.st_blocks * STAT_BLOCK * COMPRESSED)


def is_closed(path: Path) -> bool:
    """Whether the engine left nothing beside the file that it would still read."""
    read = [path.with_name(path.name + suffix) for suffix in READ_SUFFIXES]
    return not any(piece.exists() and piece.stat().st_size for piece in read)


def is_interrupted(path: Path) -> bool:
    """Whether a program was killed in the middle of a checkpoint of an engine's file."""
    return path.with_name(path.name + LOG_SUFFIXES[1]).exists()


def has_log(path: Path) -> bool:
    """Whether the engine would replay something into the file when it opens it for writing."""
    return any(log.stat().st_size for log in logs(path))


def logs(path: Path) -> list[Path]:
    """What stands beside an engine's file and would be replayed into it."""
    return [log for suffix in LOG_SUFFIXES if (log := path.with_name(path.name + suffix)).exists()]


def destination(link: Path) -> Path | None:
    """What a symbolic link names, followed no further, in the real folder of that name; None for what is no link."""
    try:
        said = Path(os.readlink(link))  # noqa: PTH115 - which raises for what is no link
        place = Path(os.path.realpath(link.parent)) / said
        return Path(os.path.realpath(place.parent)) / place.name if place.name not in ("", "..") else None
    except (OSError, ValueError):
        return None


def leads_to(link: Path, file: Path) -> bool:
    """Whether a symbolic link names `file`, which need not be there."""
    return destination(link) == Path(os.path.realpath(file.parent)) / file.name


def relative(path: Path, folder: Path) -> str:
    """A path as seen from a folder, whatever links lead to either of them."""
    way = os.path.relpath(os.path.realpath(path.parent), os.path.realpath(folder))
    return str(Path(way, path.name))


def born_ns(path: Path) -> int | None:
    """When a file came to be, in nanoseconds since the epoch; None where the file system does not know.

    With the inode it tells a file from a later one: ext4 gives the inode of one that was removed to the next that is
    made. Python has it from 3.15 on.
    """
    answer = _statx(path, _STATX_BTIME)
    if answer is None:
        return None
    seconds, nanoseconds = unpack_from("=qI", answer, _BTIME_AT)
    return int(seconds) * _NS + int(nanoseconds)


def mount_number(path: Path) -> int:
    """The number of the mount that a path is on, which the next one does not get at once; 0 where nobody knows."""
    answer = _statx(path, _STATX_MNT_ID)
    return 0 if answer is None else int(unpack_from("=Q", answer, _MNT_ID_AT)[0])


def _statx(path: Path, wanted: int) -> bytes | None:
    """What statx(2) says of a file; None where it does not say what is wanted."""
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    try:
        failed = ctypes.CDLL(None).statx(_AT_FDCWD, os.fsencode(path), 0, wanted, answer)
    except AttributeError:  # a C library that lacks it
        return None
    return None if failed or not unpack_from("=I", answer)[0] & wanted else answer.raw


def sync(path: Path) -> None:
    """Write a file, or a folder's entries, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def name_stamp(moment: float | None = None) -> str:
    """The stamp of a moment, in seconds since the epoch, for a file's name; of now where none is given."""
    return time.strftime(NAME_STAMP, time.localtime(moment))
