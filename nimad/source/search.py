"""Asking SQLite, as an agent does: by its full-text index, or by LIKE where there is none. For `nimad report`."""

import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress

from nimad.source.schema import NODES, columns_of

#: Newest memories that an answer has.
HITS = 10
#: Words that both sides are asked for, and places of the memory that they are taken from, evenly over its ids.
WORDS, PLACES = 7, 28
#: Characters of a text that words are taken from.
_TAKEN_CHARS = 2_000
_WORD = re.compile(r"[^\W\d_]{5,20}")

_BY_INDEX = f"""SELECT n.id, n.text FROM memory_fts JOIN {NODES} n ON n.id = memory_fts.rowid
    WHERE memory_fts MATCH ? ORDER BY n.timestamp DESC LIMIT {HITS}"""
_BY_LIKE = rf"""SELECT id, text FROM {NODES} WHERE text LIKE ? ESCAPE '\' OR summary LIKE ? ESCAPE '\'
    ORDER BY timestamp DESC LIMIT {HITS}"""

Ask = Callable[[str], int]


def can_be_asked(connection: sqlite3.Connection) -> bool:
    """Whether this memory has the columns that are searched."""
    names = {name for name, _ in columns_of(connection, NODES)}
    return {"id", "text", "summary", "timestamp"} <= names


def words_of(connection: sqlite3.Connection) -> Sequence[str]:
    """Some words that are in the memory, always the same ones while it stays as it is."""
    first, last = connection.execute(f"SELECT min(id), max(id) FROM {NODES} WHERE typeof(id) = 'integer'").fetchone()
    if first is None:
        return ()
    found: dict[str, None] = {}
    for place in range(PLACES):
        start = first + (last - first) * place // max(1, PLACES - 1)
        row = connection.execute(f"SELECT text FROM {NODES} WHERE id >= ? ORDER BY id LIMIT 1", (start,)).fetchone()
        text = row[0][:_TAKEN_CHARS] if row and isinstance(row[0], str) else ""
        fresh = [word for word in _WORD.findall(text) if word not in found]
        if fresh:
            found[max(fresh, key=len)] = None
        if len(found) == WORDS:
            break
    return list(found)


def way_of(connection: sqlite3.Connection) -> tuple[str, Ask]:
    """How this memory is searched: the name of the way, and what asks for one word and returns how many it found."""

    def by_index(word: str) -> int:
        return len(connection.execute(_BY_INDEX, (f'"{word}"',)).fetchall())

    def by_like(word: str) -> int:
        return len(connection.execute(_BY_LIKE, (f"%{word}%", f"%{word}%")).fetchall())

    with suppress(sqlite3.Error):  # no such table, or an SQLite without FTS5
        by_index("word")
        return "FTS5", by_index
    return "LIKE", by_like
