"""Messages of a run: the lines of the guide, and those between them."""

from collections.abc import Callable, Mapping
from typing import Any

from nimad.events import run as e
from nimad.events.result import Result
from nimad.plural import number_of, set_aside
from nimad.report.level import Level, Lines
from nimad.report.messages import carry_over_messages, service_messages, sync_messages
from nimad.source.ranges import shown

RULE = "=" * 60
TITLE = "NIMA Memory Migration: SQLite → LadybugDB"
SUMMARY_TITLE = "Migration Summary"
#: Ids that a line of the summary names; the quarantine file has them all.
NAMED_IDS = 100
#: Of what a hook says: its last lines, and characters of each.
HOOK_LINES, HOOK_CHARS = 20, 300
_MB = 1_000_000


def heading(event: e.Event) -> str | None:
    """The title that goes over an event's lines, if it opens a part of the output."""
    if isinstance(event, e.Analyzing):
        return TITLE
    return SUMMARY_TITLE if isinstance(event, e.Finished) else None


def lines(event: e.Event) -> Lines:
    """The lines for an event, with their levels; none for an event that needs no words."""
    words = _WORDS.get(type(event))
    return words(event) if words else iter(())


def _analyzing(_: e.Analyzing) -> Lines:
    yield Level.INFO, "Analyzing source database..."


def _analyzed(event: e.Analyzed) -> Lines:
    yield Level.INFO, f"Source: {event.nodes} nodes, {_megabytes(event.size)}"
    yield Level.INFO, f"Layers: {dict(event.layers)}"
    if event.edges or event.turns:
        yield Level.INFO, f"Also: {event.edges} edges, {event.turns} turns"
    for name, rows, why in event.left_out:
        counted = "rows that cannot be counted here" if rows is None else f"{rows} rows"
        yield Level.INFO, f"Left out: {name} ({counted}; {why})"


def _planned(event: e.Planned) -> Lines:
    yield Level.INFO, f"Batch size: {event.batch_size} nodes"
    yield Level.INFO, f"Total batches: {event.total_batches}"
    for column, default, count in event.defaults:
        had = number_of(count, "memory had", "memories had")
        yield Level.INFO, f"{had} no {column}: {str(default).lower()}, as the agent reads it"
    for stored, count in event.embeddings.items():
        yield (
            Level.INFO,
            f"{number_of(count, 'embedding is', 'embeddings are')} {stored}: converted to floats of 32 bits",
        )
    if event.unknown:
        unknown = number_of(event.unknown, "embedding makes", "embeddings make")
        yield Level.WARN, f"{unknown} no sense as floats of 16, 32 or 64 bits, and will be set aside"


def _engine_chosen(event: e.EngineChosen) -> Lines:
    for reader in event.readers:
        yield Level.INFO, f"Reader: {reader}"
    for problem in event.unusable:
        yield Level.WARN, f"Not taken for a reader: {problem}"
    for warning in event.warnings:
        yield Level.WARN, warning
    yield Level.INFO, f"Writing with {event.engine} (storage version {event.storage_version}): {event.why}"


def _reader_checked(event: e.ReaderChecked) -> Lines:
    yield Level.INFO, f"The reader opens it and counts {event.nodes} nodes: {event.reader}"


def _started(event: e.Started) -> Lines:
    found = event.found.get("MemoryNode", 0)
    if event.start_offset:
        yield (
            Level.INFO,
            f"Start offset {event.start_offset}: {found} nodes are counted in the target; going on from there",
        )
    if event.found:
        yield Level.INFO, f"Going on with {event.staging}: {found} nodes are there"
    yield Level.INFO, "Starting migration..."


def _batch_loaded(event: e.BatchLoaded) -> Lines:
    share = 100.0 * event.done / event.of if event.of else 100.0
    if event.table == "memory_nodes":
        yield (
            Level.INFO,
            f"Batch {event.number}/{event.total} ({share:.1f}% complete, ETA: {event.eta_s:.0f}s)",
        )
    else:
        yield Level.DEBUG, f"{_NOUNS[event.table]} batch {event.number}/{event.total} ({share:.1f}% complete)"


def _batch_failed(event: e.BatchFailed) -> Lines:
    message = event.message.rstrip(".")
    if event.delay_s is None:
        attempts = "1 attempt" if event.attempt == 1 else f"{event.attempt} attempts"
        yield Level.ERROR, f"Batch failed after {attempts}: {message} (at offset {event.offset})"
    else:
        retry = f"Retrying in {event.delay_s:.0f}s..."
        yield Level.WARN, f"Batch failed (attempt {event.attempt}/{event.attempts}): {message}. {retry}"


