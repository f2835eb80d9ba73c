"""Limits for reading an SQLite file of unknown origin: memory, length of a value, steps."""

import functools
import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from nimad.host.bounded import STAT_BLOCK

#: Steps of SQLite's machine between two looks at whether to stop: some rows, each of which may take long.
_STEPS: Final = 1_000
#: Steps that a reading may take: for any file, some seconds, and for each of its bytes more than a whole look needs.
_BASE_STEPS: Final = 100_000_000
_STEPS_PER_BYTE: Final = 1_000
#: Seconds of the processor that it may take, in the same way: one step can look for a long text in a longer one.
_BASE_S: Final = 60.0
_S_PER_BYTE: Final = 20e-6
#: Bytes of a value, whatever the file's size; and how many times as long as the file a computed one may be.
_BASE_LENGTH: Final = 256 << 10
_TIMES_LENGTH: Final = 4
#: The least that SQLite may take of the memory, in bytes, and its part of what the machine has.
_LEAST_HEAP: Final = 256 << 20
_HEAP_PART: Final = 4


#: How `pragma_function_list` marks what SQLite vouches for, SQLITE_INNOCUOUS.
_INNOCUOUS: Final = 0x200000
#: Bytes of a file that a byte on the disk stands for at most, where the file system compresses.
_COMPRESSED: Final = 16


class Steps:
    """Counts the steps of one reading. What goes beyond the bounds is no progress: the reading ends."""

    def __init__(self, stop: threading.Event, size: int) -> None:
        self._stop, self._left = stop, _BASE_STEPS + size * _STEPS_PER_BYTE
        self._until = time.thread_time() + _BASE_S + size * _S_PER_BYTE

    @property
    def used_up(self) -> bool:
        return self._left <= 0

    def ask(self) -> bool:
        """Whether to stop; called by SQLite."""
        self._left = 0 if time.thread_time() > self._until else self._left - _STEPS
        return self.used_up or self._stop.is_set()


def size_taken(path: Path) -> int:
    """Bytes of a file; of one with holes as many as it can hold, 0 where there is none."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return min(status.st_size, status.st_blocks * STAT_BLOCK * _COMPRESSED)


def limit(connection: sqlite3.Connection, size: int, stop: threading.Event, *, trusted: bool = False) -> Steps:
    """Set the bounds for a file of so many bytes, with its log, and believe nothing that its schema calls.

    `trusted`: what it calls is allowed, as triggers that keep an index of texts. Functions that may do anything but
    compute fail even then.
    """
    steps = Steps(stop, size)
    most = connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(most, _BASE_LENGTH + _TIMES_LENGTH * size))
    connection.set_progress_handler(steps.ask, _STEPS)
    for name, arguments in _unvouched():
        connection.create_function(name, arguments, _refuse, deterministic=True)  # a generated column takes no other
    if not trusted:
        connection.execute("PRAGMA trusted_schema = 0")
    connection.execute(f"PRAGMA hard_heap_limit = {_heap_bytes()}")  # of the process; it can only be lowered
    return steps


@functools.cache
def _unvouched() -> tuple[tuple[str, int], ...]:
    """The functions of which SQLite does not say that they do nothing but compute, with their numbers of arguments.

    As another connection lists them: asking this one would read its file. Those of JSON do compute, although SQLite up
    to 3.40 does not say so; MATCH belongs to the tables that are searched.
    """
    query = (
        "SELECT DISTINCT name, narg FROM pragma_function_list "
        "WHERE NOT flags & ? AND name NOT LIKE 'json%' AND name NOT IN ('->', '->>', 'match')"
    )
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            return tuple(connection.execute(query, (_INNOCUOUS,)).fetchall())
        except sqlite3.Error:  # built without that list: then what the schema is trusted with is SQLite's default
            return ()


def _refuse(*_: object) -> None:
    raise ValueError  # SQLite tells the statement that a function failed


def _heap_bytes() -> int:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(_LEAST_HEAP, machine // _HEAP_PART)
