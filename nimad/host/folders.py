"""Folders that root can trust: opened component by component, and judged by their descriptors."""

import errno
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nimad.errors import NotAllowedError

ROOT: Final = 0
_OPENED: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
#: As many links as the kernel follows in one path.
_MOST_LINKS: Final = 40


@dataclass(frozen=True)
class Folder:
    """An open folder. `way`: the first component before it that others than root can change, None without one."""

    path: Path
    descriptor: int
    way: Path | None

    @property
    def owner(self) -> int:
        return os.fstat(self.descriptor).st_uid

    @property
    def weak(self) -> Path | None:
        """The first component, this folder included, that others than root can change."""
        return self.way or (None if _is_roots(os.fstat(self.descriptor)) else self.path)


@contextmanager
def opened(path: Path) -> Iterator[Folder]:
    """Open a folder without following a link, but those that root alone can have made.

    Raises `OSError` where it is not there, and `NotAllowedError` at a link of another user.
    """
    descriptor, way = _walk(path)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        yield Folder(path, descriptor, way)
    finally:
        os.close(descriptor)


def _walk(path: Path) -> tuple[int, Path | None]:
    names, walked, links = list(reversed(path.absolute().parts[1:])), Path("/"), 0
    descriptor, weak = os.open("/", _OPENED), None
    try:
        while names:
            name = names.pop()
            if not _is_roots(os.fstat(descriptor), sticky=True):
                weak = weak or walked
            following = os.open(name, _OPENED, dir_fd=descriptor)
            status = os.fstat(following)
            if stat.S_ISLNK(status.st_mode):
                links += 1
                leads = _target(following, walked / name, links, trusted=weak is None and status.st_uid == ROOT)
                names += [part for part in reversed(leads.parts) if part != "/"]
                if leads.is_absolute():
                    os.close(descriptor)
                    descriptor, walked = os.open("/", _OPENED), Path("/")
                continue
            os.close(descriptor)
            descriptor, walked = following, walked / name
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, weak


def _target(link: int, path: Path, links: int, *, trusted: bool) -> Path:
    """Where a link leads, which is closed; raises where another user may have made it."""
    try:
        if not trusted:
            raise NotAllowedError(
                f"{path} is a symbolic link that root does not follow; name what it leads to, or run it with "
                "--user NAME"
            )
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        return Path(os.readlink("", dir_fd=link))
    finally:
        os.close(link)


def _is_roots(status: os.stat_result, *, sticky: bool = False) -> bool:
    """Whether root alone can change a file, or what a folder has; `sticky`: what root itself put in there."""
    closed = not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return status.st_uid == ROOT and (closed or (sticky and bool(status.st_mode & stat.S_ISVTX)))


def owner_of(place: Path) -> int:
    """The uid that owns a file and its folder; of a file that is to be made, the one of the nearest folder.

    Raises `NotAllowedError` where file and folder have different owners, where a user's link is on the way, and for
    root's own file where others than root can change any component of the path.
    """
    links = 0
    while True:
        try:
            with opened(place.parent) as folder:
                leads = _link_to(place.name, folder, links)
                if leads is None:
                    return _owner_in(folder, place)
                place, links = leads, links + 1
        except (FileNotFoundError, NotADirectoryError):
            return _nearest(place.parent)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # nothing is there
                return _nearest(place.parent)
            raise NotAllowedError(f"{place} cannot be opened by root ({error.strerror}); run it as its owner") from None


def _link_to(name: str, folder: Folder, links: int) -> Path | None:
    """Where a file leads that is a link of root's; None for one that is no link, or is not there."""
    try:
        file = os.open(name, _OPENED, dir_fd=folder.descriptor)
    except FileNotFoundError:
        return None
    status = os.fstat(file)
    if not stat.S_ISLNK(status.st_mode):
        os.close(file)
        return None
    trusted = folder.weak is None and status.st_uid == ROOT
    return folder.path / _target(file, folder.path / name, links, trusted=trusted)


def _owner_in(folder: Folder, place: Path) -> int:
    owner = folder.owner
    try:
        holder = os.stat(place.name, dir_fd=folder.descriptor, follow_symlinks=False).st_uid
    except FileNotFoundError:
        holder = owner
    if holder != owner:
        raise NotAllowedError(
            f"{place} belongs to {name_of(holder)}, and its folder to {name_of(owner)}; give both to one of them with "
            f"chown, or run it with --user {name_of(holder or owner)}"
        )
    if owner == ROOT and folder.weak is not None:
        raise _not_roots_alone(folder.path, folder.weak)
    return owner


def _nearest(folder: Path) -> int:
    """The owner of the nearest folder that is there. Nothing is in it that could be read."""
    for each in (folder, *folder.parents):
        try:
            with opened(each) as there:
                return there.owner
        except OSError:
            continue
    return ROOT


def check_roots_alone(folder: Path, *, shared: bool = False) -> None:
    """Raise `NotAllowedError` unless root alone can change this folder and each one on its way.

    `shared`: a group may write in the folder itself, as in Ubuntu's /var/log.
    """
    with opened(folder) as there:
        mode = os.fstat(there.descriptor).st_mode
        weak = there.way if shared and there.owner == ROOT and not mode & stat.S_IWOTH else there.weak
        if weak is not None:
            raise _not_roots_alone(folder, weak)


def is_roots_alone(program: Path) -> bool:
    """Whether root alone can have written a file, and can put another in its place."""
    try:
        with opened(program.parent) as folder:
            status = os.stat(program.name, dir_fd=folder.descriptor, follow_symlinks=False)
            mine = stat.S_ISLNK(status.st_mode) or _is_roots(status)
            return folder.weak is None and status.st_uid == ROOT and mine
    except (OSError, NotAllowedError):
        return False


def is_roots(folder: Path) -> bool:
    """Whether a folder, or the nearest above it that is there, is root's."""
    return _nearest(folder) == ROOT


def is_ones_own(program: Path) -> bool:
    """Whether this user and root alone can have written a program, or can put another in its place."""
    try:
        found = [os.stat(path) for path in (program.parent, program.resolve(), program.resolve().parent)]  # noqa: PTH116
        closed = not any(status.st_mode & stat.S_IWOTH for status in found)
        return closed and all(status.st_uid in (ROOT, os.geteuid()) for status in (program.lstat(), *found))
    except OSError:
        return False


def _not_roots_alone(folder: Path, weak: Path) -> NotAllowedError:
    cure = f"close it with: {shlex.join(['chmod', 'go-w', str(weak)])}"
    if _is_sticky(weak):  # such as /tmp, which everybody is to write in
        cure = "put it in a folder of its own"
    return NotAllowedError(
        f"others than root can write in {weak}, so root does not work in {folder}; {cure}, or run it with --user NAME"
    )


def _is_sticky(folder: Path) -> bool:
    """Whether a folder is made for many, each of whom removes only what is theirs."""
    try:
        return bool(folder.stat().st_mode & stat.S_ISVTX)
    except OSError:
        return False


def name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
