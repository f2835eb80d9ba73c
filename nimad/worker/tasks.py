"""What a worker can be asked to do, task by task."""

import re
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from nimad.disk import has_log
from nimad.source import batch
from nimad.source import rows as source_rows
from nimad.source.file import SourceFile
from nimad.source.rows import Judged, Reject
from nimad.source.schema import EDGES, NODES
from nimad.target import catalog, compacting, counting, loading, merging, vectors
from nimad.target import schema as target_schema
from nimad.target.database import open_database
from nimad.target.engine import Engine, has_arrow
from nimad.worker import known, load, quarantine, trial, verifying
from nimad.worker.job import Failure, Job, JobError, Task
from nimad.worker.judging import judged_ids, judged_range, judged_strays
from nimad.worker.limits import bound_address_space, limits_of

Facts = dict[str, Any]


def perform(job: Job, engine: tuple[ModuleType, Engine]) -> Facts:
    """Do `job` and return the facts for its answer."""
    module, found = engine
    bound_address_space(job)
    started = time.monotonic()
    facts = _TASKS[job.task](job, module)
    return {
        **facts,
        "engine": found.to_json(),
        "seconds": round(time.monotonic() - started, 3),
        "peak_rss": _peak_rss(),
    }


def _peak_rss() -> int:
    """The most memory that this process had, in bytes. Not `ru_maxrss`: that begins with what the parent has."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _probe(_: Job, __: ModuleType) -> Facts:
    return {}


def _convert(job: Job, _: ModuleType) -> Facts:
    """Do what loading does with a range, all but handing it to the engine."""
    judged = judged_range(job)
    rows = (batch.of_edges if judged.rows.table.name == EDGES else batch.of_nodes)(judged, job.needs())
    if has_arrow():
        from nimad.source import arrow

        arrow.table(rows)
    judged, dangling = _foreseen_dangling(job, judged)
    rejects = [*judged.rejects, *judged_strays(job), *dangling]
    lost = {reject.id for reject in rejects if reject.part == "row"} - set(judged.rows.keys)
    reasons = [(reject.table, reject.id, reject.part, reject.reason) for reject in rejects]
    return {
        "rejects": [list(map(_plain, reason)) for reason in reasons],
        "lost": sorted(key for key in lost if isinstance(key, int)),
    }


def _foreseen_dangling(job: Job, judged: Judged) -> tuple[Judged, list[Reject]]:
    """Edges and links whose node will not be there, and the rest: `job.removed` are those that go to quarantine."""
    table = judged.rows.table.name
    if table == NODES:
        return judged, []
    ids = SourceFile(job.source_path()).read(lambda c: source_rows.read_keys(c, job.needs().nodes))
    nodes = ids - set(job.removed)
    return loading.with_both_ends(judged, nodes) if table == EDGES else (judged, loading.link_pairs(judged, nodes)[1])


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, str)) else repr(value)


def _count(job: Job, module: ModuleType) -> Facts:
    replays = job.writable and has_log(job.target_path())
    with open_database(module, job.target_path(), limits_of(job), read_only=not job.writable) as database:
        if replays:
            database.checkpoint()
        if job.writable:
            database.leave_no_log()
        if job.unfinished:
            load.check_free_pages(database)
        counts = counting.count(database)
        differences = target_schema.differences(database, job.schema) if job.schema else []
        previous = load.held(database, job.previous)
        free, page = counting.page_use(database)
        indexed = merging.indexed(database)
    if differences:
        raise JobError(Failure.SCHEMA, "; ".join(differences))
    found = {"counts": counting.to_json(counts), "previous": previous, "indexed": indexed}
    return {**found, "free_bytes": free * page}


def _verify(job: Job, module: ModuleType) -> Facts:
    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        found = verifying.verify(job, database)
        counts = counting.count(database)
        free, page = counting.page_use(database)
    return {**found.to_json(), "counts": counting.to_json(counts), "free_bytes": free * page}


def _try(job: Job, module: ModuleType) -> Facts:
    judged = None
    if job.range or job.ids:
        judged = judged_range(job) if job.range else judged_ids(job, job.needs())
    with open_database(module, job.target_path(), limits_of(job)) as database:
        trial.load(database, job.needs(), judged)
    return {}


def _write_isolated(job: Job, _: ModuleType) -> Facts:
    return {"rejected": quarantine.add(Path(job.quarantine), judged_ids(job, job.needs()).rejects)}


def _compact(job: Job, module: ModuleType) -> Facts:
    counts = compacting.compact(module, job.target_path(), Path(job.copy_to), limits_of(job))
    return {"counts": counting.to_json(counts)}


def _index(job: Job, module: ModuleType) -> Facts:
    return {"counts": counting.to_json(vectors.build(module, job.target_path(), job.extension, limits_of(job)))}


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


def _holds(job: Job, module: ModuleType) -> Facts:
    """How many rows all tables have together, whoever made them."""
    from nimad.worker import comparing

    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        return {"rows": sum(comparing.count(database, name) for name in catalog.tables(database))}


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

    return catching_up.catch_up(job, module)


def _confirm(job: Job, module: ModuleType) -> Facts:
    from nimad.worker import confirming

    return confirming.confirm(job, module)


def _compare(job: Job, module: ModuleType) -> Facts:
    from nimad.worker import comparing

    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        return comparing.Comparison(job, database).run()


def _unpaired(job: Job, module: ModuleType) -> Facts:
    from nimad.worker import unpaired

    return unpaired.unpaired(job, module)


def _carry(job: Job, module: ModuleType) -> Facts:
    from nimad.worker import carrying, comparing

    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        compared = comparing.Comparison(job, database)
        facts = compared.run()
        with carrying.Record(Path(job.copy_to) if job.copy_to else None) as record:
            return {**facts, **carrying.Carrying(compared, record).run()}


def _export(job: Job, module: ModuleType) -> Facts:
    from nimad.worker import own_export

    return own_export.export(job, module)


def _import(job: Job, module: ModuleType) -> Facts:
    from nimad.worker import own_import

    return own_import.take_in(job, module)


def _find(job: Job, module: ModuleType) -> Facts:
    from nimad.worker import own_import

    return own_import.find(job, module)


def _same(job: Job, module: ModuleType) -> Facts:
    from nimad.worker import same

    return same.same(job, module)


_TASKS: Mapping[Task, Callable[[Job, ModuleType], Facts]] = {
    Task.PROBE: _probe,
    Task.CONVERT: _convert,
    Task.COUNT: _count,
    Task.LOAD: load.load,
    Task.VERIFY: _verify,
    Task.MEND: load.mend,
    Task.TRY: _try,
    Task.SET_ASIDE: _write_isolated,
    Task.COMPACT: _compact,
    Task.INDEX: _index,
    Task.SEARCH: _search,
    Task.VITALS: _vitals,
    Task.HOLDS: _holds,
    Task.TIME: _time,
    Task.CATCH_UP: _catch_up,
    Task.CONFIRM: _confirm,
    Task.COMPARE: _compare,
    Task.UNPAIRED: _unpaired,
    Task.CARRY: _carry,
    Task.EXPORT: _export,
    Task.IMPORT: _import,
    Task.FIND: _find,
    Task.SAME: _same,
    Task.KNOWN: known.known,
}
