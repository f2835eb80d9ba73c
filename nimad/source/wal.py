"""The write-ahead log of SQLite: whether it holds committed data (sqlite.org/fileformat.html, 4)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
#: The last bit of the magic number says in which byte order the checksums are made.
_MAGIC = 0x377F0682
_WORD = 0xFFFFFFFF
#: Where the first page counts changes of the file (sqlite.org/fileformat.html, 1.3.8).
_COUNTER = slice(24, 28)
#: Bytes of a page, from and to.
_PAGES = (512, 65_536)


def holds_commit(log: Path) -> bool:
    """Whether SQLite would read something from a log: a frame that ends a transaction, with all before it valid."""
    return any(size for _, size, _ in _frames(log))


def page_in(log: Path, number: int) -> bytes | None:
    """A page as the last transaction in a log has it; None where no transaction has it."""
    found = waiting = None
    for page, size, content in _frames(log):
        if page == number:
            waiting = content
        if size:
            found = waiting
    return found


def pages_in(log: Path) -> set[int]:
    """The numbers of the pages that a log has."""
    return {number for number, _, _ in _frames(log)}


@dataclass(frozen=True)
class Told:
    """What a log says of its file. `counters`: of changes, in each first page that it has; `sizes`: in pages."""

    counters: tuple[int, ...]
    sizes: tuple[int, ...]


def told_by(log: Path) -> Told:
    """What the transactions in a log say of the file that they were made in."""
    counters: list[int] = []
    waiting: list[int] = []
    sizes: list[int] = []
    for page, size, content in _frames(log):
        if page == 1:
            waiting.append(int.from_bytes(content[_COUNTER], "big"))
        if size:
            counters += waiting
            waiting = []
            sizes.append(size)
    return Told(tuple(counters), tuple(sizes))


def _frames(log: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number and content of the pages in a log, and where a transaction ends with one the file's size in pages."""
    try:
        file = log.open("rb")
    except FileNotFoundError:  # the last program to close the file takes its log away
        return
    with file:
        header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES:
            return
        magic, _, page, _ = struct.unpack(">4I", header[:16])
        order = ">" if magic & 1 else "<"
        sums = _checksum(header[:24], order, (0, 0))
        is_sound = magic & ~1 == _MAGIC and sums == struct.unpack(">2I", header[24:32])
        if not is_sound or not _PAGES[0] <= page <= _PAGES[1]:
            return
        while len(frame := file.read(_FRAME_HEADER_BYTES + page)) == _FRAME_HEADER_BYTES + page:
            sums = _checksum(frame[:8], order, sums)
            sums = _checksum(frame[_FRAME_HEADER_BYTES:], order, sums)
            if frame[8:16] != header[16:24] or sums != struct.unpack(">2I", frame[16:24]):
                return
            number, size = struct.unpack(">2I", frame[:8])  # a commit's frame has the size of the file after it
            yield number, size, frame[_FRAME_HEADER_BYTES:]


def _checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    one, two = sums
    for first, second in struct.iter_unpack(f"{order}2I", data):
        one = (one + first + two) & _WORD
        two = (two + second + one) & _WORD
    return one, two
