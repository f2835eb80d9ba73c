"""Reading files of others within limits: regular files of a known owner, up to a given size.

Nothing waits: not for the writer of a pipe, and not for a device.
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from nimad.host.folders import ROOT

#: Bytes of a settings file, and of a state file or a record of runs.
CONFIG_BYTES: Final = 1 << 20
STATE_BYTES: Final = 4 << 20
#: Bytes of a line of a large file, and of one piece of it.
LINE_BYTES: Final = 256 << 20
_PIECE_BYTES: Final = 1 << 20
#: Bytes of a block of `st_blocks`, whatever blocks the file system has (stat(2)).
STAT_BLOCK: Final = 512
#: Bytes of a file that a byte on the disk stands for at most, where the file system compresses what repeats itself.
COMPRESSED: Final = 64


def opened(path: Path, *, links: bool = False) -> IO[bytes]:
    """A plain file of ours, of root's or of its folder's owner, for reading. Raises `OSError` for anything else."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        _check(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _check(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a plain file", str(path))
    if status.st_size > max(STATE_BYTES, status.st_blocks * STAT_BLOCK * COMPRESSED):
        raise OSError(errno.EFBIG, "nearly all of it is holes", str(path))
    if status.st_uid not in (os.geteuid(), ROOT, path.parent.stat().st_uid):
        raise PermissionError(errno.EPERM, "it belongs to another user", str(path))


def read(path: Path, most: int, *, links: bool = False) -> bytes:
    """What a small file holds. Raises `OSError`, with EFBIG for one of more than `most` bytes."""
    with opened(path, links=links) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
    return content


def pieces(path: Path) -> Iterator[bytes]:
    """A large file in pieces, none of which goes beyond the end of a line."""
    with opened(path) as file:
        while piece := file.readline(_PIECE_BYTES):
            yield piece


def lines(path: Path) -> Iterator[bytes]:
    """Every whole line of a large file; one that is too long to be one of ours is passed over."""
    line = bytearray()
    is_whole = True
    for piece in pieces(path):
        is_whole = is_whole and len(line) + len(piece) <= LINE_BYTES
        if is_whole:
            line += piece
        else:
            line = bytearray()
        if piece.endswith(b"\n"):
            if is_whole:
                yield bytes(line)
            line, is_whole = bytearray(), True
