"""What a worker can be asked to do, task by task."""

import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from nimad import rights
from nimad.disk import has_log
from nimad.source import batch
from nimad.source import rows as source_rows
from nimad.source.batch import Batch
from nimad.source.file import SourceFile
from nimad.source.ranges import Range
from nimad.source.rows import Judged, Reject, Rows
from nimad.source.schema import EDGES, LINKS, NODES, TARGET_TABLES, TURNS, Schema
from nimad.target import compacting, counting, loading, reading, vectors
from nimad.target import schema as target_schema
from nimad.target.database import Database, open_database
from nimad.target.engine import Engine, has_arrow
from nimad.worker import identity, ledger, quarantine, trial, verifying
from nimad.worker.job import Failure, Job, Task
from nimad.worker.limits import limits_of

Facts = dict[str, Any]


class JobError(Exception):
    """The job cannot be done, for a reason that has a word of its own."""

    def __init__(self, failure: Failure, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.failure = failure
        self.facts = facts


def perform(job: Job, engine: tuple[ModuleType, Engine]) -> Facts:
    """Do `job` and return the facts for its answer."""
    module, found = engine
    if job.target:
        rights.work_for(Path(job.source or job.target), job.target_path())  # before the engine starts its threads
    started = time.monotonic()
    facts = _TASKS[job.task](job, module)
    return {
        **facts,
        "engine": found.to_json(),
        "seconds": round(time.monotonic() - started, 3),
        "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _probe(_: Job, __: ModuleType) -> Facts:
    return {}


def _convert(job: Job, _: ModuleType) -> Facts:
    """Do what loading does with a range, all but handing it to the engine."""
    judged = _read_judged(job)
    rows = (batch.of_edges if judged.rows.table.name == EDGES else batch.of_nodes)(judged, job.needs())
    if has_arrow():
        from nimad.source import arrow

        arrow.table(rows)
    rejects = [*judged.rejects, *_strays(job), *_foreseen_dangling(job, judged)]
    lost = {reject.id for reject in rejects if reject.part == "row"} - set(judged.rows.keys)
    reasons = [(reject.table, reject.id, reject.part, reject.reason) for reject in rejects]
    return {
        "rejects": [list(map(_plain, reason)) for reason in reasons],
        "lost": sorted(key for key in lost if isinstance(key, int)),
    }


def _foreseen_dangling(job: Job, judged: Judged) -> list[Reject]:
    """Edges and links whose node will not be there: `job.removed` are those that go to quarantine."""
    table = judged.rows.table.name
    if table == NODES:
        return []
    ids = SourceFile(job.source_path()).read(lambda c: source_rows.read_keys(c, job.needs().nodes))
    nodes = ids - set(job.removed)
    return loading.with_both_ends(judged, nodes)[1] if table == EDGES else loading.link_pairs(judged, nodes)[1]


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, str)) else repr(value)


def _count(job: Job, module: ModuleType) -> Facts:
    replays = job.writable and has_log(job.target_path())
    with open_database(module, job.target_path(), limits_of(job), read_only=not job.writable) as database:
        if replays:
            database.checkpoint()
        if job.writable:
            database.leave_no_log()
        counts = counting.count(database)
        differences = target_schema.differences(database, job.schema) if job.schema else []
        previous = _held(database, job.previous)
        free, page = counting.page_use(database)
    if differences:
        raise JobError(Failure.SCHEMA, "; ".join(differences))
    return {"counts": _counts(counts), "previous": previous, "free_bytes": free * page}


def _counts(counts: Mapping[str, counting.Count]) -> Facts:
    return {name: asdict(count) for name, count in counts.items()}


def _load(job: Job, module: ModuleType) -> Facts:
    """Put a range into the target: what is there already stays, the rest is copied."""
    large = _is_large(job)
    judged = None if large else _read_judged(job)
    rejects = _strays(job)
    limits = limits_of(replace(job, threads=1) if large else job)  # each thread of a COPY fills columns of its own
    with open_database(module, job.target_path(), limits) as database:
        target_schema.create(database, job.needs())
        found = counting.count(database)
        previous = _held(database, job.previous)
        if judged is None:
            loaded = _load_slices(job, database, rejects)
        else:
            loaded = _LOADERS[judged.rows.table.name](job, database, judged, [*judged.rejects, *rejects])
        free, page = counting.page_use(database)
    return {
        "found": _counts(found),
        "previous": previous,
        "complaint": database.complaint,
        "free_bytes": free * page,
        **asdict(loaded),
    }


def _held(database: Database, wanted: Range | None) -> dict[str, int]:
    """How many rows of a range each table has: the word on whether the batch before arrived."""
    if wanted is None:
        return {}
    return {name: len(reading.keys(database, name, wanted)) for name in _TABLES_OF[wanted.table]}


