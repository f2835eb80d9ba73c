"""SQLite's quick check of a file, and what it means for the rows."""

import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from nimad.plural import number_of
from nimad.source import foreign_wal
from nimad.source.header import beside, header_of, page_size, read_bytes, size_or_zero
from nimad.source.integrity import faults
from nimad.source.ranges import LAST_KEY
from nimad.source.schema import Schema
from nimad.source.sqlite_file import PAUSE_S, SourceFile
from nimad.source.stand_ins import Reading
from nimad.source.wal import page_in

#: Looks at a file that others write to, before damage is believed that each of them finds.
_LOOKS = 20


def damage(source: SourceFile, schema: Schema) -> list[str]:
    """What SQLite finds wrong with each migrated table and its indexes; empty when all is well."""

    def check(connection: sqlite3.Connection) -> list[str]:
        return [f"{table.name}: {line}" for table in schema.tables() for line in faults(connection, table.name)]

    return _believed(source, check)


def unclaimed(source: SourceFile) -> list[str]:
    """Pages of the file that belong to nothing and hold rows, or belong to two trees.

    Where a page was overwritten with a whole one of another place, no check of the one table sees it, and its rows
    are missing without an error. A damaged full-text index may leave such pages, too. Other writers than SQLite, and
    crashes, leave empty ones, which are no damage; nor are those of a table whose definition a newer SQLite wrote.
    """

    def check(connection: sqlite3.Connection) -> list[str]:
        lines = faults(connection)
        found = [line for line in lines if "2nd reference" in line]
        if isinstance(connection, Reading) and connection.reads_past_definitions:
            return found
        unused = [int(page[1]) for line in lines if (page := _UNUSED.fullmatch(line))]
        held = {page: what for page in unused if (what := _held_by(source.path, page))}
        return found + [f"page {page} is never used, and holds {what}" for page, what in held.items()]

    return _believed(source, check)


def refuse_foreign_log(source: SourceFile) -> None:
    """Raise `SourceLogError` where a log that a killed program left contradicts the file, and the file is whole alone.

    Pages of two files may fit together so far that only an index which does not hold what its table does tells.
    """
    if not source.has_log_of_dead():
        return
    foreign_wal.refuse_by_count(source.path)
    if lines := source.read(lambda connection: faults(connection, thorough=True)):
        foreign_wal.refuse(source.path, lines[0])


_UNUSED = re.compile(r"Page (\d+)(?: is|:) never used")


def _believed(source: SourceFile, check: Callable[[sqlite3.Connection], list[str]]) -> list[str]:
    """What a check says, and says again of a file that nobody wrote to meanwhile: only then is it damage.

    A busy agent is given up on after some looks, all of which found damage.
    """
    said = source.read(check)
    for _ in range(_LOOKS):
        before = source.stamps()
        said = said and source.read(check)
        if not said or before == source.stamps():
            break
        time.sleep(PAUSE_S)
    if said:
        foreign_wal.refuse(source.path, said[0])
    return said


def denying(connection: sqlite3.Connection, table: str, path: Path) -> list[int]:
    """The last ids of pages that claim to hold less than is on them: what follows them is missing without an error."""
    found = (re.fullmatch(r"Fragmentation .* on page (\d+)", line) for line in faults(connection, table))
    return [last for page in found if page and (last := _last_id(path, int(page[1]))) is not None]


def _last_id(path: Path, page: int) -> int | None:
    """The last id on a page of a table, as its bytes are in the file (sqlite.org/fileformat.html, 1.6)."""
    data = _page(path, page)
    inner, cells = data[:1] == b"\x05", int.from_bytes(data[3:5], "big")
    if not cells or data[:1] not in (b"\x05", b"\x0d"):
        return None
    pointer = (12 if inner else 8) + 2 * (cells - 1)
    cell = data[int.from_bytes(data[pointer : pointer + 2], "big") :]
    return _number(cell[4:] if inner else _number(cell)[1])[0] & LAST_KEY


def _held_by(path: Path, page: int) -> str:
    """What an unused page holds of a table's rows; empty where that is nothing, or the entries of an index."""
    data = _page(path, page)
    if data[:1] == b"\x0d" and (rows := int.from_bytes(data[3:5], "big")):
        return number_of(rows, "row")
    # The number of the next page comes first on one that holds the rest of a long row.
    return "a part of a row" if data[:1] == b"\0" and any(data[4:]) else ""


def _page(path: Path, number: int) -> bytes:
    """A page as it stands in the log, or in the file."""
    log = beside(path, "-wal")
    logged = page_in(log, number) if size_or_zero(log) else None
    if logged is not None:
        return logged
    size = page_size(header_of(path))
    return read_bytes(path, (number - 1) * size, size)


def _number(data: bytes) -> tuple[int, bytes]:
    """The number with which `data` begins, seven bits in a byte, and what follows it."""
    value = 0
    for end, byte in enumerate(data[:9], start=1):
        value = value << 7 | byte & 0x7F
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, data[end:]
    return value, data[9:]
