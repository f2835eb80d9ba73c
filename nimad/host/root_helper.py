"""The root helper: opens log and metrics in root's folders for a process that gave up root's rights.

It is started before that. It holds each folder by a descriptor, knows the names it was given then and no others,
touches nothing of the user's, and ends with the process that started it.
"""

import errno
import json
import os
import signal
import socket
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nimad.host import folders

#: Bytes of a request, and of a file that is replaced.
_REQUEST_BYTES: Final = 4_096
_LARGEST_FILE: Final = 1 << 20
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class _Place:
    """A file by its name in an open folder."""

    folder: int
    name: str


@dataclass(frozen=True)
class _Connection:
    channel: socket.socket
    numbers: Mapping[Path, int]


_connections: list[_Connection] = []


def start(paths: Sequence[Path], owner: tuple[int, int]) -> None:
    """Start the helper for these files; `owner`: uid and gid of whom a new log is to belong to."""
    if not paths:
        return
    places = []
    for path in paths:
        with folders.opened(path.parent) as folder:
            places.append(_Place(os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder.descriptor), path.name))
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ours.close()
        _live(its, places, owner)
    its.close()
    for place in places:
        os.close(place.folder)
    _connections.append(_Connection(ours, {path: number for number, path in enumerate(paths)}))


def holds(path: Path) -> bool:
    """Whether a file is one that the helper opens."""
    return any(path in connection.numbers for connection in _connections)


def open_for_appending(path: Path) -> int:
    """A descriptor of the file, which is made where it is not there. Raises `OSError`."""
    _, descriptors = _ask(path, {"task": "append"}, [])
    return descriptors[0]


def replace(path: Path, content: bytes, mode: int) -> None:
    """Put the file in place whole. Raises `OSError`."""
    with os.fdopen(os.memfd_create("nimad", os.MFD_CLOEXEC), "wb") as file:
        file.write(content)
        file.flush()
        _ask(path, {"task": "replace", "mode": mode}, [file.fileno()])


def _ask(path: Path, request: Mapping[str, Any], descriptors: Sequence[int]) -> tuple[int, list[int]]:
    connection = next(each for each in _connections if path in each.numbers)
    line = json.dumps({**request, "number": connection.numbers[path]}).encode()
    try:
        socket.send_fds(connection.channel, [line], descriptors)
        answer, received, _, _ = socket.recv_fds(connection.channel, _REQUEST_BYTES, 1)
    except OSError as error:
        raise OSError(error.errno, "root's helper has ended", str(path)) from None
    number = int(answer or errno.EPIPE)
    if number:
        raise OSError(number, os.strerror(number), str(path))
    for descriptor in received:
        os.set_inheritable(descriptor, False)
    return number, received


# In the helper


def _live(channel: socket.socket, places: Sequence[_Place], owner: tuple[int, int]) -> None:
    """Answer until the other end is closed; never returns."""
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):  # whoever reads them does not wait for us
            os.dup2(nothing, stream)
        while _answer(channel, places, owner):
            pass
    finally:
        os._exit(0)


def _answer(channel: socket.socket, places: Sequence[_Place], owner: tuple[int, int]) -> bool:
    line, received, _, _ = socket.recv_fds(channel, _REQUEST_BYTES, 1)
    if not line:
        return False
    opened: list[int] = []
    code = 0
    try:
        request = json.loads(line)
        place = places[int(request["number"])]
        if request["task"] == "append":
            opened.append(_append(place, owner))
        else:
            _replace(place, received[0], int(request["mode"]))
    except OSError as error:
        code = error.errno or errno.EIO
    except (ValueError, KeyError, TypeError, IndexError):
        code = errno.EINVAL
    socket.send_fds(channel, [str(code).encode()], opened)
    for descriptor in (*received, *opened):
        os.close(descriptor)
    return True


def _append(place: _Place, owner: tuple[int, int]) -> int:
    try:
        descriptor = os.open(place.name, _APPEND | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=place.folder)
        os.fchown(descriptor, *owner)
    except FileExistsError:
        descriptor = os.open(place.name, _APPEND, dir_fd=place.folder)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid not in (owner[0], folders.ROOT):
        os.close(descriptor)
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    return descriptor


def _replace(place: _Place, content: int, mode: int) -> None:
    size = os.fstat(content).st_size
    if not stat.S_ISREG(os.fstat(content).st_mode) or size > _LARGEST_FILE:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    part = f"{place.name}.tmp"
    with suppress(FileNotFoundError):
        os.unlink(part, dir_fd=place.folder)
    descriptor = os.open(part, _NEW, 0o600, dir_fd=place.folder)
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.pread(content, size, 0))
        os.fchmod(descriptor, mode & 0o644)
        file.flush()
        os.fsync(descriptor)
    os.rename(part, place.name, src_dir_fd=place.folder, dst_dir_fd=place.folder)
    os.fsync(place.folder)
