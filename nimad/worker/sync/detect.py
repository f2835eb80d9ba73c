"""Detecting rows that a sync may have to bring, from SQLite and the ledger alone."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nimad.source import changed_rows, quick_check
from nimad.source import rows as source_rows
from nimad.source.row_numbers import is_numbered
from nimad.source.rows import Reject, Rows
from nimad.source.schema import NODES, TURNS, Table
from nimad.source.sqlite_file import SourceFile
from nimad.state.ledger import Notes
from nimad.worker.identity import natural_key
from nimad.worker.protocol import Job, Late

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
    left: dict[str, list[int]] = field(default_factory=dict)  # rows that were taken out once, and may be there again

    @property
    def nothing(self) -> bool:
        return not any((*self.ids.values(), *self.gone.values(), *self.left.values()))


def search(job: Job, notes: Notebook, lacking: Keys) -> Candidates:
    """Find them. `lacking`: noted rows that the target lost."""
    source, asked = SourceFile(job.source_path()), job.late or Late()
    suspects = {table.name: {*lacking.get(table.name, ()), *asked.again.get(table.name, ())} for table in _tables(job)}
    strays: list[Reject] = []
    if asked.thorough:
        for table in _tables(job):
            suspects[table.name] |= _unlike(job, source, table, notes[table.name])
            rows = source.read(lambda c, table=table: source_rows.read_strays(c, table))  # type: ignore[misc]
            strays += source_rows.convert_strays(rows)
    found = source.read(lambda c: _at_one_moment(c, job, notes, suspects, lacking))
    if any(found.gone.values()) and not asked.thorough:
        # Ids that mean other memories now, as after a backup was put back: how many is to be seen first.
        return search(replace(job, late=replace(asked, thorough=True)), notes, lacking)
    found.strays = strays
    if found.gone:  # or pages are damaged, and this is the last copy
        found.damage = next(iter(quick_check.damage(source, job.needs())), "")
    return found


def _tables(job: Job) -> tuple[Table, ...]:
    return job.needs().tables()


def _unlike(job: Job, source: SourceFile, table: Table, notes: Notes) -> set[int]:
    """Rows that are not what was noted of them. Read in parts: a file that others write to lies still only briefly."""
    found: set[int] = set()
    after: int | None = None
    size = job.chunk_rows, job.chunk_bytes
    while chunk := source.read(lambda c, after=after: changed_rows.changed(c, table, after, size)):  # type: ignore[misc]
        after, rows = chunk
        found.update(key for key, digest in rows if notes.is_news(key, digest))
    return found


def _at_one_moment(
    connection: sqlite3.Connection, job: Job, notes: Notebook, suspects: Keys, lacking: Keys
) -> Candidates:
    """What is new, and the rows themselves: all of one state of the source, so that no turn comes by halves."""
    asked, tables = job.late or Late(), _tables(job)
    ids = {t.name: {*suspects[t.name], *_new(connection, t, notes[t.name])} for t in tables}
    recalled, since = changed_rows.accessed(connection, job.needs().nodes, asked.since, notes[NODES].digests)
    ids[NODES].update(recalled)
    if asked.distrust:
        out = {
            t.name: notes[t.name].absent.keys() if asked.strange else set() for t in tables
        }  # taken out, in a copy too
        ids = {t.name: ids[t.name] | source_rows.read_keys(connection, t) - out[t.name] for t in tables}
    gone = _gone(connection, tables, notes) if asked.thorough else {}
    ends = {end for t in tables if t.name != NODES for end in changed_rows.ends(connection, t, sorted(ids[t.name]))}
    replaced = _replaced(connection, job, notes, NODES, ids[NODES] | ends)
    ids[NODES] |= replaced
    # What hangs on a node that comes, or goes, may have had to do without it, or has to from now on.
    new = {*lacking.get(NODES, ()), *replaced}
    nodes = [key for key in ids[NODES] if key not in notes[NODES].digests or key in new]
    for table in tables:
        if table.name != NODES:
            ids[table.name] |= changed_rows.referring(connection, table, [*nodes, *gone.get(NODES, ())])
        if table.name == TURNS:
            ids[TURNS] |= {
                key for key, digest in changed_rows.recent(connection, table) if notes[TURNS].is_news(key, digest)
            }
    _add(gone, NODES, replaced)
    if TURNS in ids:
        _add(gone, TURNS, _replaced(connection, job, notes, TURNS, ids[TURNS]))
    found = Candidates({name: sorted(keys) for name, keys in ids.items()}, gone, since)
    if asked.distrust:
        found.left = {t.name: _left(connection, job, notes, t) for t in tables}
    if all(len(keys) <= min(ROWS, job.chunk_rows) for keys in found.ids.values()):
        found.rows = {t.name: source_rows.read_ids(connection, t, found.ids[t.name]) for t in tables}
    return found


def _new(connection: sqlite3.Connection, table: Table, notes: Notes) -> set[int]:
    """Rows that came since: above the last, or, where ids are numbers of ours, anywhere."""
    if is_numbered(connection, table.name):
        return {key for key in source_rows.read_keys(connection, table) if not notes.tells_of(key)}
    return set(changed_rows.above(connection, table, notes.last))


def _gone(connection: sqlite3.Connection, tables: tuple[Table, ...], notes: Notebook) -> dict[str, list[int]]:
    gone = {}
    for table in tables:
        noted = notes[table.name].digests.keys() | notes[table.name].plans.keys()
        gone[table.name] = noted - source_rows.read_keys(connection, table)
    return {name: sorted(keys) for name, keys in gone.items() if keys}


def _add(gone: dict[str, list[int]], table: str, keys: set[int]) -> None:
    if keys:
        gone[table] = sorted({*gone.get(table, ()), *keys})


def _replaced(connection: sqlite3.Connection, job: Job, notes: Notebook, name: str, keys: set[int]) -> set[int]:
    """Noted rows whose ids mean another memory, or turn, in the source now: these went, and others came."""
    noted = notes[name]
    now = _naturals(connection, job, name, [key for key in keys if key in noted.digests and key in noted.marks])
    return {key for key, its in now.items() if not natural_key.has_fingerprint(name, its, noted.marks[key])}


def _naturals(
    connection: sqlite3.Connection, job: Job, name: str, keys: list[int]
) -> dict[int, natural_key.NaturalKey]:
    table = job.needs().table(name)
    values = changed_rows.columns(connection, table, natural_key.COLUMNS[name], sorted(keys))
    found = {key: natural_key.of_source(table, row) for key, row in values.items()}
    return {key: its for key, its in found.items() if its is not None}


def _left(connection: sqlite3.Connection, job: Job, notes: Notebook, table: Table) -> list[int]:
    """Rows that were taken out once, unless the source has them again."""
    left = notes[table.name].left
    if table.name not in natural_key.COLUMNS:
        return sorted(left.keys() - source_rows.read_keys(connection, table))
    now = _naturals(connection, job, table.name, list(left))
    there = {key for key, its in now.items() if natural_key.has_fingerprint(table.name, its, left[key].mark)}
    return sorted(key for key, each in left.items() if each.mark and key not in there)