def _batch_recovered(event: e.BatchRecovered) -> Lines:
    yield Level.INFO, f"Batch succeeded on retry {event.attempt}"


def _batch_lost(event: e.BatchLost) -> Lines:
    noun = _NOUNS[event.table].lower()
    yield (
        Level.WARN,
        f"A batch of {event.expected} {noun} was written, but {event.counted} are found; doing it again",
    )


def _engine_complained(event: e.EngineComplained) -> Lines:
    yield (
        Level.WARN,
        f"The engine reports an error after writing; the next process counts what arrived: {event.message}",
    )


def _pool_raised(event: e.PoolRaised) -> Lines:
    yield Level.INFO, f"The engine's pool was too small; the next worker has {_megabytes(event.pool)}"


def _isolating(event: e.Isolating) -> Lines:
    yield Level.WARN, f"Looking for what stops this batch among {event.rows} {_NOUNS[event.table].lower()}..."


def _isolated(event: e.Isolated) -> Lines:
    yield (
        Level.WARN,
        f"{event.table} id {event.id}{'' if event.part == 'row' else f' ({event.part})'} goes to quarantine: "
        f"{event.attempts} workers failed on it ({event.reason})",
    )


def _set_aside(event: e.SetAside) -> Lines:
    names = ", ".join(event.files)
    if event.whole:
        yield Level.WARN, f"The unfinished target cannot be used ({event.message}); kept as {names}, starting over"
    else:
        yield (
            Level.WARN,
            f"The last worker's log cannot be read ({event.message}); set aside as {names}, going on from the "
            "last checkpoint",
        )


def _salvaged(event: e.Salvaged) -> Lines:
    yield Level.WARN, f"Pages of the source are damaged: {event.damage[0]}"
    rows = ", ".join(f"{count} {_NOUNS[table].lower()}" for table, count in event.rows.items())
    yield Level.WARN, f"What can be read goes through: {rows}"
    for table, ranges in event.lost.items():
        for first, last in ranges:
            yield Level.WARN, f"Cannot be read: {table} id {shown(first, last)}"


def _paused(event: e.Paused) -> Lines:
    yield Level.WARN, f"Paused; go on with: {event.command}"


def _resumed(_: e.Resumed) -> Lines:
    yield Level.INFO, "Going on"


def _table_loaded(event: e.TableLoaded) -> Lines:
    if event.table != "memory_nodes":
        yield Level.INFO, f"{_NOUNS[event.table]}: {event.rows} of {event.of}"


def _compacted(event: e.Compacted) -> Lines:
    yield Level.INFO, f"Compacted: {_megabytes(event.before)} to {_megabytes(event.after)}"


def _not_compacted(event: e.NotCompacted) -> Lines:
    later = f"; once there is more, make a smaller one with: {event.command}" if event.command else ""
    yield Level.WARN, f"Not compacted, the file stays larger than it need be: {event.why}{later}"


def _indexed(_: e.Indexed) -> Lines:
    yield Level.INFO, "Vector index: embedding_idx is made, and answers"


def _not_indexed(event: e.NotIndexed) -> Lines:
    yield (
        Level.INFO,
        f"No vector index: {event.why}. Exact search by embedding works without; make one later with: {event.command}",
    )


def _verifying(event: e.Verifying) -> Lines:
    if event.level == "none":
        yield Level.WARN, "Not verified: the rows were counted, but not compared (--verify none)"
        return
    what = "every row and column" if event.level == "full" else "the counts"
    yield Level.INFO, f"Verifying {what} against the source..."


def _written_again(event: e.WrittenAgain) -> Lines:
    values = number_of(event.values, "value is another", "values are others")
    yield Level.WARN, f"{values} in the target than was written ({'; '.join(event.examples)}); writing again"


def _refused(event: e.Refused) -> Lines:
    yield Level.WARN, f"{event.table} id {event.id} ({event.part}) goes to quarantine: {event.reason}"


def _verified(event: e.Verified) -> Lines:
    counts = ", ".join(f"{rows} {_NOUNS[table].lower()}" for table, rows in event.compared.items())
    yield Level.INFO, f"Verified: {counts} ({event.seconds:.1f}s)"
    if event.refreshed:
        yield (
            Level.INFO,
            f"Brought up to date: {event.refreshed} rows that changed in the source since they were copied",
        )
    if event.removed:
        yield Level.INFO, f"Taken out: {event.removed} rows that were deleted from the source since"


