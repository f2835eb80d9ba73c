"""Messages of the service."""

from collections.abc import Callable, Mapping
from typing import Any

from nimad.events import service as s
from nimad.events.run import Event
from nimad.plural import number_of
from nimad.report.level import Level, Lines


def _waiting(event: s.Waiting) -> Lines:
    yield Level.INFO, f"Waiting for {event.what}: {event.why}"


def _disk_came(event: s.DiskCame) -> Lines:
    yield Level.INFO, f"The disk at {event.place} is there; restarting, because this process cannot see it"


def _target_gone(event: s.TargetGone) -> Lines:
    yield Level.WARN, f"{event.target} is gone. To migrate again, restart the service"


def _remounted(event: s.Remounted) -> Lines:
    yield Level.WARN, f"Another file system is at {event.folder} now; what lies there is looked at anew"


def _name_missing(event: s.NameMissing) -> Lines:
    yield Level.WARN, f"the name {event.name} is missing; nimad migrate makes it again: {event.command}"


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


WORDS: Mapping[type[Event], Callable[[Any], Lines]] = {
    s.Waiting: _waiting,
    s.DiskCame: _disk_came,
    s.TargetGone: _target_gone,
    s.Remounted: _remounted,
    s.NameMissing: _name_missing,
    s.Watching: _watching,
    s.Postponed: _postponed,
    s.Reloaded: _reloaded,
    s.ReloadRefused: _reload_refused,
    s.Stopping: _stopping,
}
