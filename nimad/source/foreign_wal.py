"""A write-ahead log that belongs to another state of its file, as after a backup was restored beside it.

SQLite cannot tell: it lays the log's pages over the file, and rows of two files are read as one. Nothing in the log
names its file. What shows it is that the two together are damaged, and the file alone is whole; or that the log goes on
from another first page than the file has. Where neither does, as of a backup since which rows were changed in their
places alone, nothing tells the two from a file and its own log.
"""

import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from nimad.errors import SourceLogError
from nimad.source.header import beside, header_of, size_or_zero
from nimad.source.integrity import faults
from nimad.source.schema import NODES, columns_of
from nimad.source.stand_ins import Reading
from nimad.source.wal import holds_commit, told_by


def has_log(path: Path) -> bool:
    """Whether a log would be read with the file."""
    log = beside(path, "-wal")
    return bool(size_or_zero(log)) and holds_commit(log)


def refuse_by_count(path: Path) -> None:
    """Raise `SourceLogError` where a log goes on from another state than that of its file, which is whole alone.

    A transaction that writes the first page counts on by one from what was there, or, by the connection that wrote it
    last, leaves the number. One that does not write it leaves the file's size. The file may have gone on already, up to
    a page of the log.
    """
    if not has_log(path):
        return
    header, told = header_of(path), told_by(beside(path, "-wal"))
    count, valid_for = _number(header, 24), _number(header, 92)
    if told.counters:
        fits = count in {told.counters[0] - 1, *told.counters}
    else:
        fits = count != valid_for or set(told.sizes) <= {_number(header, 28)}
    if not fits:
        refuse(path, "it goes on from another number of changes or pages than the file has")


def _number(header: bytes, place: int) -> int:
    return int.from_bytes(header[place : place + 4], "big")


def refuse(path: Path, why: str) -> None:
    """Raise `SourceLogError` where the file alone is whole. `why`: what is wrong with file and log together."""
    if has_log(path) and _is_whole_alone(path):
        log = beside(path, "-wal")
        aside = log.with_name(f"{log.name}.aside")
        raise SourceLogError(
            f"{path} is whole, and does not go together with {log}, the log of changes that SQLite has not moved into "
            f"the file yet ({why}); the log seems to be of another state of the file, as after a backup was put back. "
            f"Nothing is migrated. Stop the agent; put the log aside with: {shlex.join(['mv', str(log), str(aside)])} "
            "and run again to migrate the file alone, or put back the file that the log belongs to"
        )


def _is_whole_alone(path: Path) -> bool:
    uri = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"  # which reads no log
    try:
        with closing(sqlite3.connect(uri, uri=True, factory=Reading)) as connection:
            return bool(columns_of(connection, NODES)) and not faults(connection, thorough=True)
    except sqlite3.Error:
        return False
