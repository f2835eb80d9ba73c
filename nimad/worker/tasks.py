"""The tasks of a worker."""

import re
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from nimad.host.disk import has_log
from nimad.source import batch
from nimad.source import rows as source_rows
from nimad.source.rows import ConvertedRows, Reject
from nimad.source.schema import EDGES, NODES
from nimad.source.sqlite_file import SourceFile
from nimad.state import quarantine
from nimad.target import compact_file, copy_rows, row_counts, upsert, vector_extension
from nimad.target import ddl as target_schema
from nimad.target.database import open_database
from nimad.target.engine import Engine, has_arrow
from nimad.worker import load_batch, verify_rows
from nimad.worker.convert import convert_ids, convert_range, convert_strays
from nimad.worker.engine_limits import bound_address_space, limits_of
from nimad.worker.identity import recognize
from nimad.worker.protocol import Failure, Job, JobError, Task

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
    judged = convert_range(job)
    rows = (batch.of_edges if judged.rows.table.name == EDGES else batch.of_nodes)(judged, job.needs())
    if has_arrow():
        from nimad.source import arrow

        arrow.table(rows)
    judged, dangling = _foreseen_dangling(job, judged)
    rejects = [*judged.rejects, *convert_strays(job), *dangling]
    lost = {reject.id for reject in rejects if reject.part == "row"} - set(judged.rows.keys)
    reasons = [(reject.table, reject.id, reject.part, reject.reason) for reject in rejects]
    return {
        "rejects": [list(map(_plain, reason)) for reason in reasons],
        "lost": sorted(key for key in lost if isinstance(key, int)),
    }


def _foreseen_dangling(job: Job, judged: ConvertedRows) -> tuple[ConvertedRows, list[Reject]]:
    """Edges and links whose node will not be there, and the rest: `job.removed` are those that go to quarantine."""
    table = judged.rows.table.name
    if table == NODES:
        return judged, []
    ids = SourceFile(job.source_path()).read(lambda c: source_rows.read_keys(c, job.needs().nodes))
    nodes = ids - set(job.removed)
    return (
        copy_rows.with_both_ends(judged, nodes) if table == EDGES else (judged, copy_rows.link_pairs(judged, nodes)[1])
    )


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
            load_batch.check_free_pages(database)
        counts = row_counts.count(database)
        differences = target_schema.differences(database, job.schema) if job.schema else []
        previous = load_batch.held(database, job.previous)
        free, page = row_counts.page_use(database)
        indexed = upsert.indexed(database)
    if differences:
        raise JobError(Failure.SCHEMA, "; ".join(differences))
    found = {"counts": row_counts.to_json(counts), "previous": previous, "indexed": indexed}
    return {**found, "free_bytes": free * page}


def _verify(job: Job, module: ModuleType) -> Facts:
    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        found = verify_rows.verify(job, database)
        counts = row_counts.count(database)
        free, page = row_counts.page_use(database)
    return {**found.to_json(), "counts": row_counts.to_json(counts), "free_bytes": free * page}


def _trial_load(job: Job, module: ModuleType) -> Facts:
    judged = None
    if job.range or job.ids:
        judged = convert_range(job) if job.range else convert_ids(job, job.needs())
    with open_database(module, job.target_path(), limits_of(job)) as database:
        load_batch.load_alone(database, job.needs(), judged)
    return {}


def _quarantine(job: Job, _: ModuleType) -> Facts:
    return {"rejected": quarantine.add(Path(job.quarantine), convert_ids(job, job.needs()).rejects)}


def _compact(job: Job, module: ModuleType) -> Facts:
    counts = compact_file.compact(module, job.target_path(), Path(job.copy_to), limits_of(job))
    return {"counts": row_counts.to_json(counts)}


def _index(job: Job, module: ModuleType) -> Facts:
    return {
        "counts": row_counts.to_json(vector_extension.build(module, job.target_path(), job.extension, limits_of(job)))
    }


def _search(job: Job, module: ModuleType) -> Facts:
    from nimad.target import search_target

    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        if job.like is not None:
            return search_target.like(database, job.like, job.limit)
        return search_target.text(database, job.text, job.limit)


def _stats(job: Job, module: ModuleType) -> Facts:
    from nimad.target import target_stats

    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        found = target_stats.stats_of(database, job.since_ms)
    return {"vitals": None if found is None else asdict(found)}


def _has_rows(job: Job, module: ModuleType) -> Facts:
    """How many rows all tables have together, whoever made them."""
    from nimad.worker.compare import compare_rows

    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        return {"rows": sum(compare_rows.count(database, name) for name in database.tables())}


def _sync(job: Job, module: ModuleType) -> Facts:
    from nimad.worker.sync import apply

    return apply.catch_up(job, module)


def _confirm(job: Job, module: ModuleType) -> Facts:
    from nimad.worker.sync import confirm

    return confirm.confirm(job, module)


def _compare(job: Job, module: ModuleType) -> Facts:
    from nimad.worker.compare import compare_rows

    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        return compare_rows.RowComparison(job, database).run()


def _count_unmatched(job: Job, module: ModuleType) -> Facts:
    from nimad.worker.compare import unmatched

    return unmatched.unpaired(job, module)


def _export_rollback(job: Job, module: ModuleType) -> Facts:
    from nimad.worker import rollback_export
    from nimad.worker.compare import compare_rows

    with open_database(module, job.target_path(), limits_of(job), read_only=True) as database:
        compared = compare_rows.RowComparison(job, database)
        facts = compared.run()
        with rollback_export.ExportFile(Path(job.copy_to) if job.copy_to else None) as record:
            return {**facts, **rollback_export.RollbackExport(compared, record).run()}


def _export_target_only(job: Job, module: ModuleType) -> Facts:
    from nimad.worker.target_only import export

    return export.export(job, module)


def _restore_target_only(job: Job, module: ModuleType) -> Facts:
    from nimad.worker.target_only import restore

    return restore.take_in(job, module)


def _confirm_restored(job: Job, module: ModuleType) -> Facts:
    from nimad.worker.target_only import restore

    return restore.find(job, module)


def _compare_targets(job: Job, module: ModuleType) -> Facts:
    from nimad.worker.compare import equal_files

    return equal_files.same(job, module)


_TASKS: Mapping[Task, Callable[[Job, ModuleType], Facts]] = {
    Task.PROBE: _probe,
    Task.CONVERT: _convert,
    Task.COUNT: _count,
    Task.LOAD: load_batch.load,
    Task.VERIFY: _verify,
    Task.REFRESH: load_batch.refresh,
    Task.TRIAL_LOAD: _trial_load,
    Task.QUARANTINE: _quarantine,
    Task.COMPACT: _compact,
    Task.INDEX: _index,
    Task.SEARCH: _search,
    Task.STATS: _stats,
    Task.HAS_ROWS: _has_rows,
    Task.SYNC: _sync,
    Task.CONFIRM: _confirm,
    Task.COMPARE: _compare,
    Task.COUNT_UNMATCHED: _count_unmatched,
    Task.EXPORT_ROLLBACK: _export_rollback,
    Task.EXPORT_TARGET_ONLY: _export_target_only,
    Task.RESTORE_TARGET_ONLY: _restore_target_only,
    Task.CONFIRM_RESTORED: _confirm_restored,
    Task.COMPARE_TARGETS: _compare_targets,
    Task.RECOGNIZE: recognize.recognize,
}
