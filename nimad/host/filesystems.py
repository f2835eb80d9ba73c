"""The type of file system that a path is on, and what that type cannot do.

The kind is the number that statfs(2) gives (linux/magic.h, and each file system's own source).
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

#: Bytes of `struct statfs` at least, on any machine; its first field is the kind.
_STATFS_BYTES = 256
_GIB = 1024**3


@dataclass(frozen=True)
class FileSystem:
    """One kind. What it cannot do is false, or a limit; 0 is no limit."""

    name: str = ""
    keeps_numbers: bool = True  # a file has the same inode number after the next mount
    has_links: bool = True
    largest_file: int = 0  # bytes


_KINDS = {
    0x4D44: FileSystem("vfat", keeps_numbers=False, has_links=False, largest_file=4 * _GIB - 1),
    0x2011BAB0: FileSystem("exFAT", keeps_numbers=False, has_links=False),
    0x65735546: FileSystem("FUSE", keeps_numbers=False),
    0x01021997: FileSystem("9p", keeps_numbers=False),
    0xFF534D42: FileSystem("CIFS", keeps_numbers=False),
    0xFE534D42: FileSystem("SMB", keeps_numbers=False),
    0x00C0FFEE: FileSystem("hostfs", keeps_numbers=False),
}
_ANY = FileSystem()


def of(path: Path) -> FileSystem:
    """The file system of a path that is there; of one that does everything where nobody knows."""
    answer = ctypes.create_string_buffer(_STATFS_BYTES)
    if ctypes.CDLL(None).statfs(os.fsencode(path), answer):
        return _ANY
    kind = ctypes.c_ulong.from_buffer(answer).value & 0xFFFFFFFF
    return _KINDS.get(kind, _ANY)


def number_of(path: Path) -> int | None:
    """The inode number of a file, which tells it from every other; None where the file system invents them."""
    return path.stat().st_ino if of(path).keeps_numbers else None
