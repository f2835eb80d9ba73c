"""Parsing of run history and state file for a report; no value is trusted."""

from collections.abc import Mapping, Sequence
from typing import Any

from nimad.report.run.model import (
    COMPLETE,
    FAILED,
    INTERRUPTED,
    LISTED,
    UNFINISHED,
    FailedAttempt,
    ProcessSection,
    Span,
)
from nimad.source.schema import EDGES, NODES, TARGET_TABLES, TURNS
from nimad.state.run_history_reader import Migration, Section

#: What a result has of rows, parts of rows and id ranges that were set aside.
_ASIDE = ("quarantined", "quarantined_parts", "unread_ranges")


def of_record(migration: Migration) -> dict[str, Any]:
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
        "left_out": _triples(analyzed.get("left_out")),
        "defaults": _triples(planned.get("defaults")),
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


def _process(section: Section, at: float, *, is_last: bool) -> ProcessSection:
    end = section.end or {}
    if end.get("event") == "Finished" or section.last("Published"):
        outcome = COMPLETE
    else:
        outcome = str(end.get("outcome") or (UNFINISHED if is_last else "killed"))
    return ProcessSection(section.run, section.began, at, section.seconds, outcome, str(end.get("message", "")))


def _failure(line: Mapping[str, Any], at: float) -> FailedAttempt:
    delay = None if line.get("delay_s") is None else float(_number(line["delay_s"], fraction=True))
    when = at + float(_number(line.get("t"), fraction=True))
    return FailedAttempt(when, int(_number(line.get("attempt"))), str(line.get("message", "")), delay)


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
        "refreshed": _number(verified.get("refreshed")),
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


def of_state(made: Mapping[str, Any]) -> dict[str, Any]:
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


def later(made: Mapping[str, Any]) -> dict[str, Any]:
    """What happened to the target since it was published."""
    followed = _mapping(made.get("followed")).get("at")
    memories = _mapping(made.get("published")).get(TARGET_TABLES[NODES])
    facts = {"caught_up": followed, "memories": memories if followed else None}
    return {name: value for name, value in facts.items() if value}


def _phases(told: Mapping[str, Any]) -> dict[str, Any]:
    seconds, peaks = _mapping(told.get("phases_s")), _mapping(told.get("peaks"))
    return {
        "phases_s": {str(name): float(_number(value, fraction=True)) for name, value in seconds.items()},
        "peaks": {str(name): _number(peak) for name, peak in peaks.items()},
    }


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _triples(value: object) -> list[Any]:
    return [each for each in _list(value) if isinstance(each, list) and len(each) == 3]  # noqa: PLR2004


def _number(value: object, *, fraction: bool = False) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**63:
        return 0
    return value if fraction else int(value)
