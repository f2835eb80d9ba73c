"""Loading of a job's rows into the target, and refreshing rows that are there."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from nimad.source import batch
from nimad.source.batch import Batch
from nimad.source.ranges import Range
from nimad.source.rows import ConvertedRows, Reject
from nimad.source.schema import EDGES, LINKS, NODES, TARGET_TABLES, TURNS, Schema
from nimad.state import ledger, quarantine
from nimad.target import copy_rows, read_back, row_counts
from nimad.target import ddl as target_schema
from nimad.target.database import Database, open_database
from nimad.target.engine import has_arrow
from nimad.worker.convert import convert_ids, convert_range, convert_slices, convert_strays
from nimad.worker.engine_limits import limits_of
from nimad.worker.identity import natural_key
from nimad.worker.protocol import Failure, Job, JobError

_TABLES_OF: Mapping[str, tuple[str, ...]] = {
    NODES: (target_schema.NODE_TABLE,),
    EDGES: (target_schema.EDGE_TABLE,),
    TURNS: (target_schema.TURN_TABLE, *target_schema.LINK_TABLES),
}


def load(job: Job, module: ModuleType) -> dict[str, Any]:
    """Put ranges into the target, one after the other: what is there already stays, the rest is copied."""
    first = _judged(job)
    with open_database(module, job.target_path(), limits_of(job)) as database:
        check_free_pages(database)
        target_schema.create(database, job.needs(), target_schema.agent_tables(module.__name__, job.rebuilds))
        found = row_counts.count(database)
        previous = held(database, job.previous)
        parts = [_load_range(job, database, first)]
        for wanted in job.then:
            part = replace(job, range=wanted, strays=False)
            parts.append(_load_range(part, database, _judged(part)))
        free, page = row_counts.page_use(database)
    return {
        "found": row_counts.to_json(found),
        "previous": previous,
        "complaint": database.complaint,
        "free_bytes": free * page,
        "parts": parts,
    }


def check_free_pages(database: Database) -> None:
    """Raise where what is written next would overwrite rows."""
    if row_counts.frees_twice(database):
        raise JobError(Failure.FREE_PAGES, "the engine lists free pages of it twice, and would overwrite rows")


def _judged(job: Job) -> tuple[ConvertedRows | None, list[Reject]]:
    """The rows of the job's range, None where they are not to be in memory all at once; and its strays."""
    return None if _is_large(job) else convert_range(job), convert_strays(job)


def _load_range(job: Job, database: Database, judged: tuple[ConvertedRows | None, list[Reject]]) -> dict[str, Any]:
    began = time.monotonic()
    rows, rejects = judged
    if rows is None:
        loaded = _load_slices(job, database, rejects)
    else:
        loaded = _LOADERS[rows.rows.table.name](job, database, rows, rejects)
    return {**asdict(loaded), "seconds": round(time.monotonic() - began, 3)}


def refresh(job: Job, module: ModuleType) -> dict[str, Any]:
    """Bring rows up to date: nodes in place, because their edges hang on them; others taken out and put in."""
    schema = job.needs()
    judged = convert_ids(job, schema)
    gone = sorted({*job.removed, *(set(job.ids) - set(judged.rows.keys))})
    with open_database(module, job.target_path(), limits_of(job)) as database:
        if job.table == NODES:
            copy_rows.remove(database, target_schema.NODE_TABLE, gone)
            there = read_back.keys(database, target_schema.NODE_TABLE, list(job.ids))
            changed = copy_rows.select(judged, [key in there for key in judged.rows.keys])
            copy_rows.update_nodes(database, schema, changed)
            # After the update, which the log covers: a kill in between leaves the digest of what was there before.
            _note(job, changed)
        else:
            copy_rows.remove(database, TARGET_TABLES[job.table], [*gone, *judged.rows.keys])
        _LOADERS[job.table](job, database, judged, ())
    return {"refreshed": len(judged.rows), "removed": len(gone)}


def held(database: Database, wanted: Sequence[Range]) -> dict[str, int]:
    """How many rows of each range its tables have: the word on whether the batch before arrived."""
    return {name: len(read_back.keys(database, name, each)) for each in wanted for name in _TABLES_OF[each.table]}


@dataclass
class Loaded:
    """By target table: rows that were copied, and rows of the range that should be there now."""

    rejected: list[str]  # keys of the quarantine's lines for the range
    loaded: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)

    def note(self, table: str, there: int, copied: int) -> None:
        self.loaded[table] = copied
        self.held[table] = there + copied


def _set_aside(job: Job, rejects: Sequence[Reject]) -> Loaded:
    if rejects and job.strict:
        first = rejects[0]
        raise JobError(Failure.STRICT, f"{first.table} id {first.id}: {first.reason}")
    return Loaded(quarantine.add(Path(job.quarantine), rejects))


def _note(job: Job, judged: ConvertedRows) -> None:
    ledger.append(Path(job.ledger), _noted(judged))