_TABLES_OF: Mapping[str, tuple[str, ...]] = {
    NODES: (target_schema.NODE_TABLE,),
    EDGES: (target_schema.EDGE_TABLE,),
    TURNS: (target_schema.TURN_TABLE, *target_schema.LINK_TABLES),
}


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


def _hand_over(job: Job, rows: Rows) -> None:
    entries = ((row[0], source_rows.digest(row)) for row in rows.values)
    ledger.append(Path(job.ledger), rows.table.name, entries, identity.marks_of(rows.table, rows.values))


def _there(job: Job, database: Database, table: str, judged: Judged | None = None) -> set[int]:
    """Which keys of the job's range, or else of its rows, a table has."""
    return reading.keys(database, table, job.range or list(judged.rows.keys if judged else ()))


_Copy = Callable[[Database, Schema, Judged], int]


def _load_fresh(job: Job, database: Database, judged: Judged, copy: _Copy, loaded: Loaded) -> None:
    """Copy those rows that are not in their table yet, noting each in the ledger first."""
    table = TARGET_TABLES[judged.rows.table.name]
    there = _there(job, database, table, judged)
    fresh = loading.without(judged, there)
    _hand_over(job, fresh.rows)
    loaded.note(table, len(there), copy(database, job.needs(), fresh))


def _load_nodes(job: Job, database: Database, judged: Judged, rejects: Sequence[Reject]) -> Loaded:
    loaded = _set_aside(job, rejects)
    _load_fresh(job, database, judged, loading.load_nodes, loaded)
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
        for judged in _slices(job):
            loaded.rejected.extend(_set_aside(job, judged.rejects).rejected)
            fresh = loading.without(judged, there)
            _hand_over(job, fresh.rows)
            yield batch.of_nodes(fresh, schema)

    folder = job.target_path().parent
    loaded.note(target_schema.NODE_TABLE, len(there), loading.load_slices(database, schema.nodes, batches(), folder))
    return loaded


def _slices(job: Job) -> Iterator[Judged]:
    """The rows of a large range, as many at a time as verification compares at once."""
    schema, wanted = job.needs(), job.range
    assert wanted is not None  # noqa: S101 - else it is not large
    table, whole = schema.table(wanted.table), (wanted.after, wanted.upto)
    source = SourceFile(job.source_path())
    for _, rows in source_rows.read_slices(source, table, whole, job.chunk_rows, job.chunk_bytes):
        yield source_rows.judge(rows, schema, job.isolated_of(table.name))


def _load_edges(job: Job, database: Database, judged: Judged, rejects: Sequence[Reject]) -> Loaded:
    connected, dangling = loading.with_both_ends(judged, reading.node_ids(database))
    loaded = _set_aside(job, [*rejects, *dangling])
    _load_fresh(job, database, connected, loading.load_edges, loaded)
    return loaded


def _load_turns(job: Job, database: Database, judged: Judged, rejects: Sequence[Reject]) -> Loaded:
    pairs, dangling = loading.link_pairs(judged, reading.node_ids(database))
    loaded = _set_aside(job, [*rejects, *dangling])
    _load_fresh(job, database, judged, loading.load_nodes, loaded)
    for link in LINKS.values():
        there = _there(job, database, link, judged)
        missing = [pair for pair in pairs[link] if pair[0] not in there]
        loaded.note(link, len(there), loading.load_links(database, link, missing))
    return loaded


_LOADERS: Mapping[str, Callable[[Job, Database, Judged, Sequence[Reject]], Loaded]] = {
    NODES: _load_nodes,
    EDGES: _load_edges,
    TURNS: _load_turns,
}


def _read_judged(job: Job) -> Judged:
    schema, wanted = job.needs(), job.range
    if wanted is None:
        raise ValueError(f"a {job.task} job without a range")
    table = schema.table(wanted.table)
    rows = SourceFile(job.source_path()).read(lambda c: source_rows.read_range(c, table, wanted))
    return source_rows.judge(rows, schema, job.isolated_of(table.name))


def _strays(job: Job) -> list[Reject]:
    if not job.strays or job.range is None:
        return []
    table = job.needs().table(job.range.table)
    rows = SourceFile(job.source_path()).read(lambda c: source_rows.read_strays(c, table))
    return source_rows.judge_strays(rows)


def _verify(job: Job, module: ModuleType) -> Facts:
    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        found = verifying.verify(job, database)
        counts = counting.count(database)
        free, page = counting.page_use(database)
    rejected = quarantine.add(Path(job.quarantine), found.rejects) if job.quarantine else []
    return {**found.to_json(), "rejected": rejected, "counts": _counts(counts), "free_bytes": free * page}