def _quarantined(event: e.Quarantined) -> Lines:
    yield (
        Level.WARN,
        f"Quarantined: {set_aside(event.rows, event.parts, event.ranges)}, listed in {event.file}",
    )
    for what, count in event.converted.items():
        converted = number_of(count, "value is", "values are")
        yield Level.WARN, f"Converted: {converted} not as in SQLite, the originals are in quarantine: {what}"
    for example in event.examples:
        yield Level.WARN, f"Quarantined: {example}"
    more = event.rows + event.parts + event.ranges - len(event.examples)
    if more > 0:
        yield Level.WARN, f"Quarantined: and {more} more"


def _late_arrivals(event: e.LateArrivals) -> Lines:
    yield (
        Level.WARN,
        f"{event.rows} memories reached the source after this run began and are not in the target; "
        "the same command, typed again, brings them",
    )


def _published(event: e.Published) -> Lines:
    if event.backup:
        yield Level.INFO, f"Kept what was there before as {event.backup}"
    yield Level.INFO, f"Published: {event.target} ({_megabytes(event.size)})"


def _hook_ran(event: e.HookRan) -> Lines:
    for line in event.output.splitlines()[-HOOK_LINES:]:
        yield Level.INFO, f"{event.hook} says: {line[:HOOK_CHARS]}"
    if event.why:
        yield Level.WARN, f"Hook {event.hook}: {event.why}"
    elif event.code:
        yield Level.WARN, f"Hook {event.hook} ended with {event.code}; that changes nothing of the run"
    else:
        yield Level.INFO, f"Hook {event.hook}: done ({event.seconds:.1f}s)"


def _dry_run(event: e.DryRun) -> Lines:
    facts, plan = event.facts, event.facts["plan"]
    rows = ", ".join(f"{count} {_NOUNS[table].lower()}" for table, count in facts["rows"].items())
    yield Level.INFO, f"Dry run: read and converted {rows}; embeddings of {facts['dimension']} floats"
    for table, columns in facts["schema"].items():
        yield Level.INFO, f"Columns of {table}: {', '.join(columns)}"
    yield Level.INFO, f"Target: {event.target}"
    yield (
        Level.INFO,
        f"Batches: {plan['total_batches']} of nodes, from {plan['first_batch']} up to {plan['largest_batch']} rows "
        f"and {_megabytes(plan['batch_bytes'])}",
    )
    yield (
        Level.INFO,
        f"Memory: {_megabytes(plan['memory_needed'])} needed, {_megabytes(plan['memory_available'])} available; "
        f"engine pool {_megabytes(plan['pool_bytes'])}, at most {_megabytes(plan['pool_limit'])}",
    )
    yield (
        Level.INFO,
        f"Engine: {plan['threads']} threads, {_megabytes(plan['address_space_bytes'])} of address space, pages of "
        f"{plan['page_bytes']} bytes",
    )
    yield Level.INFO, f"Disk: {_megabytes(plan['disk_needed'])} needed, {_megabytes(plan['disk_free'])} free"
    yield from _would_be_quarantined(facts)
    yield Level.INFO, f"Expected time: about {facts['seconds_expected']:.0f}s"
    for obstacle in facts["obstacles"]:
        yield Level.WARN, f"A real run would not begin: {obstacle}"
    if facts["unpublished"]:
        yield Level.WARN, f"A real run would publish nothing: {facts['unpublished']}"
    advice = "" if facts["obstacles"] or facts["unpublished"] else " Migrate with the same command without --dry-run"
    yield Level.INFO, f"Nothing was written.{advice}"


def _would_be_quarantined(facts: Mapping[str, Any]) -> Lines:
    counts = [facts[f"quarantine_{what}"] for what in ("rows", "parts", "ranges")]
    yield Level.WARN if any(counts) else Level.INFO, f"Would be quarantined: {set_aside(*counts)}"
    for example in facts["examples"]:
        yield Level.WARN, f"Would be quarantined: {example}"


def _named(event: e.Named) -> Lines:
    for name in event.names:
        yield Level.INFO, f"The name {name} leads to {event.target} now"


def _not_named(event: e.NotNamed) -> Lines:
    yield Level.WARN, f"The name {event.name} cannot be made ({event.why}); {event.target} is complete without it"