def _noted(judged: ConvertedRows) -> bytes:
    """What the ledger is to say of rows."""
    return ledger.of_rows(judged, natural_key.fingerprints_of(judged.rows.table, judged.rows.values))


def _there(job: Job, database: Database, table: str, judged: ConvertedRows | None = None) -> set[int]:
    """Which keys of the job's range, or else of its rows, a table has."""
    return read_back.keys(database, table, job.range or list(judged.rows.keys if judged else ()))


_Copy = Callable[[Database, Schema, ConvertedRows], int]


def _load_fresh(job: Job, database: Database, judged: ConvertedRows, copy: _Copy, loaded: Loaded) -> None:
    """Copy those rows that are not in their table yet, noting each in the ledger first."""
    table = TARGET_TABLES[judged.rows.table.name]
    there = _there(job, database, table, judged)
    fresh = copy_rows.without(judged, there)
    _note(job, fresh)
    loaded.note(table, len(there), copy(database, job.needs(), fresh))


def _load_nodes(job: Job, database: Database, judged: ConvertedRows, strays: Sequence[Reject]) -> Loaded:
    loaded = _set_aside(job, [*judged.rejects, *strays])
    _load_fresh(job, database, judged, copy_rows.load_nodes, loaded)
    return loaded


def _is_large(job: Job) -> bool:
    """Whether a range of nodes weighs so much that its rows are not to be in memory all at once, and need not be."""
    wanted = job.range
    if not job.spool or wanted is None or wanted.table != NODES or wanted.bytes <= job.chunk_bytes or not has_arrow():
        return False
    from nimad.source import arrow

    return arrow.can_spool(job.target_path().parent)


def _load_slices(job: Job, database: Database, rejects: Sequence[Reject]) -> Loaded:
    """Load a large range of nodes with one COPY, for which its rows are read, judged and noted slice by slice."""
    schema = job.needs()
    loaded = _set_aside(job, rejects)
    there = _there(job, database, target_schema.NODE_TABLE)

    def batches() -> Iterator[Batch]:
        noted = []
        for judged in convert_slices(job):
            loaded.rejected.extend(_set_aside(job, judged.rejects).rejected)
            fresh = copy_rows.without(judged, there)
            noted.append(_noted(fresh))
            yield batch.of_nodes(fresh, schema)
        ledger.append(Path(job.ledger), b"".join(noted))  # at once: each time waits for the disk

    folder = job.target_path().parent
    loaded.note(target_schema.NODE_TABLE, len(there), copy_rows.load_slices(database, schema.nodes, batches(), folder))
    return loaded


def _load_edges(job: Job, database: Database, judged: ConvertedRows, strays: Sequence[Reject]) -> Loaded:
    connected, dangling = copy_rows.with_both_ends(judged, read_back.node_ids(database))
    loaded = _set_aside(job, [*connected.rejects, *strays, *dangling])
    _load_fresh(job, database, connected, copy_rows.load_edges, loaded)
    return loaded


def _load_turns(job: Job, database: Database, judged: ConvertedRows, strays: Sequence[Reject]) -> Loaded:
    pairs, dangling = copy_rows.link_pairs(judged, read_back.node_ids(database))
    loaded = _set_aside(job, [*judged.rejects, *strays, *dangling])
    _load_fresh(job, database, judged, copy_rows.load_nodes, loaded)
    for link in LINKS.values():
        there = _there(job, database, link, judged)
        missing = [pair for pair in pairs[link] if pair[0] not in there]
        loaded.note(link, len(there), copy_rows.load_links(database, link, missing))
    return loaded


_LOADERS: Mapping[str, Callable[[Job, Database, ConvertedRows, Sequence[Reject]], Loaded]] = {
    NODES: _load_nodes,
    EDGES: _load_edges,
    TURNS: _load_turns,
}


#: The id of the one node of a trial without rows, which shows whether anything can be loaded at all.
CONTROL_ID = 0


def load_alone(database: Database, schema: Schema, judged: ConvertedRows | None) -> None:
    """Load rows, or a node that is nothing but an id. Of nodes at the ends of edges and turns, the id suffices."""
    target_schema.create(database, schema)
    if judged is None:
        copy_rows.load_node_ids(database, [CONTROL_ID])
    elif judged.rows.table.name == NODES:
        copy_rows.load_nodes(database, schema, judged)
    elif judged.rows.table.name == EDGES:
        nodes = _load_ends(database, judged)
        copy_rows.load_edges(database, schema, copy_rows.with_both_ends(judged, nodes)[0])
    else:
        nodes = _load_ends(database, judged)
        copy_rows.load_nodes(database, schema, judged)
        for link, pairs in copy_rows.link_pairs(judged, nodes)[0].items():
            copy_rows.load_links(database, link, pairs)


def _load_ends(database: Database, judged: ConvertedRows) -> set[int]:
    ends = judged.columns[: len(judged.rows.table.ends)]
    nodes = {node for column in ends for node in column if node is not None}
    copy_rows.load_node_ids(database, sorted(nodes))
    return nodes