def _mend(job: Job, module: ModuleType) -> Facts:
    """Bring rows up to date: nodes in place, because their edges hang on them; others taken out and put in."""
    schema = job.needs()
    judged = _read_ids(job, schema)
    gone = sorted({*job.removed, *(set(job.ids) - set(judged.rows.keys))})
    with open_database(module, job.target_path(), limits_of(job)) as database:
        if job.table == NODES:
            loading.remove(database, target_schema.NODE_TABLE, gone)
            there = reading.keys(database, target_schema.NODE_TABLE, list(job.ids))
            changed = loading.select(judged, [key in there for key in judged.rows.keys])
            loading.update_nodes(database, schema, changed)
            # After the update, which the log covers: a kill in between leaves the digest of what was there before.
            _hand_over(job, changed.rows)
        else:
            loading.remove(database, TARGET_TABLES[job.table], [*gone, *judged.rows.keys])
        _LOADERS[job.table](job, database, judged, list(judged.rejects))
    return {"mended": len(judged.rows), "removed": len(gone)}


def _read_ids(job: Job, schema: Schema) -> Judged:
    table = schema.table(job.table)
    rows = SourceFile(job.source_path()).read(lambda c: source_rows.read_ids(c, table, job.ids))
    return source_rows.judge(rows, schema, job.isolated_of(job.table))


def _try(job: Job, module: ModuleType) -> Facts:
    judged = None
    if job.range or job.ids:
        judged = _read_judged(job) if job.range else _read_ids(job, job.needs())
    with open_database(module, job.target_path(), limits_of(job)) as database:
        trial.load(database, job.needs(), judged)
    return {}


def _write_isolated(job: Job, _: ModuleType) -> Facts:
    return {"rejected": quarantine.add(Path(job.quarantine), _read_ids(job, job.needs()).rejects)}


def _compact(job: Job, module: ModuleType) -> Facts:
    counts = compacting.compact(module, job.target_path(), Path(job.copy_to), limits_of(job))
    return {"counts": _counts(counts)}


def _index(job: Job, module: ModuleType) -> Facts:
    return {"counts": _counts(vectors.build(module, job.target_path(), job.extension, limits_of(job)))}


def _search(job: Job, module: ModuleType) -> Facts:
    from nimad.target import searching

    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        if job.like is not None:
            return searching.like(database, job.like, job.limit)
        return searching.text(database, job.text, job.limit)


def _vitals(job: Job, module: ModuleType) -> Facts:
    from nimad.target import vitals

    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        found = vitals.of(database, job.since_ms)
    return {"vitals": None if found is None else asdict(found)}


def _time(job: Job, module: ModuleType) -> Facts:
    from nimad import stopwatch
    from nimad.target import searching

    began = time.perf_counter()
    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        opened = time.perf_counter() - began
        times = stopwatch.timed(
            lambda word: len(searching.text(database, word, job.limit)["hits"]), job.words, job.limit_s
        )
    return {"open_s": round(opened, 6), "words": [each.to_json() for each in times]}


def _catch_up(job: Job, module: ModuleType) -> Facts:
    from nimad.worker import catching_up

    try:
        return catching_up.catch_up(job, module)
    except catching_up.OtherColumnsError as error:
        raise JobError(Failure.SCHEMA, str(error)) from error


def _confirm(job: Job, module: ModuleType) -> Facts:
    from nimad.worker import confirming

    return confirming.confirm(job, module)


def _compare(job: Job, module: ModuleType) -> Facts:
    from nimad.worker import comparing

    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        return comparing.Comparison(job, database).run()


def _carry(job: Job, module: ModuleType) -> Facts:
    from nimad.worker import carrying, comparing

    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        compared = comparing.Comparison(job, database)
        facts = compared.run()
        with carrying.Record(Path(job.copy_to) if job.copy_to else None) as record:
            return {**facts, **carrying.Carrying(compared, record).run()}


_TASKS: Mapping[Task, Callable[[Job, ModuleType], Facts]] = {
    Task.PROBE: _probe,
    Task.CONVERT: _convert,
    Task.COUNT: _count,
    Task.LOAD: _load,
    Task.VERIFY: _verify,
    Task.MEND: _mend,
    Task.TRY: _try,
    Task.SET_ASIDE: _write_isolated,
    Task.COMPACT: _compact,
    Task.INDEX: _index,
    Task.SEARCH: _search,
    Task.VITALS: _vitals,
    Task.TIME: _time,
    Task.CATCH_UP: _catch_up,
    Task.CONFIRM: _confirm,
    Task.COMPARE: _compare,
    Task.CARRY: _carry,
}