def _gave_way(event: e.GaveWay) -> Lines:
    yield Level.INFO, f"{event.path} {event.why}, and is kept as {event.backup}"


def _put_back(event: e.PutBack) -> Lines:
    yield Level.INFO, f"{event.target} was moved to {event.found}, and has its name again"


def _nothing_to_do(event: e.NothingToDo) -> Lines:
    late = f"; {event.late} more reached the source since" if event.late else ""
    yield Level.INFO, f"Nothing to do: {event.why}{late}"


def _finished(event: e.Finished) -> Lines:
    result = event.result
    yield Level.INFO, f"Total nodes: {result.total_nodes}{_unread(result.unread_nodes)}"
    yield Level.INFO, f"Migrated: {result.migrated}"
    yield Level.INFO, f"Failed batches: {result.failed_batches}"
    yield Level.INFO, f"Retries: {result.retries}"
    yield Level.INFO, f"Elapsed: {result.elapsed_s:.1f}s"
    yield Level.INFO, f"Avg batch time: {_average(result):.2f}s"
    if result.exit_code:
        aside = set_aside(result.quarantined, result.quarantined_parts, result.unread_ranges)
        yield Level.WARN, f"{result.migrated} of {result.total_nodes} memories, {aside} set aside"
    for what, ids in result.quarantined_ids.items():
        count = result.quarantined_counts.get(what, len(ids))
        more = f" and {count - NAMED_IDS} more" if count > NAMED_IDS else ""
        yield Level.WARN, f"{_aside(what, count)}: {', '.join(ids[:NAMED_IDS])}{more}"
    yield Level.INFO, f"Success rate: {_rate(result)}"
    if result.exit_code:
        yield Level.WARN, "Migration completed with errors"
    else:
        yield Level.INFO, "✅ Migration completed successfully!"


def _unread(nodes: int | None) -> str:
    if nodes is None:
        return ", and an unknown number that cannot be read"
    return f", and up to {nodes} that cannot be read" if nodes else ""


def _aside(what: str, count: int) -> str:
    table, _, part = what.partition(" ")
    if part == "range":
        return f"Cannot be read: {count} id range{'s' if count > 1 else ''} of {table}"
    return f"Quarantined: {count} of {what}"


def _rate(result: Result) -> str:
    if result.success_rate is None:
        return "unknown, because the number of unreadable nodes is unknown"
    return f"{'at least ' if result.unread_nodes else ''}{result.success_rate:.1f}%"


def _average(result: Result) -> float:
    return result.batch_s / result.batches if result.batches else 0.0


def _megabytes(size: int) -> str:
    return f"{size / _MB:.0f} MB" if size >= _MB or not size else f"{size / _MB:.2f} MB"


_NOUNS = {"memory_nodes": "Nodes", "memory_edges": "Edges", "memory_turns": "Turns"}

_WORDS: dict[type[e.Event], Callable[[Any], Lines]] = {
    e.Analyzing: _analyzing,
    e.Analyzed: _analyzed,
    e.Planned: _planned,
    e.EngineChosen: _engine_chosen,
    e.ReaderChecked: _reader_checked,
    e.Started: _started,
    e.BatchLoaded: _batch_loaded,
    e.BatchFailed: _batch_failed,
    e.BatchRecovered: _batch_recovered,
    e.BatchLost: _batch_lost,
    e.EngineComplained: _engine_complained,
    e.PoolRaised: _pool_raised,
    e.Isolating: _isolating,
    e.Isolated: _isolated,
    e.SetAside: _set_aside,
    e.Salvaged: _salvaged,
    e.Paused: _paused,
    e.Resumed: _resumed,
    e.TableLoaded: _table_loaded,
    e.Compacted: _compacted,
    e.NotCompacted: _not_compacted,
    e.Indexed: _indexed,
    e.NotIndexed: _not_indexed,
    e.Verifying: _verifying,
    e.WrittenAgain: _written_again,
    e.Refused: _refused,
    e.Verified: _verified,
    e.Quarantined: _quarantined,
    e.LateArrivals: _late_arrivals,
    e.Published: _published,
    e.Named: _named,
    e.NotNamed: _not_named,
    e.GaveWay: _gave_way,
    e.PutBack: _put_back,
    e.DryRun: _dry_run,
    e.HookRan: _hook_ran,
    e.NothingToDo: _nothing_to_do,
    e.Finished: _finished,
    **carry_over_messages.WORDS,
    **sync_messages.WORDS,
    **service_messages.WORDS,
}
