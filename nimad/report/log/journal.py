"""The journal: entries with priority and fields, in the native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

import array
import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nimad.printable import one_line
from nimad.report.level import Level

SOCKET = Path("/run/systemd/journal/socket")
IDENTIFIER = "nimad"
STDOUT, STDERR = 1, 2
#: Each level as syslog(3) counts, which `journalctl -p` selects by.
PRIORITIES = {Level.DEBUG: 7, Level.INFO: 6, Level.WARN: 4, Level.ERROR: 3}

_NO_FIELDS: Mapping[str, str] = {}
#: How the kernel says that a datagram is too large for this socket.
_TOO_LARGE = (errno.EMSGSIZE, errno.ENOBUFS)
#: The journal reads a file passed to it only if nobody can change it any more.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
#: What ends a line for the journal when it reads a stream.
_ENDS_OF_LINE = re.compile("[\n\0]")


@dataclass(frozen=True)
class Journal:
    """The journal at the other end of `stream`. Nothing is kept open, so that it may be restarted at any time."""

    stream: int = STDOUT
    path: Path = SOCKET

    @classmethod
    def of_streams(cls, streams: Sequence[int] = (STDOUT, STDERR), path: Path = SOCKET) -> Self | None:
        """The journal, if the first of these descriptors that is connected to it exists."""
        connected = (stream for stream in streams if _goes_to_journal(stream))
        return next((cls(stream, path) for stream in connected), None)

    def send(self, level: Level, text: str, fields: Mapping[str, str] = _NO_FIELDS) -> None:
        """One entry, whatever the text; where the socket does not take it, lines with their priority on the stream."""
        entry = {
            "MESSAGE": text,
            "PRIORITY": str(PRIORITIES[level]),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            **{name: one_line(value) for name, value in fields.items()},
        }
        try:
            self._send(b"".join(_encoded(name, value) for name, value in entry.items()))
        except OSError:
            self._write(level, text)

    def send_last(self, level: Level, text: str) -> None:
        """Lines of a process that ends now: by the stream, of which it is known whose it is.

        For an entry of the socket the journal looks that up in /proc, where the sender may be gone by then, and then
        `journalctl -u` does not show it (one time in ten with systemd 252 and 257).
        """
        self._write(level, text)

    def _send(self, entry: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            try:
                channel.sendto(entry, str(self.path))
            except OSError as error:
                if error.errno not in _TOO_LARGE:
                    raise
                self._pass_on(channel, entry)

    def _pass_on(self, channel: socket.socket, entry: bytes) -> None:
        """An entry of any size, in a sealed file that has no name."""
        with os.fdopen(os.memfd_create(IDENTIFIER, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb") as file:
            file.write(entry)
            file.flush()
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))]
            channel.sendmsg([b""], rights, 0, str(self.path))

    def _write(self, level: Level, text: str) -> None:
        """Lines as sd-daemon(3) has them. A text that brings its own `<0>` does not change its priority."""
        lines = "".join(f"<{PRIORITIES[level]}>{line}\n" for line in _ENDS_OF_LINE.split(text))
        with suppress(OSError), open(self.stream, "wb", closefd=False) as stream:
            stream.write(_bytes(lines))


def _goes_to_journal(stream: int) -> bool:
    """Whether a descriptor is what the service manager connected; a variable that was inherited says nothing yet."""
    try:
        status = os.fstat(stream)
    except OSError:  # `>&-`
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _encoded(name: str, value: str) -> bytes:
    """A field with its length before it, so that no value can begin another field."""
    data = _bytes(value)
    return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"


def _bytes(text: str) -> bytes:
    return text.encode(errors="backslashreplace")  # halves of characters, as in the name of a file
