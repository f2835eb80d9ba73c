"""Memory cgroups, version 1 and 2: the limits above this process, and the kernel's OOM kills.

Files and their meaning: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of the kernel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
#: A version 1 group without a limit shows the highest multiple of a page below 2^63.
_UNLIMITED = 1 << 60


@dataclass(frozen=True)
class _Files:
    """What a version of cgroups calls its files, and the words in them."""

    limits: tuple[str, ...]
    usage: str
    cached: tuple[str, ...]
    events: str


_FILES = {
    1: _Files(
        ("memory.limit_in_bytes",),
        "memory.usage_in_bytes",
        ("total_active_file", "total_inactive_file"),
        "memory.oom_control",
    ),
    2: _Files(("memory.max", "memory.high"), "memory.current", ("active_file", "inactive_file"), "memory.events"),
}


@dataclass(frozen=True)
class Group:
    """One memory cgroup: its folder, and the version that says how its files are called."""

    folder: Path
    version: int

    def limit(self) -> int | None:
        """Bytes that the processes in it may use together; None without a limit."""
        limits = (_number(self.folder / name) for name in self._files.limits)
        return min((limit for limit in limits if limit is not None and limit < _UNLIMITED), default=None)

    def used(self) -> int:
        """Bytes in use, without the cached files that the kernel gives back when somebody needs room."""
        cache = sum(_entry(self.folder / "memory.stat", name) or 0 for name in self._files.cached)
        return max(0, (_number(self.folder / self._files.usage) or 0) - cache)

    def oom_kills(self) -> int:
        """How many processes the kernel ended because this group was at its limit."""
        return _entry(self.folder / self._files.events, "oom_kill") or 0

    @property
    def _files(self) -> _Files:
        return _FILES[self.version]


def groups(proc: Path = _PROC) -> list[Group]:
    """The memory cgroups that this process is in, the innermost first, each with all that enclose it."""
    found = []
    for mount, root, version in _mounts(proc):
        inside = _own_path(proc, version)
        if inside is None:
            continue
        # In a container the mount shows a part of the tree only, which the path may begin above.
        folder = mount / inside.removeprefix(root.rstrip("/")).lstrip("/")
        enclosing = [folder, *(place for place in folder.parents if place == mount or mount in place.parents)]
        found += [Group(place, version) for place in enclosing if place.is_dir()]
    return found


def room(proc: Path = _PROC) -> list[int]:
    """Bytes left in each group around us that has a limit."""
    limits = ((group, group.limit()) for group in groups(proc))
    return [max(0, limit - group.used()) for group, limit in limits if limit is not None]


def oom_kills(proc: Path = _PROC) -> int:
    """A number that grows when the kernel ends a process in a group around us, or anywhere for want of memory."""
    return sum(group.oom_kills() for group in groups(proc)) + (_entry(proc / "vmstat", "oom_kill") or 0)


def _mounts(proc: Path) -> Iterator[tuple[Path, str, int]]:
    """Mount point, the part of the tree that it shows, and the version, of each hierarchy that counts memory."""
    for line in _lines(proc / "self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if kind[:1] == ["cgroup2"]:
            yield Path(fields[4]), fields[3], 2
        elif kind[:1] == ["cgroup"] and "memory" in kind[-1].split(","):
            yield Path(fields[4]), fields[3], 1


def _own_path(proc: Path, version: int) -> str | None:
    for line in _lines(proc / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers.split(",") == [""] if version == 2 else "memory" in controllers.split(","):  # noqa: PLR2004
            return path
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _entry(path: Path, name: str) -> int | None:
    """The number behind a word in a file of such lines."""
    for line in _lines(path):
        word, _, number = line.partition(" ")
        if word == name and number.strip().isdigit():
            return int(number)
    return None
