"""Blank pages of a damaged file: all zeros or all ones, as disks leave what was never written or is erased.

They tell how much of a file is gone where no row is left to be counted.
"""

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from nimad.errors import SourceError, StoppedError
from nimad.source.damaged_pages import first_row
from nimad.source.header import beside, header_of, locks_kept, open_kept, page_size
from nimad.source.ranges import LAST_KEY
from nimad.source.schema import NODES
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import TableSurvey
from nimad.source.wal import pages_in

#: Bytes that are read at a time.
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Blank:
    """Blank pages of a file, and how many it has; `nodes`: about how many memories were lost with them."""

    blank: int = 0
    pages: int = 0
    nodes: int = 0


def count_blank(source: SourceFile, nodes: TableSurvey, lost: Sequence[tuple[int, int]]) -> Blank:
    """Count blank pages, and reckon how many memories they held. `nodes`: what reads; `lost`: ids that do not.

    No more than blank pages have room for, and no more than the ids that cannot be read, as densely as the others
    stand; where it is not known up to which id that is, as many for each page as the others have.
    """
    blank, pages, size = _count(source)
    if not lost or not nodes.rows or blank >= pages:
        return Blank(blank, pages)
    room = blank * size * nodes.rows // max(1, nodes.bytes)
    highest = _highest(source, nodes, lost)
    if highest is None:
        return Blank(blank, pages, min(room, nodes.rows * blank // (pages - blank)))
    ends = ((max(first, 1), min(last, highest)) for first, last in lost)
    ids = sum(max(0, last - first + 1) for first, last in ends)
    return Blank(blank, pages, min(room, ids * nodes.rows // max(nodes.rows, highest - ids)))


def _count(source: SourceFile) -> tuple[int, int, int]:
    """Blank pages that are in use, all pages, and the bytes of one (sqlite.org/fileformat.html, 1.3)."""
    header = header_of(source.path)
    size = page_size(header)
    there, unused = (int.from_bytes(header[at : at + 4], "big") for at in (28, 36))
    logged = pages_in(beside(source.path, "-wal"))
    nothing = {bytes(size), b"\xff" * size}
    blank = 0
    with locks_kept():
        file = open_kept(source.path)
        pages = os.fstat(file).st_size // size
        pages = min(there, pages) or pages
        each = max(1, _PIECE_BYTES // size)
        for start in range(0, pages, each):
            if source.stop.is_set():  # which is asked as a sign of life, too
                raise StoppedError("stopped")
            try:
                piece = os.pread(file, size * min(each, pages - start), start * size)
            except OSError:  # sectors that cannot be read, of which SQLite misses the rows, too
                continue
            for at in range(0, len(piece), size):
                number = start + at // size + 1
                blank += piece[at : at + size] in nothing and number not in logged
    return max(0, blank - unused), pages, size  # a page that is not in use may be blank


def _highest(source: SourceFile, nodes: TableSurvey, lost: Sequence[tuple[int, int]]) -> int | None:
    """The highest id that there was, as far as it is known: SQLite keeps it where ids count on for ever."""
    if all(last != LAST_KEY for _, last in lost):
        return max(nodes.last or 0, *(last for _, last in lost))
    try:
        highest = source.read(_counted_up_to)
    except SourceError:
        return None
    return max(highest, nodes.last or 0) if isinstance(highest, int) else None


def _counted_up_to(connection: sqlite3.Connection) -> object:
    try:
        row = first_row(connection, "SELECT max(seq) FROM sqlite_sequence WHERE lower(name) = ?", NODES)
    except sqlite3.OperationalError:  # no table counts on
        return None
    return row[0] if row else None
