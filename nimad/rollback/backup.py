"""The backup of an SQLite memory before a rollback: one closed file, for its owner alone."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from nimad.host.disk import sync

#: Pages that are copied between two looks at whether others wait for the memory.
_PAGES = 1_000


def back_up(connection: sqlite3.Connection, to: Path) -> None:
    """Copy the memory that `connection` has open, as it stands in one moment, to the new file `to`.

    Under a name that ends in `.tmp` until it is whole. What stood there from an earlier try is thrown away.
    """
    temporary = to.with_name(f"{to.name}.tmp")
    for name in (temporary, *(temporary.with_name(temporary.name + end) for end in ("-journal", "-wal", "-shm"))):
        name.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    try:
        with closing(sqlite3.connect(temporary, isolation_level=None)) as copy:
            connection.backup(copy, pages=_PAGES)
            # The copy is one in WAL mode, as what it was made from: closed in this mode, it is one file alone.
            copy.execute("PRAGMA journal_mode = DELETE")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(temporary)
    temporary.rename(to)
    sync(to.parent)
