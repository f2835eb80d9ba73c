"""The account of one migration, gathered from its record, the state file, the quarantine and both files as they are.

What `nimad report` tells, in whatever form. It holds ids, counts, names and reasons, and no text of a memory.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from nimad.errors import ExitCode, UsageError
from nimad.migration import state
from nimad.migration.files import Files
from nimad.migration.origin import not_there, source_of
from nimad.migration.quarantined import quarantined
from nimad.migration.recorded import Batch, Migration, Section
from nimad.migration.timing import Compared
from nimad.source.file import SourceFile
from nimad.source.schema import EDGES, NODES, TARGET_TABLES, TURNS
from nimad.words import number_of

#: Version of the keys of `--json`.
FORMAT: Final = 1
#: Entries of a quarantine, and failed tries, that are told one by one, and characters of a reason.
LISTED, REASON_CHARS = 50, 200
#: What a result has of rows, parts of rows and id ranges that were set aside.
_ASIDE = ("quarantined", "quarantined_parts", "unread_ranges")
COMPLETE, INTERRUPTED, FAILED, UNFINISHED = "complete", "interrupted", "failed", "unfinished"


@dataclass(frozen=True)
class Span:
    """Batches on the time line of all sections, one after the other. Times in seconds from the first one's start."""

    batch: Batch
    began_s: float
    ended_s: float


@dataclass(frozen=True)
class Failure:
    """A try that failed. `delay_s`: until the next one; None where there was none."""

    at_s: float
    attempt: int
    message: str
    delay_s: float | None


@dataclass(frozen=True)
class Process:
    """One process that worked on it. `began`: seconds since the epoch; `at_s`: on the time line."""

    run: str
    began: float
    at_s: float
    seconds: float
    outcome: str
    message: str


@dataclass(frozen=True)
class Moved:
    """One table: its rows in SQLite when the run began, those in the target, and whole rows in quarantine."""

    table: str
    source: int | None
    target: int
    aside: int


@dataclass(frozen=True)
class Aside:
    """An entry of the quarantine."""

    table: str
    id: str
    part: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Account:
    """All that is told. Sizes in bytes, durations in seconds, moments in seconds since the epoch."""

    source: str
    target: str
    run: str
    outcome: str
    exit_code: int | None
    message: str
    began: float | None
    seconds: float
    moved: Sequence[Moved]
    layers: Mapping[str, int] = field(default_factory=dict)
    left_out: Sequence[Sequence[Any]] = ()
    processes: Sequence[Process] = ()
    spans: Sequence[Span] = ()
    failures: Sequence[Failure] = ()
    failures_in_all: int = 0
    verifying: Sequence[tuple[float, float]] = ()  # from, to, on the time line
    retries: int = 0
    plan: Mapping[str, Any] = field(default_factory=dict)
    phases_s: Mapping[str, float] = field(default_factory=dict)
    peaks: Mapping[str, int] = field(default_factory=dict)
    verification: Mapping[str, Any] = field(default_factory=dict)
    readers: Sequence[str] = ()
    quarantine_file: str = ""
    aside: Sequence[Aside] = ()
    aside_in_all: int = 0
    lacking: str = ""
    sizes: Mapping[str, int | None] = field(default_factory=dict)  # source_then, source_now, target_then, target_now
    later: Mapping[str, Any] = field(default_factory=dict)  # since it was published
    versions: Mapping[str, str] = field(default_factory=dict)
    compared: Compared | None = None
    made: float = field(default_factory=time.time)

    @property
    def peak_rss(self) -> int:
        """Bytes of the largest worker of all."""
        return max([*self.peaks.values(), *(span.batch.peak_rss for span in self.spans)], default=0)

    def moved_of(self, table: str) -> Moved | None:
        return next((each for each in self.moved if each.table == table), None)

    def to_json(self) -> dict[str, Any]:
        facts = {**asdict(self), "compared": self.compared.to_json() if self.compared else None}
        return {"format": FORMAT, **facts, "peak_rss": self.peak_rss}


