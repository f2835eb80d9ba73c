"""Ranges of ids: how a table is cut into batches without counting rows from the start."""

import re
import sqlite3
from dataclasses import dataclass

from nimad.source.schema import Table, ValueKind
from nimad.source.sql import sql_name

#: What a number weighs in a batch, in bytes.
_NUMBER_BYTES = 8
#: Terms of a sum that stand side by side.
_FLAT_TERMS = 50


#: The ends of SQLite's integers, which stand for ends that are not known.
FIRST_KEY, LAST_KEY = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class Range:
    """Rows of one table with `after` < key <= `upto`; no lower bound when `after` is None."""

    table: str
    after: int | None
    upto: int
    rows: int
    bytes: int

    def condition(self, key: str) -> tuple[str, tuple[int, ...]]:
        """The range as an SQL condition on `key`, with its values.

        `typeof` keeps out what SQLite sorts after every number: text in a key that is no INTEGER PRIMARY KEY.
        """
        if self.after is None:
            return f"{key} <= ? AND typeof({key}) = 'integer'", (self.upto,)
        return f"{key} > ? AND {key} <= ? AND typeof({key}) = 'integer'", (self.after, self.upto)


def shown(first: int, last: int) -> str:
    """Ids as people write a range; one without a known end is open there."""
    if first == last:
        return str(first)
    if (first, last) == (FIRST_KEY, LAST_KEY):
        return "any"
    if first == FIRST_KEY:
        return f"up to {last}"
    return f"from {first}" if last == LAST_KEY else f"{first}-{last}"


def count_shown(text: str) -> int | None:
    """How many ids `shown` told of; None where an end is not known."""
    ends = re.fullmatch(r"(-?\d{1,19})(?:-(-?\d{1,19}))?", text)
    return None if ends is None else int(ends[2] or ends[1]) - int(ends[1]) + 1


def next_range(
    connection: sqlite3.Connection, table: Table, after: int | None, upto: int, max_rows: int, max_bytes: int
) -> Range | None:
    """The next rows after `after`: at most `max_rows`, and at most `max_bytes` unless one row alone is larger."""
    key = sql_name(table.key)
    condition, values = Range(table.name, after, upto, 0, 0).condition(key)
    sizes = connection.execute(
        f"SELECT {key}, {weight_of(table)} FROM {sql_name(table.name)} WHERE {condition} ORDER BY {key} LIMIT ?",
        (*values, max_rows),
    )
    last, rows, total = None, 0, 0
    for row_key, size in sizes:
        if rows and total + size > max_bytes:
            break
        last, rows, total = row_key, rows + 1, total + size
    if last is None:
        return None
    check_order(after, last)
    return Range(table.name, after, last, rows, total)


def check_order(after: int | None, last: int) -> None:
    """Raise what SQLite does in a damaged file where rows come out of order: they are never to be looped over."""
    if after is not None and last <= after:
        raise sqlite3.DatabaseError("rows of a table are out of order")


def weight_of(table: Table) -> str:
    """An SQL expression for the bytes of a row's values. A BLOB's length is read without its content."""
    texts = (sql_name(column.name) for column in table.columns if column.kind is ValueKind.STRING)
    blobs = (sql_name(column.name) for column in table.columns if column.kind in (ValueKind.BLOB, ValueKind.VECTOR))
    numbers = _NUMBER_BYTES * (1 + len(table.columns) + len(table.ends))
    lengths = [f"coalesce(length(CAST({name} AS BLOB)), 0)" for name in texts]
    lengths += [f"coalesce(length({name}), 0)" for name in blobs]
    return _sum([*lengths, str(numbers)])


def _sum(terms: list[str]) -> str:
    """The sum as a balanced tree: SQLite refuses an expression that is more than 1,000 deep."""
    if len(terms) <= _FLAT_TERMS:
        return " + ".join(terms)
    half = len(terms) // 2
    return f"({_sum(terms[:half])}) + ({_sum(terms[half:])})"
