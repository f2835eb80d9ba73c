"""A write-ahead log that belongs to another state of its file: as where a backup was put back, and the log left there.

SQLite cannot tell: it lays the log's pages over the file, and rows of two files are read as one. Nothing in the log
names its file. What shows it is that the two together are damaged, and the file alone is whole.
"""

import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from nimad.errors import SourceLogError
from nimad.source.header import beside, size_or_zero
from nimad.source.integrity import faults
from nimad.source.log import holds_commit
from nimad.source.schema import NODES, columns_of
from nimad.source.stand_ins import Reading


def has_log(path: Path) -> bool:
    """Whether a log would be read with the file."""
    log = beside(path, "-wal")
    return bool(size_or_zero(log)) and holds_commit(log)


def refuse(path: Path, damage: str) -> None:
    """Raise `SourceLogError` where the file alone is whole. `damage`: what is wrong with file and log together."""
    if has_log(path) and _is_whole_alone(path):
        log = beside(path, "-wal")
        aside = log.with_name(f"{log.name}.aside")
        raise SourceLogError(
            f"{path} is whole, and damaged together with {log}, the log of changes that SQLite has not moved into the "
            f"file yet ({damage}); the log seems to be of another state of the file, as after a backup was put back. "
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
