"""A journal for tests: a real socket, and a reader of its protocol that shares nothing with nimad's writer."""

import array
import fcntl
import os
import re
import socket
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from nimad.report.log.journal import Journal

Entry = dict[str, str]
_LARGEST = 1 << 20
_END = b"that was all"
#: What systemd-journald asks of a file before it maps it.
_SEALED = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Journald:
    """Listens at `path` and keeps every entry."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: list[Entry] = []
        self._passed = 0
        self._seen = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._send_end(b"!")
            self._thread.join()
        self._socket.close()
        self.path.unlink()

    @property
    def entries(self) -> list[Entry]:
        """All that was sent until now."""
        self._seen.clear()
        self._send_end(b"?")
        assert self._seen.wait(10), "a datagram that is no entry ended the reader"
        return self._entries

    @property
    def messages(self) -> list[str]:
        return [entry["MESSAGE"] for entry in self.entries]

    @property
    def passed(self) -> int:
        """How many entries came as files."""
        assert self.entries is not None
        return self._passed

    def journal(self, stream: int = 1) -> Journal:
        return Journal(stream, self.path)

    def _send_end(self, sign: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(_END + sign, str(self.path))

    def _listen(self) -> None:
        while True:
            data, extra, _, _ = self._socket.recvmsg(_LARGEST, socket.CMSG_SPACE(16))
            if data == _END + b"!":
                return
            if data == _END + b"?":
                self._seen.set()
                continue
            if extra:
                assert data == b""
                data = self._passed_file(extra[0][2])
            self._entries.append(parse(data))

    def _passed_file(self, rights: bytes) -> bytes:
        (descriptor,) = array.array("i", rights)
        self._passed += 1
        with os.fdopen(descriptor, "rb") as file:
            assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALED == _SEALED
            os.lseek(descriptor, 0, os.SEEK_SET)
            return file.read()


def parse(data: bytes) -> Entry:
    """An entry of systemd.io/JOURNAL_NATIVE_PROTOCOL; fails where journald would drop it, or a field is there twice."""
    entry: Entry = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            data = rest
        else:
            (size,) = struct.unpack("<Q", rest[:8])
            value, end, data = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
            assert (len(value), end) == (size, b"\n")
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]{0,63}", name), name
        assert name.decode() not in entry
        entry[name.decode()] = value.decode()
    return entry
