"""Processes in /proc: who holds a lock, which workers exist, which services run."""

import os
import pwd
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Final

from nimad.config import Settings, load
from nimad.errors import NimadError
from nimad.host import bounded, machine

_PROC: Final = Path("/proc")
#: Fields of /proc/PID/stat behind the name, counted from 0 (proc(5)): the parent, and the start in ticks.
_PARENT, _STARTED = 1, 19
_PROGRAM: Final = "nimad"
#: Bytes of a lock file.
_PID_BYTES: Final = 32
#: Options of the service that say which memory it is about, and what it waits for.
_PATHS: Final = {"--source": "source", "--target": "target", "--config": "config"}
_WORDS: Final = {"--trigger": "trigger"}


@dataclass(frozen=True)
class Process:
    """One process. `started`: seconds since the epoch; `words`: its command line, empty for one of the kernel's."""

    pid: int
    words: Sequence[str]
    started: float

    @property
    def is_service(self) -> bool:
        return _behind_program(self.words)[:1] == ["run"]

    @property
    def is_worker(self) -> bool:
        return "nimad.worker" in self.words or any(word.endswith("nimad/worker/boot.py") for word in self.words)

    @property
    def shown(self) -> str:
        """Its command as people know it: `nimad run`, or the first words."""
        behind = _behind_program(self.words)
        if behind:
            return f"{_PROGRAM} {behind[0]}"
        return " ".join([Path(self.words[0]).name, *self.words[1:3]]) if self.words else "?"


def process(pid: int) -> Process | None:
    """The process of this number, if there is one that has not ended."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        words = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except (OSError, ValueError):
        return None
    if fields[:1] == ["Z"] or len(fields) <= _STARTED:
        return None
    return Process(pid, words, _boot_moment() + int(fields[_STARTED]) / os.sysconf("SC_CLK_TCK"))


def everybody() -> Iterator[Process]:
    for name in os.listdir(_PROC):  # noqa: PTH208 - names are all that is wanted
        if name.isdigit() and (found := process(int(name))) is not None:
            yield found


@cache
def _boot_moment() -> float:
    for line in (_PROC / "stat").read_text(encoding="ascii").splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def _behind_program(words: Sequence[str]) -> list[str]:
    """What follows the word that calls this program; empty where there is no such word."""
    for position, word in enumerate(words[:6]):  # an interpreter and its options come before it
        if Path(word).name == _PROGRAM:
            return list(words[position + 1 :])
    return []


# Locks


def holder_of_lock(lock: Path) -> Process | None:
    """The run that holds a lock file; None where nobody does, whatever is written in it.

    Nothing is locked for it, or a run that begins at that moment would be refused.
    """
    try:
        pid = machine.holder_of(lock) or _signed_holder(lock)
    except FileNotFoundError:
        return None
    return None if pid is None else process(pid) or Process(pid, (), 0.0)


def _signed_holder(lock: Path) -> int | None:
    """The PID that is written in a lock file, where it holds a lock on a file of this number.

    On some file systems (btrfs, overlays) the kernel lists another device than it tells of a file.
    """
    inode = f":{lock.stat().st_ino}"
    try:
        signed = bounded.read(lock, _PID_BYTES).decode("ascii").strip()
        listed = [line.split() for line in (_PROC / "locks").read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return None
    holds = any(words[4] == signed and words[5].endswith(inode) for words in listed if "->" not in words)
    return int(signed) if holds and signed.isdigit() else None


# Workers


def worker_of(supervisor: Process) -> Process | None:
    """The worker that is at work for it: of several, the one with the most memory, as others only wait."""
    workers = [each for each in everybody() if each.is_worker and _parent(each.pid) == supervisor.pid]
    return max(workers, key=lambda each: memory_of(each.pid), default=None)


def memory_of(pid: int) -> int:
    """Bytes of memory that a process has in use; 0 for one that ended."""
    try:
        return int((_PROC / str(pid) / "statm").read_text(encoding="ascii").split()[1]) * machine.page_bytes()
    except (OSError, ValueError, IndexError):
        return 0


def _parent(pid: int) -> int:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        return int(text.rpartition(")")[2].split()[_PARENT])
    except (OSError, ValueError, IndexError):
        return 0


# Services


def service_of(target: Path) -> tuple[Process, Settings] | None:
    """The service that is about this target, whether or not it does anything just now, and its settings.

    Only one of root's, of ours or of the target's owner: a process may call itself what it likes, and name any file.
    """
    wanted, believed = os.path.realpath(target), {0, os.geteuid(), _owner(target)}
    for each in everybody():
        settings = _settings_of(each) if each.is_service and _user(each.pid) in believed else None
        if settings is not None and os.path.realpath(settings.target) == wanted:
            return each, settings
    return None


def _owner(path: Path) -> int | None:
    """Whose a file is, or the folder that it is to be in."""
    for place in (path, path.parent):
        try:
            return place.stat().st_uid
        except OSError:
            continue
    return None


def _user(pid: int) -> int | None:
    """Who started a process: its folder in /proc is root's as soon as it wants that.

    The first line is a name that it gives itself, in which the kernel writes a line feed as two signs.
    """
    try:
        lines = (_PROC / str(pid) / "status").read_bytes().split(b"\n")
        return next(int(line.split()[1]) for line in lines if line.startswith(b"Uid:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _settings_of(service: Process) -> Settings | None:
    """What holds for a service: by its command line and its environment, or, where that is closed to us, its user."""
    given = _options(_behind_program(service.words)[1:])
    folder = _PROC / str(service.pid)
    try:
        here = Path(os.readlink(folder / "cwd"))  # noqa: PTH115 - a link of the kernel's, which need not lead anywhere
    except OSError:
        here = Path("/")
    paths = {name: Path(value) if value.startswith("~") else here / value for name, value in given.items()}
    words = {name: given[name] for name in _WORDS.values() if name in given}
    config = paths.pop("config", None)
    try:
        return load({**paths, **words}, _environment(folder), config)
    except (NimadError, OSError, KeyError):
        return None


def _options(words: Sequence[str]) -> dict[str, str]:
    found, known = {}, {**_PATHS, **_WORDS}
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        name, sign, value = word.partition("=")
        if name in known:
            found[known[name]] = value if sign else following
    return found


def _environment(folder: Path) -> Mapping[str, str]:
    try:
        pairs = (folder / "environ").read_bytes().decode(errors="surrogateescape").split("\0")
        found = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    except OSError:
        found = {}
    return found or {"HOME": pwd.getpwuid(folder.stat().st_uid).pw_dir}


def command_of(process: Process) -> str:
    """A process for a sentence: `nimad run, PID 17`."""
    return f"{process.shown}, PID {process.pid}"
