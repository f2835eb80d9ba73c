"""Messages of sync."""

from collections.abc import Callable, Mapping
from typing import Any

from nimad.events import sync as e
from nimad.events.run import Event
from nimad.plural import number_of
from nimad.report.level import Level, Lines


def _caught_up(event: e.CaughtUp) -> Lines:
    counts = {
        "added": event.added,
        "brought up to date": event.changed,
        "taken out": event.removed,
    }
    memories = [f"{number_of(count, 'memory', 'memories')} {what}" for what, count in counts.items() if count]
    others = [number_of(event.edges, "edge", "edges")] if event.edges else []
    others += [number_of(event.turns, "turn", "turns")] if event.turns else []
    what = ", ".join([*memories, *others]) or "nothing that has a place in the target"
    yield Level.INFO, f"Caught up: {what}; {number_of(event.nodes, 'memory', 'memories')} now ({event.seconds:.1f}s)"
    if event.quarantined:
        yield Level.WARN, f"Quarantined: {number_of(event.quarantined, 'late row or part', 'late rows or parts')}"


def _left_alone(event: e.LeftAlone) -> Lines:
    yield Level.WARN, f"Late arrivals wait: {event.why}"


def _columns_left_out(event: e.ColumnsLeftOut) -> Lines:
    columns = ", ".join(event.columns)
    yield Level.WARN, f"Columns that the target cannot hold stay in SQLite: {columns}; everything else is brought"


def _adopted(event: e.Adopted) -> Lines:
    yield Level.INFO, f"No run tells how {event.target} was made, but it has the memories of {event.source}: adopted"


def _moved(event: e.Moved) -> Lines:
    what = f"at {event.now}, and was at {event.was}" if event.now != event.was else f"another file at {event.now}"
    yield Level.INFO, f"The memory is {what}: it has the rows that {event.target} was made from, and is gone on with"


WORDS: Mapping[type[Event], Callable[[Any], Lines]] = {
    e.CaughtUp: _caught_up,
    e.LeftAlone: _left_alone,
    e.ColumnsLeftOut: _columns_left_out,
    e.Adopted: _adopted,
    e.Moved: _moved,
}
