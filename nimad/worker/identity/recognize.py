"""Recognizing a memory: whether SQLite's rows are those of a ledger, wherever the file lies.

A row is the same one where its digest is. It is too where the agent went on with it: turn, layer, moment and text are
what tells a memory from another, and a recall changes none of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from nimad.source import rows as source_rows
from nimad.source.changed_rows import deleted_in_passing
from nimad.source.ranges import LAST_KEY
from nimad.source.rows import Rows
from nimad.source.schema import TARGET_TABLES, Table
from nimad.source.sqlite_file import SourceFile
from nimad.state import ledger
from nimad.state.ledger import Notes
from nimad.target import upsert
from nimad.target.database import Database
from nimad.worker.identity import natural_key
from nimad.worker.identity.natural_key import COLUMNS
from nimad.worker.protocol import Job

#: Rows that an answer names.
NAMED = 5
_TEXT = "text"


@dataclass
class Recognized:
    """What was found. `noted`: rows of the ledger; `same`: those that SQLite has, as they were or gone on with."""

    noted: int = 0
    same: int = 0
    others: int = 0  # whose id means another memory, or turn
    named: list[tuple[str, int]] = field(default_factory=list)  # some of these, by table and id


def recognize(job: Job, _: ModuleType) -> dict[str, Any]:
    """Hold every row of SQLite against the ledger, some at a time."""
    found, notes = Recognized(), ledger.read_notes(Path(job.ledger))
    for table in job.needs().tables():
        if table.name in COLUMNS:
            found.noted += len(notes[table.name].digests)
            for rows in _noted(job, table, notes[table.name]):
                _compare(job, rows, notes[table.name], found)
    return asdict(found)


def is_ledger_of(database: Database, notes: Mapping[str, Notes]) -> bool:
    """Whether a ledger is a target's: no more of its rows are lacking there than an agent takes out in passing."""
    noted = sum(len(each.digests) for each in notes.values())
    try:
        gone = sum(map(len, lacking(database, notes).values()))
    except RuntimeError:  # it has no such tables
        return False
    return 2 * gone < noted and gone <= deleted_in_passing(noted)


def lacking(database: Database, notes: Mapping[str, Notes]) -> dict[str, set[int]]:
    """Noted rows that a target does not have, or another's under their ids."""
    found: dict[str, set[int]] = {}
    for table, target in TARGET_TABLES.items():
        there, its = upsert.keys(database, target), notes[table]
        found[table] = {key for key in its.digests if its.id_of(key) not in there}
        if table in COLUMNS:
            now = upsert.columns(database, target, COLUMNS[table], there)
            found[table] |= {key for key in its.digests.keys() - found[table] if _is_others(table, its, key, now)}
    return found


def _is_others(table: str, notes: Notes, key: int, now: Mapping[int, Sequence[Any]]) -> bool:
    marked, values = notes.marks.get(key), now[notes.id_of(key)]
    return marked is not None and not natural_key.has_fingerprint(table, natural_key.natural_key_of(values), marked)


def _noted(job: Job, table: Table, notes: Notes) -> Iterator[Rows]:
    """SQLite's rows of which the ledger tells."""
    source, whole = SourceFile(job.source_path()), (None, LAST_KEY)
    for _, rows in source_rows.read_slices(source, table, whole, job.chunk_rows, job.chunk_bytes):
        yield rows.only([key in notes.digests for key in rows.keys])


def _compare(job: Job, rows: Rows, notes: Notes, found: Recognized) -> None:
    moved = rows.only([source_rows.digest(row) != notes.digests[row[0]] for row in rows.values])
    others = _others(job, moved, notes)
    found.same += len(rows) - len(others)
    found.others += len(others)
    found.named += [(rows.table.name, key) for key in others][: NAMED - len(found.named)]


def _others(job: Job, rows: Rows, notes: Notes) -> list[int]:
    """Rows that are another memory than the one that was noted under their id."""
    judged, names = source_rows.convert_rows(rows, job.needs()), ledger.columns_of(rows.table)
    texts: Mapping[int, Any] = {}
    if _TEXT in names:
        texts = dict(zip(judged.rows.keys, judged.columns[names.index(_TEXT)], strict=True))
    marks, found = natural_key.fingerprints_of(rows.table, rows.values), []
    for key in rows.keys:
        noted, base = notes.marks.get(key), notes.base(key) or {}
        another = noted is not None and not natural_key.is_same_fingerprint(rows.table.name, marks[key], noted)
        retold = key in texts and _TEXT in base and base[_TEXT] != ledger.check_of(texts[key])
        if another or retold:
            found.append(key)
    return found
