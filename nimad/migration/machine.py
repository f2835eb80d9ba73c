"""The machine: how much memory, disk and processors there are for us."""

import os
import shutil
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
#: Assumed where the system does not say, in bytes: a small Pi.
_UNKNOWN_MEMORY = 512 * 1024**2


def available_memory() -> int:
    """Bytes that may be used without pushing others out: what is free, within what our cgroup allows."""
    free = _meminfo("MemAvailable") or _UNKNOWN_MEMORY
    return min([free, *_cgroup_room()])


def _meminfo(name: str) -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_room() -> list[int]:
    """Bytes left in each enclosing memory cgroup (v2) that has a limit."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    room = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folder = _CGROUP_ROOT / path.lstrip("/")
            for place in (folder, *folder.parents):
                limit, used = _number(place / "memory.max"), _number(place / "memory.current")
                if limit is not None:
                    room.append(max(0, limit - (used or 0)))
                if place == _CGROUP_ROOT:
                    break
    return room


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def processors() -> int:
    return len(os.sched_getaffinity(0))


def free_disk(folder: Path) -> int:
    return shutil.disk_usage(folder).free
