"""Confirming what a sync did, in a process that opened the target afterwards.

Only what is found, every value of it, is noted in the ledger. What is not is a late arrival still.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from nimad.source import rows as source_rows
from nimad.source.rows import ConvertedRows
from nimad.source.schema import EDGES, LINKS, NODES, TARGET_TABLES, TURNS
from nimad.source.sqlite_file import SourceFile
from nimad.state import ledger
from nimad.state.ledger import Entry, Notes
from nimad.target import copy_rows, read_back, row_counts, upsert
from nimad.target.database import Database, open_database
from nimad.worker import convert
from nimad.worker.engine_limits import limits_of
from nimad.worker.identity import natural_key
from nimad.worker.protocol import Applied, Job
from nimad.worker.sync.detect import ROWS


@dataclass
class _Found:
    """By source table: rows that are there; that are not, or otherwise; that the source changed meanwhile."""

    there: dict[str, dict[int, Entry]] = field(default_factory=dict)
    missing: dict[str, list[int]] = field(default_factory=dict)
    moved: dict[str, list[int]] = field(default_factory=dict)
    removed: dict[str, list[int]] = field(default_factory=dict)
    forgotten: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Known:
    """The target's ids of the source's nodes and turns, and which of the nodes are there."""

    aliases: Mapping[str, Mapping[int, int]]
    nodes: frozenset[int]

    def of(self, table: str, key: int) -> int:
        return self.aliases.get(table, {}).get(key, key)


def confirm(job: Job, module: ModuleType) -> dict[str, Any]:
    """Look for every row of `job.applied`, and note in the ledger what is there."""
    applied, path, found = job.applied or Applied(), Path(job.ledger), _Found()
    notes = ledger.read_notes(path)
    aliases = {t: _aliases(notes[t], applied, t) for t in TARGET_TABLES}
    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        there = upsert.keys(database, TARGET_TABLES[NODES])
        noted = {*notes[NODES].digests, *applied.digests.get(NODES, ())}
        known = _Known(aliases, frozenset(key for key in noted if aliases[NODES].get(key, key) in there))
        ignored = {"embedding"} if upsert.indexed(database) else set()
        for table, rows in applied.digests.items():
            keys = list(rows)
            for start in range(0, len(keys), ROWS):
                _look(job, database, table, keys[start : start + ROWS], known, ignored, found)
        for table, listed in ((table, listed) for table, listed in applied.removed.items() if listed):
            # What was added since may have the id of what went.
            left = upsert.keys(database, TARGET_TABLES[table])
            left -= {known.of(table, key) for key in applied.digests.get(table, ())}
            gone = [key for key in listed if notes[table].id_of(key) not in left]
            found.removed[table] = gone
            found.missing.setdefault(table, []).extend(sorted(set(listed) - set(gone)))
        counts = row_counts.count(database)
    found.forgotten = applied.forgotten
    _write(path, found, job)
    return {
        "confirmed": {table: list(rows) for table, rows in found.there.items()},
        "missing": {table: keys for table, keys in found.missing.items() if keys},
        "moved": {table: keys for table, keys in found.moved.items() if keys},
        "counts": {name: asdict(count) for name, count in counts.items()},
    }


def _aliases(notes: Notes, applied: Applied, table: str) -> dict[int, int]:
    """Of rows that were brought what was said of them; of the others what is noted."""
    brought = applied.digests.get(table, {})
    before = {key: other for key, other in notes.aliases.items() if key not in brought}
    return {**before, **applied.aliases.get(table, {})}


def _write(path: Path, found: _Found, job: Job) -> None:
    """Note what is there, after what went under the same key."""
    tables = [job.needs().table(name) for name in {*found.there, *found.removed, *found.forgotten}]
    parts = [
        ledger.packed(
            each, found.there.get(each.name, {}), found.removed.get(each.name, ()), found.forgotten.get(each.name, ())
        )
        for each in tables
    ]
    ledger.append(path, b"".join(parts))


def _look(
    job: Job, database: Database, table: str, keys: Sequence[int], known: _Known, ignored: set[str], found: _Found
) -> None:
    applied = job.applied or Applied()
    expected, kept = applied.digests[table], applied.kept.get(table, {})
    undecided = applied.undecided.get(table, {})
    source, schema = SourceFile(job.source_path()), job.needs()
    rows = source.read(lambda c: source_rows.read_ids(c, schema.table(table), keys))
    marks = natural_key.fingerprints_of(rows.table, rows.values)
    now = {key: source_rows.digest(row) for key, row in zip(rows.keys, rows.values, strict=True)}
    still = {key for key in keys if key in now and now[key].hex() == expected[key]}
    found.moved.setdefault(table, []).extend(key for key in keys if key not in still)
    judged = convert.convert(job, rows.only([key in still for key in rows.keys]), schema)
    ids = [known.of(table, key) for key in judged.rows.keys]
    ends = []
    if table == EDGES:
        ends = [(known.of(NODES, a), known.of(NODES, b)) for a, b in zip(*judged.columns[:2], strict=True)]
    unlike = upsert.differing(database, schema, judged, ids, ends)
    named = {judged.rows.keys[position]: columns - ignored for position, columns in unlike.items()}
    missing = {key for key, columns in named.items() if columns - set(kept.get(key, ()))}
    if table == EDGES:  # one that the agent has between other nodes is the agent's, whatever else it says
        missing -= {key for key, columns in kept.items() if set(columns) & set(rows.table.ends)}
    if table == TURNS:
        missing |= _without_links(database, judged, known, kept)
    found.missing.setdefault(table, []).extend(sorted(missing))
    checks = zip(judged.rows.keys, ledger.packed_checks(judged), strict=True)
    found.there.setdefault(table, {}).update(
        {
            key: Entry(now[key], checked, marks.get(key), known.of(table, key), frozenset(undecided.get(key, ())))
            for key, checked in checks
            if key not in missing
        }
    )


def _without_links(
    database: Database, judged: ConvertedRows, known: _Known, kept: Mapping[int, Sequence[str]]
) -> set[int]:
    """Turns that lack a link to a node which is there, but for those that the agent took out."""
    pairs, _ = copy_rows.link_pairs(judged, set(known.nodes))
    ids = sorted(known.of(TURNS, key) for key in judged.rows.keys)
    found: set[int] = set()
    for end in judged.rows.table.ends:
        kind = LINKS[end.lower()]
        there = set(read_back.links(database, kind, ids))
        wanted = [(turn, node) for turn, node in pairs[kind] if end not in kept.get(turn, ())]
        found |= {turn for turn, node in wanted if (known.of(TURNS, turn), known.of(NODES, node)) not in there}
    return found
