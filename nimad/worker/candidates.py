"""Candidates: the rows that a catching-up may have to bring to the target, found in SQLite and the ledger alone."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field

from nimad.source import late, salvage
from nimad.source import rows as source_rows
from nimad.source.file import SourceFile
from nimad.source.rows import Reject, Rows
from nimad.source.schema import NODES, TURNS, Table
from nimad.worker.job import Job, Late
from nimad.worker.ledger import Notes

#: Rows of each table in one transaction.
ROWS = 500

Notebook = Mapping[str, Notes]
#: By source table: keys.
Keys = dict[str, set[int]]


@dataclass
class Candidates:
    """By source table: rows to look at, rows that left the source; and the latest recall."""

    ids: dict[str, list[int]]
    gone: dict[str, list[int]]
    since: int
    rows: dict[str, Rows] | None = None  # of one moment, where they fit into one transaction
    strays: list[Reject] = field(default_factory=list)
    damage: str = ""  # of the source, when rows seem to have left it

    @property
    def nothing(self) -> bool:
        return not any(self.ids.values()) and not any(self.gone.values())


def search(job: Job, notes: Notebook, lacking: Keys) -> Candidates:
    """Find them. `lacking`: noted rows that the target does not have."""
    source, asked = SourceFile(job.source_path()), job.late or Late()
    suspects = {table.name: {*lacking.get(table.name, ()), *asked.again.get(table.name, ())} for table in _tables(job)}
    strays: list[Reject] = []
    if asked.thorough:
        for table in _tables(job):
            suspects[table.name] |= _unlike(job, source, table, notes[table.name])
            rows = source.read(lambda c, table=table: source_rows.read_strays(c, table))  # type: ignore[misc]
            strays += source_rows.judge_strays(rows)
    found = source.read(lambda c: _at_one_moment(c, job, notes, suspects, lacking))
    found.strays = strays
    if found.gone:  # or pages are damaged, and this is the last copy
        found.damage = next(iter(salvage.damage(source, job.needs())), "")
    return found


def _tables(job: Job) -> tuple[Table, ...]:
    return job.needs().tables()


def _unlike(job: Job, source: SourceFile, table: Table, notes: Notes) -> set[int]:
    """Rows that are not what was noted of them. Read in parts: a file that others write to lies still only briefly."""
    found: set[int] = set()
    after: int | None = None
    size = job.chunk_rows, job.chunk_bytes
    while chunk := source.read(lambda c, after=after: late.changed(c, table, after, size)):  # type: ignore[misc]
        after, rows = chunk
        found.update(key for key, digest in rows if _is_news(notes, key, digest))
    return found


def _is_news(notes: Notes, key: int, digest: bytes) -> bool:
    return digest not in (notes.digests.get(key), notes.aside.get(key))


def _at_one_moment(
    connection: sqlite3.Connection, job: Job, notes: Notebook, suspects: Keys, lacking: Keys
) -> Candidates:
    """What is new, and the rows themselves: all of one state of the source, so that no turn comes by halves."""
    asked, tables = job.late or Late(), _tables(job)
    ids = {t.name: {*suspects[t.name], *late.above(connection, t, notes[t.name].last)} for t in tables}
    recalled, since = late.accessed(connection, job.needs().nodes, asked.since, notes[NODES].digests)
    ids[NODES].update(recalled)
    gone = _gone(connection, tables, notes) if asked.thorough else {}
    # What hangs on a node that comes, or goes, may have had to do without it, or has to from now on.
    nodes = [key for key in ids[NODES] if key not in notes[NODES].digests or key in lacking.get(NODES, ())]
    for table in tables:
        if table.name != NODES:
            ids[table.name] |= late.referring(connection, table, [*nodes, *gone.get(NODES, ())])
        if table.name == TURNS:
            ids[TURNS] |= {key for key, digest in late.recent(connection, table) if _is_news(notes[TURNS], key, digest)}
    found = Candidates({name: sorted(keys) for name, keys in ids.items()}, gone, since)
    if all(len(keys) <= min(ROWS, job.chunk_rows) for keys in found.ids.values()):
        found.rows = {t.name: source_rows.read_ids(connection, t, found.ids[t.name]) for t in tables}
    return found


def _gone(connection: sqlite3.Connection, tables: tuple[Table, ...], notes: Notebook) -> dict[str, list[int]]:
    gone = {t.name: notes[t.name].digests.keys() - source_rows.read_keys(connection, t) for t in tables}
    return {name: sorted(keys) for name, keys in gone.items() if keys}