def account(target: Path, migration: Migration | None, *, latest: bool, compared: Compared | None) -> Account:
    """Gather what there is to tell. `latest`: whether the files that are there now are this migration's.

    Raises `UsageError` where there is neither a record nor a target.
    """
    files = Files(target)
    made = state.read(files) if files.staging.exists() else state.of_target(files)
    if migration is None and not made:
        raise (
            not_there(target)
            if not target.exists()
            else UsageError(f"nothing tells how {target} was made; nimad made it with --replace, or somebody else did")
        )
    now = made if latest else {}
    told = _of_record(migration) if migration else _of_state(made)
    listing = _quarantine(target) if latest else _elsewhere(told)
    counts = told.pop("counts")
    entries = listing.get("aside_in_all", 0)
    moved = [_moved(table, counts, listing.get("whole", {})) for table in TARGET_TABLES if table in counts]
    listing.pop("whole", None)
    source = str(told.get("source") or source_of(target) or "")
    return Account(
        **{
            **told,
            **listing,
            "source": source,
            "target": str(target),
            "moved": moved,
            "later": _later(now) if told["outcome"] == COMPLETE else {},
            "sizes": {**told.get("sizes", {}), **(_sizes_now(Path(source), files) if latest else {})},
            "exit_code": told["exit_code"] if told["exit_code"] is not None or not entries else ExitCode.QUARANTINED,
            "compared": compared,
        }
    )


# From the record


def _of_record(migration: Migration) -> dict[str, Any]:
    analyzed, planned = migration.last("Analyzed"), migration.last("Planned")
    finished = _mapping(migration.last("Finished").get("result"))
    published = migration.last("Published")
    outcome, exit_code, message = _outcome(migration)
    spans, failures, processes, verifying, at = [], [], [], [], 0.0
    for place, section in enumerate(migration.sections):
        spans += [Span(batch, at + max(0.0, batch.at_s - batch.seconds), at + batch.at_s) for batch in section.batches]
        failures += [_failure(line, at) for line in section.all("BatchFailed")]
        verifying += _verifying(section, at)
        processes.append(_process(section, at, is_last=place == len(migration.sections) - 1))
        at += section.seconds
    rows = {NODES: "nodes", EDGES: "edges", TURNS: "turns"}
    done = {span.batch.table: span.batch.done for span in spans}
    if finished:
        counted = {NODES: "migrated", EDGES: "edges", TURNS: "turns"}
        done = {table: _number(finished.get(name)) for table, name in counted.items()}
    of = {table: _number(analyzed.get(name)) for table, name in rows.items() if name in analyzed}
    return {
        "source": str(migration.sections[-1].head.get("source", "")),
        "run": migration.run,
        "aside_in_all": sum(_number(finished.get(name)) for name in _ASIDE),
        "outcome": outcome,
        "exit_code": exit_code,
        "message": message,
        "began": migration.sections[0].began,
        "seconds": at,
        "counts": {table: (of.get(table), done.get(table, 0)) for table in rows if table in of or table in done},
        "layers": {str(name): _number(count) for name, count in _mapping(analyzed.get("layers")).items()},
        "left_out": [each for each in _list(analyzed.get("left_out")) if isinstance(each, list) and len(each) == 3],  # noqa: PLR2004
        "processes": processes,
        "spans": spans,
        "failures": failures[:LISTED],
        "failures_in_all": len(failures),
        "verifying": verifying,
        "retries": sum(failure.delay_s is not None for failure in failures),
        "plan": _mapping(planned.get("plan")),
        **_phases(finished),
        "verification": _verification(migration),
        "readers": [str(line.get("reader")) for line in migration.sections[-1].all("ReaderChecked")],
        "sizes": {
            "source_then": _number(analyzed.get("size")) or None,
            "target_then": _number(published.get("size")) or None,
        },
        "versions": _versions(migration),
    }


