"""The resources of this machine: memory, disk, address space, processors and page size."""

import os
import resource
import shutil
from pathlib import Path

from nimad.host import cgroup
from nimad.host.bounded import STAT_BLOCK
from nimad.host.disk import READ_SUFFIXES

_LOCKS = Path("/proc/locks")
_MEMINFO = Path("/proc/meminfo")
#: Assumed where the system does not say, in bytes: a small Pi.
_UNKNOWN_MEMORY = 512 * 1024**2


def available_memory() -> int:
    """Bytes that may be used without pushing others out: what is free, within what the groups around us allow."""
    free = _meminfo("MemAvailable") or _UNKNOWN_MEMORY
    return min([free, *cgroup.room()])


def _meminfo(name: str) -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def page_bytes() -> int:
    """Bytes of a page of memory: 4,096 nearly everywhere, 16,384 on a Raspberry Pi 5."""
    return os.sysconf("SC_PAGE_SIZE")


def address_space() -> int | None:
    """Bytes of address space that a process may take; None without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def processors() -> int:
    return len(os.sched_getaffinity(0))


def free_disk(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def holder_of(path: Path) -> int | None:
    """The PID that holds a lock on a file, as the kernel lists it; None where it lists nobody."""
    status = path.stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in _LOCKS.read_text(encoding="ascii").splitlines() if _LOCKS.exists() else ():
        words = line.split()
        if "->" not in words and device in words and words[4].isdigit():  # «->» waits for a lock
            return int(words[4])
    return None


def space_taken(path: Path) -> int:
    """Bytes that an engine's file takes on the disk, with what the engine would still read beside it.

    Counted in blocks: a damaged index can leave a sparse file of hundreds of GiB apparent size.
    """
    taken = 0
    for piece in (path, *(path.with_name(path.name + suffix) for suffix in READ_SUFFIXES)):
        if piece.exists():
            taken += piece.stat().st_blocks * STAT_BLOCK
    return taken


def space_used(path: Path, free_bytes: int) -> int:
    """Bytes of an engine's file that hold something, when `free_bytes` of its pages do not, sparse or not."""
    return min(space_taken(path), max(0, path.stat().st_size - free_bytes)) if path.exists() else 0
