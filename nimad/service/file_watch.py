"""Watching files through their folders: a file may be replaced, be missing, or appear later."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nimad.host.disk import mount_number
from nimad.service import disks

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver

#: Seconds between looks where the kernel cannot tell of changes.
POLL_S = 5.0
#: File systems on which inotify does not see what other machines, or the host, write.
_SILENT = (
    *("nfs", "cifs", "smb", "fuse", "9p", "virtiofs", "hostfs", "vboxsf", "vmhgfs", "prl_fs", "drvfs", "davfs"),
    *("afs", "ceph", "lustre", "beegfs", "gfs2", "ocfs2", "autofs"),
)
#: How often folders are looked at until they stay the same.
_LOOKS = 5
#: What somebody does who only reads, as we do ourselves.
_READING = ("opened", "closed_no_write")
#: What takes a name away, or puts another file there.
_REPLACING = ("deleted", "moved", "created")
_OPEN = Path("/proc/self/fdinfo")


@dataclass(frozen=True)
class WatchedName:
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

    def __init__(self, changing: Iterable[Path], coming: Iterable[Path], wake: Callable[[], None]) -> None:
        self._changing, self._coming, self._ring = tuple(changing), tuple(coming), wake
        self._wanted = WatchedName(_names(self._changing), _names(self._coming))
        self._observer: BaseObserver | None = None
        self._folders: dict[str, tuple[int, int, int]] = {}
        self._armed = 0  # watches of the kernel's, with which all folders are watched; 0 where nobody knows
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
        for times in range(_LOOKS):  # what comes between a look and a watch is seen by the next look
            if not self._rearm():
                return times > 0
        return True

    def _rearm(self) -> bool:
        wanted = WatchedName(_names(self._changing), _names(self._coming))  # links lead elsewhere in time
        folders = _folders(map(Path, wanted.changing | wanted.coming))
        if (folders, wanted) == (self._folders, self._wanted) and self._is_whole():
            return False
        self._close()
        self._wanted = wanted
        self._folders = folders
        self.polls = any(map(_is_silent, folders))
        if not self.polls:
            try:
                self._observer = self._observe(polling=False)
            except OSError:  # no more watches, or instances, for this user: fs.inotify.max_user_watches
                self.polls = True
        if self.polls:
            with suppress(OSError):  # a folder went since: the next look finds none watched
                self._observer = self._observe(polling=True)
        # At least one for each folder, or one was lost meanwhile; more where each name of it has its own.
        found, least = _watches(), len({(device, inode) for _, device, inode in folders.values()})
        self._armed = max(found, least) if found else 0
        return True

    def _is_whole(self) -> bool:
        """Whether each folder is still watched: a watch goes with its folder, and the next one may have its number.

        It goes with its disk, too, of which watchdog does not tell; and the same disk may be back already.
        """
        if self._observer is None or (not self.polls and _watches() < self._armed):
            return False
        return all(emitter.is_alive() for emitter in self._observer.emitters)

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


def _folders(paths: Iterable[Path]) -> dict[str, tuple[int, int, int]]:
    """The nearest folder of each file that is there, and the one above it, from which it may be moved away."""
    found = {}
    for path in paths:
        for folder in path.parents:
            with suppress(OSError):  # gone between two looks, or closed to us
                if not folder.is_dir():
                    continue
                for each in (folder, folder.parent):
                    status = each.stat()
                    found[str(each)] = mount_number(each), status.st_dev, status.st_ino
                break
    return found


def _watches() -> int:
    """How many watches the kernel keeps for this process (proc_pid_fdinfo(5)); 0 where it does not say."""
    found, names = 0, list[str]()
    with suppress(OSError):  # before Linux 5.14, root's alone in a process that was root's
        names = os.listdir(_OPEN)  # noqa: PTH208 - names are all that is wanted
    for name in names:
        with suppress(OSError):  # closed between two looks
            found += (_OPEN / name).read_bytes().count(b"inotify wd:")
    return found


def _is_silent(folder: str) -> bool:
    """Whether the folder's file system leaves changes untold."""
    return disks.mount_of(Path(folder)).kind.startswith(_SILENT)
