"""The tables of a run report, for HTML and text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nimad.report import formatting
from nimad.report.run.model import COMPLETE, RunReport, Span
from nimad.source.schema import EDGES, NODES, TURNS

NOUNS = {NODES: "Memories", EDGES: "Edges", TURNS: "Turns"}
#: Lines of batches that a table has at most; neighbours of one table are told together until they fit.
BATCH_LINES = 40
_LEVELS = {"full": "every row and column", "counts": "the counts of the rows", "none": "nothing"}


@dataclass(frozen=True)
class ReportTable:
    """`columns`: headings, those of figures ending in a tab, which is not shown. `note`: what stands under it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    @property
    def headings(self) -> list[str]:
        return [column.rstrip("\t") for column in self.columns]

    def is_figure(self, column: int) -> bool:
        return self.columns[column].endswith("\t")


def moved(told: RunReport) -> ReportTable:
    rows = [
        [NOUNS[each.table], formatting.count(each.source), formatting.count(each.target), formatting.count(each.aside)]
        for each in told.moved
    ]
    left = [f"{name} ({formatting.count(rows)} rows; {why})" for name, rows, why in told.left_out if _is_count(rows)]
    filled = [
        f"{formatting.count(count)} memories had no {name} ({str(default).lower()})"
        for name, default, count in told.defaults
        if _is_count(count)
    ]
    notes = [f"Left in SQLite: {', '.join(left)}."] if left else []
    notes += [f"As the agent reads it: {', '.join(filled)}."] if filled else []
    note = " ".join(notes)
    return ReportTable("What was moved", ["", "In SQLite\t", "In LadybugDB\t", "Set aside\t"], rows, note)


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def layers(told: RunReport) -> ReportTable:
    whole = sum(told.layers.values())
    ordered = sorted(told.layers.items(), key=lambda item: -item[1])
    rows = [[name, formatting.count(memories), formatting.share(memories, whole)] for name, memories in ordered]
    return ReportTable("Layers", ["Layer", "Memories\t", "Share\t"], rows)


def batches(told: RunReport) -> ReportTable:
    spans = joined(told.spans, BATCH_LINES)
    rows = []
    for span in spans:
        batch = span.batch
        first = batch.number - batch.batches + 1
        number = str(batch.number) if batch.batches == 1 else f"{first}–{batch.number}"
        rate = formatting.rate(batch.rate)
        sizes = [formatting.count(batch.offset), formatting.count(batch.rows), formatting.size(batch.bytes)]
        took = [formatting.duration(batch.seconds), rate, str(batch.attempts), formatting.size(batch.peak_rss)]
        rows.append([f"{NOUNS[batch.table]} {number}", *sizes, *took])
    columns = ["Batch", "After row\t", "Rows\t", "Size\t", "Time\t", "Rate\t", "Tries\t", "Memory\t"]
    grouped = len(spans) < len(told.spans) or any(span.batch.batches > 1 for span in spans)
    note = "Neighbouring batches share a line; tries and memory are those of the one that took most." if grouped else ""
    return ReportTable("Batches", columns, rows, note)


def joined(spans: Sequence[Span], most: int) -> list[Span]:
    """Neighbours of one table told together, until there are at most so many, or as few as there are tables."""
    found, width = list(spans), 1
    while len(found) > most and width < len(spans):
        width *= 2
        found = list(_joined(spans, width))
    return found


def _joined(spans: Sequence[Span], width: int) -> Iterator[Span]:
    group: list[Span] = []
    for span in spans:
        if group and (len(group) == width or group[0].batch.table != span.batch.table):
            yield _one(group)
            group = []
        group.append(span)
    if group:
        yield _one(group)


def _one(group: Sequence[Span]) -> Span:
    each = [span.batch for span in group]
    whole = replace(
        each[-1],
        batches=sum(batch.batches for batch in each),
        offset=each[0].offset,
        rows=sum(batch.rows for batch in each),
        bytes=sum(batch.bytes for batch in each),
        seconds=sum(batch.seconds for batch in each),
        attempts=max(batch.attempts for batch in each),
        peak_rss=max(batch.peak_rss for batch in each),
    )
    return Span(whole, group[0].began_s, group[-1].ended_s)


def failures(told: RunReport) -> ReportTable:
    rows = []
    for each in told.failures:
        again = f"again after {formatting.duration(each.delay_s)}" if each.delay_s else "again at once"
        then = "given up" if each.delay_s is None else again
        rows.append([formatting.duration(each.at_s), str(each.attempt), each.message, then])
    more = told.failures_in_all - len(told.failures)
    note = f"And {more} more." if more else ""
    return ReportTable("Tries that failed", ["At\t", "Try\t", "What happened", "Then"], rows, note)


