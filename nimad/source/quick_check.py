"""The quick check: what SQLite finds wrong with a file, and what that says of the rows."""

import re
import sqlite3
from pathlib import Path

from nimad.source.file import SourceFile
from nimad.source.pages import first_row, raise_unless_unreadable
from nimad.source.ranges import LAST_KEY
from nimad.source.schema import Schema


def damage(source: SourceFile, schema: Schema) -> list[str]:
    """What SQLite finds wrong with each migrated table and its indexes; empty when all is well."""

    def check(connection: sqlite3.Connection) -> list[str]:
        said = [(table.name, line) for table in schema.tables() for line in _check(connection, table.name)]
        # A value that a CHECK forbids can be read all the same; releases of NIMA differ in what they check.
        return [f"{table}: {line}" for table, line in said if not line.startswith("CHECK constraint failed")]

    return source.read(check)


def unclaimed(source: SourceFile) -> list[str]:
    """Pages of the file that belong to nothing, or to two trees.

    Where a page was overwritten with a whole one of another place, no check of the one table sees it, and its rows
    are missing without an error. A damaged full-text index may leave such pages, too.
    """
    lines = source.read(_check)
    return [line for line in lines if "never used" in line or "2nd reference" in line]


def _check(connection: sqlite3.Connection, *table: str) -> list[str]:
    """The lines of a quick_check, of a table or of the file."""
    query = f"SELECT * FROM pragma_quick_check{'(?)' if table else ''}"
    # More than the usual 100 lines. Not as that function's argument, which from SQLite 3.46 on names a table always.
    whole = query if table else "PRAGMA quick_check(10000)"
    try:
        said = [str(line) for (line,) in connection.execute(whole, table)]
    except sqlite3.DatabaseError as error:
        raise_unless_unreadable(error)
        # What it says of the pages comes first, and would be lost with the error that follows it.
        row = first_row(connection, f"{query} LIMIT 1", *table)
        said = [*(row or ()), str(error)]
    return [line for line in "\n".join(said).splitlines() if line != "ok" and not line.startswith("***")]


def denying(connection: sqlite3.Connection, table: str, path: Path) -> list[int]:
    """The last ids of pages that claim to hold less than is on them: what follows them is missing without an error."""
    found = (re.fullmatch(r"Fragmentation .* on page (\d+)", line) for line in _check(connection, table))
    return [last for page in found if page and (last := _last_id(path, int(page[1]))) is not None]


def _last_id(path: Path, page: int) -> int | None:
    """The last id on a page of a table, as its bytes are in the file (sqlite.org/fileformat.html, 1.6)."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(18)[16:], "big")
        file.seek((page - 1) * size)
        data = file.read(size)
    inner, cells = data[:1] == b"\x05", int.from_bytes(data[3:5], "big")
    if not cells or data[:1] not in (b"\x05", b"\x0d"):
        return None
    pointer = (12 if inner else 8) + 2 * (cells - 1)
    cell = data[int.from_bytes(data[pointer : pointer + 2], "big") :]
    return _number(cell[4:] if inner else _number(cell)[1])[0] & LAST_KEY


def _number(data: bytes) -> tuple[int, bytes]:
    """The number with which `data` begins, seven bits in a byte, and what follows it."""
    value = 0
    for end, byte in enumerate(data[:9], start=1):
        value = value << 7 | byte & 0x7F
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, data[end:]
    return value, data[9:]
