"""Watching files by way of their folders: a file may be replaced, be missing, or come later with its folder."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver

#: Seconds between looks where the kernel cannot tell of changes.
POLL_S = 5.0
#: File systems on which inotify does not see what other machines, or the host, write.
_SILENT = ("nfs", "cifs", "smb", "fuse", "9p", "hostfs", "vboxsf", "prl_fs", "afs", "ceph")
#: What somebody does who only reads, as we do ourselves.
_READING = ("opened", "closed_no_write")
#: What takes a name away, or puts another file there.
_REPLACING = ("deleted", "moved", "created")
_MOUNTS = Path("/proc/self/mounts")


@dataclass(frozen=True)
class Wanted:
    """Files to be told of: of each change, or, for those that we write ourselves, only when one comes or goes."""

    changing: frozenset[str]
    coming: frozenset[str]

    def tells(self, event: "FileSystemEvent") -> bool:
        if event.event_type in _READING:
            return False
        names = {os.fsdecode(event.src_path), os.fsdecode(getattr(event, "dest_path", "") or "")}
        if names & self.changing:
            return True
        replaces = event.event_type in _REPLACING
        # A folder on the way to a file may come, go, or be replaced by another.
        on_the_way = any(path.startswith(f"{name}/") for name in names if name for path in self.changing | self.coming)
        return replaces and bool(names & self.coming or on_the_way)


class Watch:
    """Rings for as long as it is open, when one of the files changes. `rearm` after each ring: folders come and go."""

    def __init__(self, changing: Iterable[Path], coming: Iterable[Path], ring: Callable[[], None]) -> None:
        self._wanted = Wanted(_names(changing), _names(coming))
        self._ring = ring
        self._observer: BaseObserver | None = None
        self._folders: dict[str, int] = {}
        self.polls = False

    def __enter__(self) -> Self:
        self.rearm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def rearm(self) -> bool:
        """Watch the folders that are there now, or the nearest above one that is not; whether they are others."""
        nearest = set(map(_nearest, self._paths()))
        # Each with the one above it, from which a folder may be moved away.
        folders = {str(folder): folder.stat().st_ino for each in nearest for folder in (each, each.parent)}
        if folders == self._folders:
            return False
        self._close()
        self._folders = folders
        self.polls = any(map(_is_silent, folders))
        if not self.polls:
            try:
                self._observer = self._observe(polling=False)
            except OSError:  # no more watches, or instances, for this user: fs.inotify.max_user_watches
                self.polls = True
        if self.polls:
            self._observer = self._observe(polling=True)
        return True

    def _paths(self) -> Iterable[Path]:
        return map(Path, self._wanted.changing | self._wanted.coming)

    def _observe(self, *, polling: bool) -> "BaseObserver":
        observer = _observer(polling=polling)
        handler = _handler(self._heard)
        try:
            for folder in self._folders:
                observer.schedule(handler, folder, recursive=False)
            observer.start()
        except OSError:
            _end(observer)
            raise
        return observer

    def _heard(self, event: "FileSystemEvent") -> None:
        if self._wanted.tells(event):
            self._ring()

    def _close(self) -> None:
        if self._observer is not None:
            _end(self._observer)
        self._observer, self._folders = None, {}


def _observer(*, polling: bool) -> "BaseObserver":
    if polling:
        from watchdog.observers.polling import PollingObserver

        return PollingObserver(timeout=POLL_S)
    from watchdog.observers.inotify import InotifyObserver

    return InotifyObserver()


def _handler(heard: Callable[["FileSystemEvent"], None]) -> Any:
    from watchdog.events import FileSystemEventHandler

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: "FileSystemEvent") -> None:
            heard(event)

    return Handler()


def _end(observer: "BaseObserver") -> None:
    if observer.is_alive():
        observer.stop()
        observer.join()
    else:  # one that did not start has emitters that may have
        observer.unschedule_all()


def _names(paths: Iterable[Path]) -> frozenset[str]:
    """Each path as it was given, and what it leads to."""
    return frozenset(str(each) for path in paths for each in (path, path.resolve()))


def _nearest(path: Path) -> Path:
    """The folder of a file, or the nearest above it that is there."""
    return next(folder for folder in path.parents if folder.is_dir())


def _is_silent(folder: str) -> bool:
    """Whether the folder's file system leaves changes untold."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    mounts = (line.split()[1:3] for line in lines)
    around = [(place, kind) for place, kind in mounts if f"{folder}/".startswith(f"{place.rstrip('/')}/")]
    _, kind = max(around, key=lambda mount: len(mount[0]), default=("", ""))
    return kind.startswith(_SILENT)
