"""The words for each event of the service."""

from collections.abc import Callable, Mapping
from typing import Any

from nimad.migration import follow_events as f
from nimad.migration.events import Event
from nimad.report.levels import Level, Lines
from nimad.service import events as s
from nimad.words import number_of


def _waiting(event: s.Waiting) -> Lines:
    yield Level.INFO, f"Waiting for {event.what}: {event.why}"


def _watching(event: s.Watching) -> Lines:
    how = "looking now and then" if event.polls else "watching"
    yield Level.DEBUG, f"{number_of(event.memories, 'memory', 'memories')} are in the target; {how} for late ones"


def _postponed(event: s.Postponed) -> Lines:
    yield Level.WARN, f"{event.message}; trying again in {event.delay_s:.0f}s"


def _reloaded(event: s.Reloaded) -> Lines:
    what = f": other values for {', '.join(event.changed)}" if event.changed else "; nothing in it is new"
    yield Level.INFO, f"The configuration was read again{what}"


def _reload_refused(event: s.ReloadRefused) -> Lines:
    yield Level.ERROR, f"{event.message}. The configuration before goes on to hold"


def _stopping(_: s.Stopping) -> Lines:
    yield Level.INFO, "Stopping: this batch may end, or is dropped after some seconds; everything counted is kept"


def _caught_up(event: f.CaughtUp) -> Lines:
    memories = {"added": event.added, "brought up to date": event.changed, "taken out": event.removed}
    said = [f"{number_of(count, 'memory', 'memories')} {what}" for what, count in memories.items() if count]
    said += [number_of(count, what) for what, count in (("edge", event.edges), ("turn", event.turns)) if count]
    if said:
        yield Level.INFO, f"Late arrivals: {', '.join(said)} ({event.seconds:.1f}s); {event.nodes} are in the target"
    if event.quarantined:
        yield Level.WARN, f"Late arrivals: {number_of(event.quarantined, 'entry', 'entries')} went to quarantine"


def _left_alone(event: f.LeftAlone) -> Lines:
    yield Level.WARN, f"Late arrivals wait: {event.why}"


def _handed_over(event: f.HandedOver) -> Lines:
    yield Level.INFO, f"Handed over: OpenClaw reads {event.target}, which is never written to from now on"


WORDS: Mapping[type[Event], Callable[[Any], Lines]] = {
    f.CaughtUp: _caught_up,
    f.LeftAlone: _left_alone,
    f.HandedOver: _handed_over,
    s.Waiting: _waiting,
    s.Watching: _watching,
    s.Postponed: _postponed,
    s.Reloaded: _reloaded,
    s.ReloadRefused: _reload_refused,
    s.Stopping: _stopping,
}