def processes(told: RunReport) -> ReportTable:
    rows = [
        [formatting.moment(each.began), formatting.duration(each.seconds), each.outcome, each.run[:8], each.message]
        for each in told.processes
    ]
    columns = ["Began", "Lasted\t", "Ended", "Run", "Last word"]
    full = [row if any(each[4] for each in rows) else row[:4] for row in rows]
    note = f"Lines of the last one in the journal: journalctl NIMA_RUN={told.run}" if told.run else ""
    return ReportTable("Processes that worked on it", columns[: len(full[0])] if full else columns, full, note)


def phases(told: RunReport) -> ReportTable:
    names = dict.fromkeys([*told.peaks, *told.phases_s])  # planning comes first, and is not clocked
    rows = [
        [
            name.replace("memory_", ""),
            formatting.duration(told.phases_s.get(name)),
            formatting.size(told.peaks.get(name)),
        ]
        for name in names
    ]
    return ReportTable("Phases", ["Phase", "Time\t", "Largest worker\t"], rows)


def memory(told: RunReport) -> ReportTable:
    plan = told.plan
    wanted = {
        "Largest worker": told.peak_rss or None,
        "Largest by the plan": plan.get("worker_bytes"),
        "Engine's pool in it": plan.get("pool_bytes"),
        "Least that would do": plan.get("memory_needed"),
        "Free when it was planned": plan.get("memory_available"),
    }
    rows = [[name, formatting.size(size)] for name, size in wanted.items() if _is_count(size) and size is not None]
    return ReportTable("Memory against the plan", ["", "\t"], rows)


def verification(told: RunReport) -> ReportTable:
    found = told.verification
    if not found:
        return ReportTable("Verification", [], [], "The rows were counted, and not compared.")
    rows = [["Compared", _LEVELS.get(found["level"], found["level"])]]
    rows += [[NOUNS.get(name, name), f"{formatting.count(count)} alike"] for name, count in found["compared"].items()]
    rows += [["Brought up to date", formatting.count(found["refreshed"])]] if found["refreshed"] else []
    rows += [["Taken out, as in SQLite", formatting.count(found["removed"])]] if found["removed"] else []
    rows += [["Differences left", "none"], ["Time", formatting.duration(found["seconds"])]]
    rows += [["Opened and counted by", reader] for reader in told.readers]
    return ReportTable("Verification", ["", ""], rows)


def quarantine(told: RunReport) -> ReportTable:
    rows = [[each.table, each.id, "whole row" if each.part == "row" else each.part, each.reason] for each in told.aside]
    more = told.aside_in_all - len(told.aside) if rows else 0
    notes = [f"And {more} more." if more else "", told.lacking]
    notes += [f"Each stands whole in {told.quarantine_file}." if rows else ""]
    note = " ".join(each for each in notes if each)
    return ReportTable("Quarantine", ["Table", "Id\t", "Part", "Reason"], rows, note)


def before_and_after(told: RunReport) -> ReportTable:
    sizes, rows = told.sizes, []
    source, target = (sizes.get(f"{side}_now") or sizes.get(f"{side}_then") for side in ("source", "target"))
    if source or target:
        rows.append(["File", formatting.size(source), formatting.size(target)])
    return ReportTable("Before and after", ["", "SQLite\t", "LadybugDB\t"], rows)


def facts(told: RunReport) -> ReportTable:
    rows = [["From", told.source], ["To", told.target]]
    rows += [["Began", formatting.moment(told.began)]] if told.began else []
    names = {"caught_up": "Last late arrivals", "memories": "Memories since then"}
    for name, value in told.later.items():
        rows.append([names[name], f"{value:,}" if isinstance(value, int) else str(value)])
    rows += [[name, version] for name, version in told.versions.items() if version]
    return ReportTable("Files and versions", ["", ""], rows)


def cards(told: RunReport) -> list[tuple[str, str, str]]:
    """The figures that matter most: what, how much, and a word on it."""
    nodes = told.moved_of(NODES)
    of = f"of {formatting.count(nodes.source)}" if nodes and nodes.source is not None else ""
    found = told.verification
    rows = sum(found["compared"].values()) if found else 0
    size = told.sizes.get("target_now") or told.sizes.get("target_then")
    source = told.sizes.get("source_now") or told.sizes.get("source_then")
    processes = len(told.processes)
    went_through = "all went through" if told.retries and told.outcome == COMPLETE else ""
    return [
        ("Memories", formatting.count(nodes.target if nodes else 0), of),
        (
            "Compared",
            formatting.count(rows) if found else formatting.NOTHING,
            "rows, all alike" if found else "not verified",
        ),
        ("Set aside", formatting.count(told.aside_in_all), "in quarantine" if told.aside_in_all else "nothing"),
        ("Time", formatting.duration(told.seconds), f"in {processes} processes" if processes > 1 else ""),
        ("Retries", formatting.count(told.retries), went_through),
        ("File", formatting.size(size), f"SQLite: {formatting.size(source)}" if source else ""),
    ]
