"""Messages of a comparison, for people and programs."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nimad.compare.comparison import Comparison
from nimad.config import command
from nimad.errors import ExitCode
from nimad.plural import number_of

if TYPE_CHECKING:
    from nimad.worker.compare.facts import Listed

#: Rows that a heading has under it.
_SHOWN = 5

#: What each list of rows is called, in the order of how much it matters.
_HEADINGS: Mapping[str, str] = {
    "lacking": "The target lacks",
    "differing": "Both have them, and they differ",
    "late": "Late arrivals, which reached SQLite after the target was made",
    "since_here": "Recalled in SQLite since",
    "aside": "Rows, or parts of rows, that the target has no place for",
    "since_there": "Recalled, or filled in, in the target since",
    "extra": "Only in the target: the agent writes there itself once it has it",
}


def lines(found: Comparison) -> Iterator[str]:
    """A comparison as it is printed."""
    yield f"SQLite:    {found.source}"
    yield f"LadybugDB: {found.target} (read with {found.engine})"
    if found.holder:
        yield f"           It is open in another program (PID {found.holder}), which may have more to write"
    yield from (f"           {remark[:1].upper()}{remark[1:]}" for remark in found.names)
    if found.maker:
        yield f"           It was made from another source: {found.maker}"
    yield ""
    yield f"{'rows':<14}{'SQLite':>10}{'LadybugDB':>12}{'the same':>12}"
    for name, table in found.tables.items():
        renamed = f"   ({table.renamed} under another id)" if table.renamed else ""
        same = str(table.same) if found.level == "full" else "not read"
        yield f"{name:<14}{table.rows:>10}{table.there:>12}{same:>12}{renamed}"
    yield ""
    parts = [line for part in _parts(found) for line in part]
    if parts:
        yield from parts
        yield ""
    yield from _verdict(found)


def _parts(found: Comparison) -> Iterator[list[str]]:
    if found.unread:
        yield list(found.unread)
    if found.remarks:
        yield ["Columns of the target that are not as SQLite's values need them:", *(f"  {r}" for r in found.remarks)]
    for kind, heading in _HEADINGS.items():
        total = found.total(kind)
        if total:
            yield [f"{heading}: {total}", *_named(found, kind)]
    for table, columns in found.beyond.items():
        named = ", ".join(f"{column} ({number_of(values, 'value')})" for column, values in columns.items())
        yield [f"Columns of {table} that SQLite does not have: {named}"]
    for table, rows in found.others.items():
        yield [f"A table of the target that SQLite has no place for: {table} ({number_of(rows, 'row')})"]


def _named(found: Comparison, kind: str) -> Iterator[str]:
    for name, table in found.tables.items():
        listed: Listed = getattr(table, kind)
        if not listed.count or not listed.first:
            continue
        more = f", and {listed.count - len(listed.first[:_SHOWN])} more" if listed.count > _SHOWN else ""
        if all(not what for _, what in listed.first[:_SHOWN]):
            yield f"  {name} {', '.join(str(key) for key, _ in listed.first[:_SHOWN])}{more}"
            continue
        for key, what in listed.first[:_SHOWN]:
            yield f"  {name} {key}{f': {what}' if what else ''}"
        if more:
            yield f"  {name}{more.removeprefix(',')}"


def _verdict(found: Comparison) -> Iterator[str]:
    what = "the numbers of rows" if found.level == "counts" else "every row and column"
    if found.exit_code is ExitCode.COMPLETE:
        yield f"The same: {what}"
        return
    if found.exit_code is ExitCode.QUARANTINED and found.unread:
        yield f"Not known to be the same, {what}: what is named above was not read"
    elif found.exit_code is ExitCode.QUARANTINED:
        yield f"The same, {what}, but for what is named above"
    else:
        yield "They are not the same"
    yield from _next(found)


def _next(found: Comparison) -> Iterator[str]:
    """What to type next."""
    where = ("--source", found.source, "--target", found.target)
    by_target, by_source = found.count("by_target"), found.count("by_source")
    unknown = found.total("lacking") + found.total("differing") - by_target - by_source
    if by_target:
        yield "What was written to the target alone since, as the agent does, stays as it is: nothing is to be done"
    if by_target or found.total("extra") or found.total("since_there"):
        yield f"What would go back to SQLite: {command.line('rollback', *where)}"
    if found.remarks or unknown > 0:
        yield f"A new target, with this one kept as a dated backup: {command.line('migrate', *where, '--replace')}"
    if found.total("late") or by_source:
        yield f"Bring what SQLite has since: {command.line('migrate', *where)}"
    if found.total("aside"):
        yield f"Look at what was set aside: {command.line('quarantine', 'list', '--target', found.target)}"
    if found.level == "counts" and found.exit_code is ExitCode.DIFFERENCE:
        yield f"Which rows: {command.line('verify', *where)}"


def to_json(found: Comparison) -> dict[str, Any]:
    """A comparison for programs: rows are named as (id, remark), and their numbers are whole."""
    return {
        **asdict(found),
        "source": str(found.source),
        "target": str(found.target),
        "exit_code": int(found.exit_code),
        "same": found.exit_code is ExitCode.COMPLETE,
    }
