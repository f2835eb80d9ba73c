"""Applying later rows of the source to a published target.

The nodes, edges and turns of one moment go in together, in one transaction that the write-ahead log covers: a reader
sees all of a turn or nothing. What is equal already is not written again, so doing it twice is harmless.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

from nimad.host.disk import has_log, logs
from nimad.source import rows as source_rows
from nimad.source.changed_rows import deleted_in_passing
from nimad.source.rows import Rows
from nimad.source.schema import EDGES, NODES, TURNS
from nimad.source.sqlite_file import SourceFile
from nimad.state import ledger, quarantine
from nimad.target import row_counts, upsert, vector_extension
from nimad.target.database import Database, open_database
from nimad.worker.engine_limits import limits_of
from nimad.worker.identity import recognize
from nimad.worker.protocol import Job, Late
from nimad.worker.sync import detect, new_columns
from nimad.worker.sync.detect import Candidates, Keys, Notebook
from nimad.worker.sync.merge import Merge

#: Bytes of a log that is left to the next one who opens the file: replaying it takes that one some 50 ms.
LOG_LIMIT = 2 * 1024**2

Facts = dict[str, Any]


def catch_up(job: Job, module: ModuleType) -> Facts:
    """Bring what is new, changed or gone to the target; without anything of it, the target is not even opened."""
    asked, path = job.late or Late(), Path(job.ledger)
    if asked.strange and not _is_known(job, module):
        path.unlink(missing_ok=True)  # it tells of another target
    notes, noted = ledger.read_notes(path), ledger.exists(path)
    lacking: Keys = {}
    if asked.thorough and noted:
        job, lacking = _compared(job, module, notes)
        asked = job.late or asked
    found = detect.search(job, notes, lacking)
    if found.damage:
        return {"refused": "damaged", "why": found.damage}
    if shrunk := _shrunk(found, notes, asked.removed):
        return {"refused": "shrunk", **shrunk}
    if found.nothing and not found.strays and (asked.keep_log or not has_log(job.target_path())):
        return {"opened": False, "since": found.since}
    return {"since": found.since, **_brought(job, module, found, notes, noted=noted)}


def _brought(job: Job, module: ModuleType, found: Candidates, notes: Notebook, *, noted: bool) -> Facts:
    """Open the target, and bring what was found."""
    with open_database(module, job.target_path(), limits_of(job)) as database:
        if row_counts.frees_twice(database):
            database.leave_no_log()
            return {"refused": "free pages"}
        schema, unfit = new_columns.settle(database, job.needs(), SourceFile(job.source_path()))
        if unfit:
            database.leave_no_log()
            return {"refused": "columns", "columns": [asdict(each) for each in unfit]}
        job = replace(job, schema=schema)
        indexed = upsert.indexed(database)
        if indexed:
            try:
                vector_extension.load(database, job.extension)
            except RuntimeError as error:
                database.leave_no_log()
                return {"refused": "extension", "why": " ".join(str(error).split())}
        merge = Merge(job, database, notes, noted=noted, indexed=indexed)
        merge.rejects += found.strays
        _apply(job, merge, found)
        _close(job, database, keep=(job.late or Late()).keep_log and not indexed)
    rejected = quarantine.add(Path(job.quarantine), merge.rejects)
    aside = [ledger.packed_aside(table, rows) for table, rows in merge.aside.items()]
    ledger.append(Path(job.ledger), b"".join(aside))
    return {
        "opened": True,
        "rejected": rejected,
        "aside": {table: sorted(rows) for table, rows in merge.aside.items()},
        "dimension": schema.dimension,
        **merge.to_json(),
    }


def _compared(job: Job, module: ModuleType, notes: Notebook) -> tuple[Job, Keys]:
    """See which noted rows the target lacks: the agent took them out, or the target lost what had been brought.

    What the agent took out is noted, and stays out unless SQLite changes it. More than an agent takes out in passing is
    an older copy of the target, or a log that is gone: then everything is compared, and brought again.
    """
    asked, lacking = job.late or Late(), _lacking(job, module, notes)
    lost = asked.distrust or any(
        len(keys) > deleted_in_passing(len(notes[table].digests)) for table, keys in lacking.items()
    )
    if lost:
        return replace(job, late=replace(asked, distrust=True)), lacking
    absent = {table: {key: notes[table].digests[key] for key in keys} for table, keys in lacking.items()}
    ledger.append(Path(job.ledger), b"".join(ledger.packed_aside(table, {}, rows) for table, rows in absent.items()))
    for table, rows in absent.items():
        notes[table].leave_out(rows)
    return job, {}


def _is_known(job: Job, module: ModuleType) -> bool:
    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        return recognize.is_ledger_of(database, ledger.read_notes(Path(job.ledger)))


def _lacking(job: Job, module: ModuleType, notes: Notebook) -> Keys:
    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        return recognize.lacking(database, notes)


def _shrunk(found: Candidates, notes: Notebook, removed: Mapping[str, int]) -> Facts:
    """Which table lost more of what was copied than an agent deletes in passing, now and before; or all of it."""
    for table, keys in found.gone.items():
        noted, before = len(notes[table].digests), removed.get(table, 0)
        allowed = deleted_in_passing(noted + before)
        if keys and (before + len(keys) > allowed or len(keys) >= noted):
            return {"table": table, "lost": len(keys), "noted": noted, "before": before, "since": found.since}
    return {}


def _apply(job: Job, merge: Merge, found: Candidates) -> None:
    merge.remove(found.gone, found.left)
    if merge.removes:  # in a transaction of their own: only then are their ids free
        _write(job, merge)
    for rows in _parts(job, found):
        if NODES in rows:
            merge.nodes(rows[NODES])
        if EDGES in rows:
            merge.edges(rows[EDGES])
        if TURNS in rows:
            merge.turns(rows[TURNS])
        _write(job, merge)


def _write(job: Job, merge: Merge) -> None:
    """One transaction. What it is to add, and what gives way, is noted before."""
    quarantine.add(Path(job.conflicts), merge.conflicts)
    merge.conflicts = []
    table = job.needs().table
    plans = [ledger.packed_plans(table(name), rows) for name, rows in merge.plans.items()]
    plans += [ledger.packed_changes(table(name), rows) for name, rows in merge.changes.items()]
    ledger.append(Path(job.ledger), b"".join(plans))
    with merge.database.transaction():
        merge.write()


def _parts(job: Job, found: Candidates) -> Iterator[Mapping[str, Rows]]:
    """The rows of each transaction: one where they fit, or else all nodes but the last ones before the rest."""
    if found.rows is not None:
        yield found.rows
        return
    source, size = SourceFile(job.source_path()), min(detect.ROWS, job.chunk_rows)
    cut = {name: [ids[at : at + size] for at in range(0, len(ids), size)] for name, ids in found.ids.items()}
    nodes = cut.pop(NODES)
    before, last = nodes[:-1], nodes[-1:]
    parts = [{NODES: ids} for ids in before]
    parts += [
        {name: ids for name, ids in zip((NODES, EDGES, TURNS), each, strict=True) if ids}
        for each in zip_longest(last, cut.get(EDGES, []), cut.get(TURNS, []))
    ]
    for part in parts:
        yield source.read(
            lambda c, part=part: {  # type: ignore[misc]
                name: source_rows.read_ids(c, job.needs().table(name), ids) for name, ids in part.items()
            }
        )


def _close(job: Job, database: Database, *, keep: bool) -> None:
    """Leave the log where it may stay and is small; otherwise take it in."""
    size = sum(log.stat().st_size for log in logs(job.target_path()))
    if size and not (keep and size < LOG_LIMIT):
        database.checkpoint()
    database.leave_no_log()