def _outcome(migration: Migration) -> tuple[str, int | None, str]:
    end = migration.sections[-1].end
    if migration.is_published:
        code = _code(end) if end and end.get("event") == "Finished" else None
        return COMPLETE, code, ""
    if end is None:
        return UNFINISHED, None, "it goes on, or its process was killed; run the same command again to go on"
    known = end.get("outcome") in (INTERRUPTED, FAILED)
    return str(end["outcome"]) if known else FAILED, _code(end), str(end.get("message", ""))


def _process(section: Section, at: float, *, is_last: bool) -> Process:
    end = section.end or {}
    if end.get("event") == "Finished" or section.last("Published"):
        outcome = COMPLETE
    else:
        outcome = str(end.get("outcome") or (UNFINISHED if is_last else "killed"))
    return Process(section.run, section.began, at, section.seconds, outcome, str(end.get("message", "")))


def _failure(line: Mapping[str, Any], at: float) -> Failure:
    delay = None if line.get("delay_s") is None else float(_number(line["delay_s"], fraction=True))
    when = at + float(_number(line.get("t"), fraction=True))
    return Failure(when, int(_number(line.get("attempt"))), str(line.get("message", "")), delay)


def _verifying(section: Section, at: float) -> list[tuple[float, float]]:
    """When the comparing began and ended, each time."""
    found, since = [], None
    for line in section.lines:
        if line["event"] == "Verifying":
            since = at + _number(line.get("t"), fraction=True)
        elif line["event"] == "Verified" and since is not None:
            found.append((since, at + _number(line.get("t"), fraction=True)))
            since = None
    return found


def _verification(migration: Migration) -> dict[str, Any]:
    """The last comparing that came to its end."""
    verified = migration.last("Verified")
    if not verified:
        return {}
    return {
        "level": str(migration.last("Verifying").get("level", "")),
        "compared": {str(name): _number(rows) for name, rows in _mapping(verified.get("compared")).items()},
        "mended": _number(verified.get("mended")),
        "removed": _number(verified.get("removed")),
        "seconds": float(_number(verified.get("seconds"), fraction=True)),
    }


def _code(end: Mapping[str, Any]) -> int | None:
    code = end.get("exit_code")
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def _versions(migration: Migration) -> dict[str, str]:
    head, engine = migration.sections[-1].head, migration.last("EngineChosen")
    named = {"nimad": "nimad", "Python": "python", "SQLite": "sqlite", "System": "system"}
    found = {name: str(head[key]) for name, key in named.items() if key in head}
    if engine:
        found["Engine"] = f"{engine.get('engine')} (storage version {engine.get('storage_version')})"
    for number, reader in enumerate(_list(engine.get("readers")), 1):
        found["Reader" if number == 1 else f"Reader {number}"] = str(reader)
    return found


# From the state file, where no record tells


def _of_state(made: Mapping[str, Any]) -> dict[str, Any]:
    published, counts = _mapping(made.get("published")), _mapping(made.get("counts"))
    engine = _mapping(_mapping(made.get("versions")).get("engine"))
    phase = str(made.get("phase", ""))
    rows = {}
    for table, name in TARGET_TABLES.items():
        count = _mapping(counts.get(table))
        if count or name in published:
            rows[table] = (count.get("of"), _number(published.get(name, count.get("done"))))
    return {
        "run": "",
        "outcome": COMPLETE if published else phase if phase in (INTERRUPTED, FAILED) else UNFINISHED,
        "exit_code": None,
        "message": str(made.get("message", "")),
        "began": None,
        "seconds": sum(_number(value, fraction=True) for value in _mapping(made.get("phases_s")).values()),
        "counts": rows,
        "retries": int(_number(made.get("retries"))),
        "plan": _mapping(made.get("plan")),
        **_phases(made),
        "versions": {
            "nimad": str(_mapping(made.get("versions")).get("nimad", "")),
            "Engine": f"{engine.get('name', '?')} {engine.get('version', '?')}",
        },
    }


