"""The screen of `nimad status`, in 80 columns and 24 rows."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nimad.diagnostics.migration_status import MigrationStatus
from nimad.diagnostics.status import MemoryFacts, Status, TableProgress
from nimad.plural import number_of
from nimad.report.console.screen import ScreenLine, Style
from nimad.report.console.symbols import Symbols
from nimad.report.messages.status_line import duration_of_run
from nimad.state import target_state

WIDTH = 80
_BAR = 28
_MB = 1_000_000
#: Characters of a log line before its text: «[2026-11-28 23:10:01] [INFO] », of which the time of day is kept.
_DATE = len("[2026-11-28 ")

NOUNS: Mapping[str, str] = {"memory_nodes": "Memories", "memory_edges": "Edges", "memory_turns": "Turns"}
_STYLES: Mapping[MigrationStatus, Style] = {
    MigrationStatus.COMPLETE: Style.GOOD,
    MigrationStatus.FOLLOWING: Style.GOOD,
    MigrationStatus.RUNNING: Style.HEAD,
    MigrationStatus.WAITING: Style.WARNING,
    MigrationStatus.PAUSED: Style.WARNING,
    MigrationStatus.INTERRUPTED: Style.BAD,
    MigrationStatus.FAILED: Style.BAD,
    MigrationStatus.GONE: Style.BAD,
}


def lines(status: Status, signs: Symbols, width: int = WIDTH) -> Iterator[ScreenLine]:
    """The whole screen; only paths, reasons and commands may be longer than `width`."""
    yield ScreenLine(f"{status.source}", Style.FAINT)
    yield ScreenLine(f"{signs.arrow} {status.target}", Style.FAINT)
    yield ScreenLine("")
    yield ScreenLine(headline(status), _style(status))
    if status.why:
        yield ScreenLine(f"  {status.why}")
    if status.service:
        yield ScreenLine(f"  {status.service}", Style.WARNING)
    if status.made_from:
        yield ScreenLine(f"  made from another source: {status.made_from}", Style.WARNING)
    yield from (ScreenLine(f"  {remark}", Style.WARNING) for remark in status.names)
    if status.counts:
        yield ScreenLine("")
        yield from (ScreenLine(f"  {_bar(count, signs)}") for count in status.counts)
    facts = list(_facts(status, signs))
    if facts:
        yield from [ScreenLine(""), *(ScreenLine(f"  {fact}") for fact in facts)]
    if status.log:
        yield from [ScreenLine(""), ScreenLine(f"Log: {status.log_file}", Style.FAINT)]
        yield from (_log_line(line, signs, width) for line in status.log)
    if status.steps:
        yield ScreenLine("")
    yield from (ScreenLine(f"{words} {command}", Style.HEAD) for words, command in status.steps)


def _style(status: Status) -> Style:
    whole = status.stand in (MigrationStatus.COMPLETE, MigrationStatus.FOLLOWING)
    return Style.WARNING if whole and status.exit_code else _STYLES.get(status.stand, Style.PLAIN)


def headline(status: Status) -> str:
    """How it stands, in one sentence; all that a line of a pipe says."""
    return _HEADLINES[status.stand](status) + _by(status)


def _by(status: Status) -> str:
    return f" ({status.at_work.shown}, PID {status.at_work.pid})" if status.at_work else ""


def _running(status: Status) -> str:
    batch = f", batch {status.batch} of {status.batches}" if status.phase.startswith("loading") and status.batch else ""
    return f"Running: {shown_phase(status.phase)}{batch}"


def _paused(status: Status) -> str:
    if status.phase == "rolled back":
        return f"Rolled back, and paused since{'' if status.at_work else '; no process is running'}"
    at = f" while {shown_phase(status.phase)}" if status.phase and status.phase != "complete" else ""
    return f"Paused{at}{'' if status.at_work else '; no process is running'}"


def _interrupted(status: Status) -> str:
    while_ = f" while {shown_phase(status.phase)}" if status.phase else ""
    return f"Interrupted{while_}; no process is working on it; what was counted is kept"


def _complete(status: Status) -> str:
    aside = f", {number_of(status.quarantined, 'entry', 'entries')} in quarantine" if status.quarantined else ""
    lost = f", {number_of(status.lacking, 'entry', 'entries')} of the quarantine lost" if status.lacking else ""
    other = ", and another memory is in place of the one that it was made from" if status.another else ""
    return f"Complete{aside}{lost}{other}"


_HEADLINES: Mapping[MigrationStatus, Callable[[Status], str]] = {
    MigrationStatus.NOTHING: lambda _: "Nothing has been migrated here; no process is running",
    MigrationStatus.WAITING: lambda _: "Waiting",
    MigrationStatus.RUNNING: _running,
    MigrationStatus.PAUSED: _paused,
    MigrationStatus.INTERRUPTED: _interrupted,
    MigrationStatus.FAILED: lambda status: f"Failed while {shown_phase(status.phase)}; what was counted is kept",
    MigrationStatus.COMPLETE: _complete,
    MigrationStatus.FOLLOWING: lambda status: (
        f"{_complete(status)}; what comes late {'waits' if status.another else 'is added'}"
    ),
    MigrationStatus.GONE: lambda _: "It was complete, but the target is gone",
    MigrationStatus.UNTOLD: lambda _: "A target is here, and no run tells of it",
}


def shown_phase(phase: str) -> str:
    """A phase as people call it: the tables by what they hold."""
    for table, noun in NOUNS.items():
        phase = phase.replace(table, noun.lower())
    return phase


def _bar(count: TableProgress, signs: Symbols) -> str:
    noun = f"{NOUNS.get(count.table, count.table):<9}"
    if not count.of:
        return f"{noun} {signs.empty * _BAR}        {'none' if count.of == 0 else 'not counted yet':>18}"
    done = count.done or 0
    filled, share = min(_BAR, _BAR * done // count.of), min(100, 100 * done // count.of)
    rows = f"{done:,}" if done == count.of else f"{done:,} of {count.of:,}"
    return f"{noun} {signs.full * filled}{signs.empty * (_BAR - filled)} {share:>3} %  {rows:>18}"


def _facts(status: Status, signs: Symbols) -> Iterator[str]:
    if pace := _pace(status):
        yield pace
    if status.batches:
        counts = {
            "Retries": status.retries,
            "Failed batches": status.failed_batches,
            "Started over": status.rebuilds,
            "Quarantine": status.quarantined,
        }
        yield "   ".join(f"{name} {count:,}" for name, count in counts.items() if count or name != "Started over")
    if status.memory:
        yield _memory(status.memory)
    if status.previous_target:
        yield f"The target from before is in place until this run is through{signs.more if not status.at_work else ''}"


def _pace(status: Status) -> str:
    if status.stand is MigrationStatus.RUNNING:
        parts = [f"{status.rows_per_s:,.0f} rows/s"] if status.rows_per_s and status.eta_s is not None else []
        parts += [f"ETA {duration_of_run(status.eta_s)}"] if status.eta_s is not None else []
        parts += [f"for {duration_of_run(status.elapsed_s)}"] if status.elapsed_s is not None else []
        return "   ".join(parts)
    if status.updated and status.stand is not MigrationStatus.NOTHING:
        took = f" ({duration_of_run(status.elapsed_s)})" if status.elapsed_s is not None and not status.at_work else ""
        return f"Last word of the run: {status.updated[:10]} {status.updated[11:19]}{took}"
    return ""


def _memory(memory: MemoryFacts) -> str:
    planned = f" of {memory.planned / _MB:,.0f} MB planned" if memory.planned else ""
    return f"Worker   {memory.used / _MB:,.0f} MB{planned}, PID {memory.pid}"


def _log_line(line: str, signs: Symbols, width: int) -> ScreenLine:
    """The time of day, the level if it matters, and as much of the text as there is room for."""
    style, text = Style.PLAIN, line
    if line.startswith("[2") and len(line) > _DATE:
        text = line[_DATE:].replace("] [INFO] ", "  ", 1)
        for level, of_level in (("WARN", Style.WARNING), ("ERROR", Style.BAD), ("DEBUG", Style.FAINT)):
            if f"] [{level}] " in text[:20]:
                style, text = of_level, text.replace(f"] [{level}] ", f"  {level} ", 1)
    shown = signs.text(f"  {text}")
    room = width - len(signs.more)
    return ScreenLine(shown if len(shown) <= width else shown[:room] + signs.more, style)


# For programs


def to_json(status: Status) -> dict[str, Any]:
    """All of it, with how it stands in one word, and the exit code that goes with it."""
    at_work = status.at_work
    return {
        **{name: str(value) if isinstance(value, Path) else value for name, value in asdict(status).items()},
        "stand": str(status.stand),
        "exit_code": status.exit_code,
        "headline": headline(status),
        "counts": {count.table: {"done": count.done, "of": count.of} for count in status.counts},
        "at_work": at_work and {"pid": at_work.pid, "command": at_work.shown},
        "steps": [{"words": words.rstrip(":"), "command": command} for words, command in status.steps],
        "asked": target_state.stamp(time.time()),
    }