def _later(made: Mapping[str, Any]) -> dict[str, Any]:
    """What happened to the target since it was published."""
    followed, handed_over = _mapping(made.get("followed")).get("at"), made.get("handed_over")
    memories = _mapping(made.get("published")).get(TARGET_TABLES[NODES])
    facts = {"caught_up": followed, "memories": memories if followed else None, "handed_over": handed_over}
    return {name: value for name, value in facts.items() if value}


def _phases(told: Mapping[str, Any]) -> dict[str, Any]:
    seconds, peaks = _mapping(told.get("phases_s")), _mapping(told.get("peaks"))
    return {
        "phases_s": {str(name): float(_number(value, fraction=True)) for name, value in seconds.items()},
        "peaks": {str(name): _number(peak) for name, peak in peaks.items()},
    }


# The files as they are


def _quarantine(target: Path) -> dict[str, Any]:
    try:
        found = quarantined(target)
    except UsageError:  # neither a target nor an unfinished one
        return {}
    entries = [
        Aside(entry["table"], str(entry["id"])[:40], entry["part"], _shortened(str(entry.get("reason", ""))))
        for entry in found.entries
    ]
    whole: dict[str, int] = {}
    for entry in entries:
        if entry.part == "row":
            whole[entry.table] = whole.get(entry.table, 0) + 1
    return {
        "quarantine_file": str(found.file),
        "aside": entries[:LISTED],
        "aside_in_all": len(entries),
        "lacking": found.lacking or "",
        "whole": whole,
    }


def _elsewhere(told: Mapping[str, Any]) -> dict[str, Any]:
    """Of a migration whose target gave way to another: its quarantine went with it."""
    aside = told.get("aside_in_all", 0)
    return {"aside_in_all": aside, "lacking": "They stand beside the backup of that target." if aside else ""}


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= REASON_CHARS else f"{text[: REASON_CHARS - 1]}…"


def _sizes_now(source: Path, files: Files) -> dict[str, int | None]:
    there = files.target if files.target.exists() else files.staging
    sizes: dict[str, int | None] = {"source_now": None, "target_now": None}
    with suppress(OSError, ValueError):  # a path that somebody wrote
        sizes["source_now"] = SourceFile(source).size()
    with suppress(OSError):
        sizes["target_now"] = there.stat().st_size + sum(log["bytes"] for log in state.logs_of(there).values())
    return sizes


def _moved(table: str, counts: Mapping[str, tuple[Any, int]], whole: Mapping[str, int]) -> Moved:
    of, done = counts[table]
    return Moved(table, int(of) if isinstance(of, int) else None, int(done), whole.get(table, 0))


# What somebody may have written in there


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _number(value: object, *, fraction: bool = False) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**63:
        return 0
    return value if fraction else int(value)


def headline(told: Account) -> str:
    """The whole of it in one sentence."""
    nouns = {NODES: ("memory", "memories"), EDGES: ("edge", "edges"), TURNS: ("turn", "turns")}
    shown = [each for each in told.moved if each.target or each.table == NODES]
    counts = [f"{each.target:,} {nouns[each.table][each.target != 1]}" for each in shown]
    what = f"{', '.join(counts[:-1])} and {counts[-1]}" if len(counts) > 1 else (counts or ["nothing"])[0]
    if told.outcome != COMPLETE:
        return f"{what} so far; {told.outcome}{f': {told.message}' if told.message else ''}"
    compared = {"full": "every row and column was compared", "counts": "their counts were compared"}
    check = compared.get(str(told.verification.get("level")), "they were counted, and not compared")
    aside = f"{number_of(told.aside_in_all, 'entry is', 'entries are')} in quarantine" if told.aside_in_all else ""
    return f"{what} were moved; {check}; {aside or 'nothing was set aside'}"
