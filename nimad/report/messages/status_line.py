"""The status line of the service, as `systemctl status` shows it."""

from collections.abc import Callable, Mapping
from typing import Any

from nimad.events import run as e
from nimad.events import service as s
from nimad.events import sync as f
from nimad.plural import number_of


def status(event: e.Event) -> str | None:
    """What the status line says from this event on; None where it stays as it is."""
    words = _WORDS.get(type(event))
    return words(event) if words else None


def duration_of_run(seconds: float) -> str:
    """As people say it: `12 s`, `4 min`, `2 h 5 min`."""
    if seconds < 90:  # noqa: PLR2004 - a minute and a half is still counted in seconds
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _batch_loaded(event: e.BatchLoaded) -> str:
    share = 100 * event.done // event.of if event.of else 100
    done = f"{event.done:,} of {event.of:,} ({share} %)"
    noun = event.table.removeprefix("memory_")
    return f"Migrating {noun}: batch {event.number}, {done}, ETA {duration_of_run(event.eta_s)}"


def _batch_failed(event: e.BatchFailed) -> str:
    again = "" if event.delay_s is None else f"; trying again in {duration_of_run(event.delay_s)}"
    return f"Batch failed (attempt {event.attempt} of {event.attempts}): {event.message}{again}"


def _watching(event: s.Watching) -> str:
    how = "looking for late ones now and then" if event.polls else "watching for late ones"
    return f"Complete: {_memories(event.memories)}; {how}"


def _memories(count: int) -> str:
    return f"{count:,} {'memory' if count == 1 else 'memories'}"


_WORDS: Mapping[type[e.Event], Callable[[Any], str]] = {
    e.Analyzing: lambda event: f"Analyzing {event.source}",
    e.Started: lambda _: "Migrating",
    e.BatchLoaded: _batch_loaded,
    e.BatchFailed: _batch_failed,
    e.Isolating: lambda event: f"Looking for what stops a batch of {number_of(event.rows, 'row')}",
    e.Paused: lambda event: f"Paused; go on with: {event.command}",
    e.Resumed: lambda _: "Going on",
    e.Verifying: lambda event: "Verifying every row" if event.level == "full" else f"Verifying ({event.level})",
    e.Published: lambda event: f"Published {event.target}",
    e.Finished: lambda event: f"Complete: {_memories(event.result.migrated)}",
    e.NothingToDo: lambda event: event.why,
    f.LeftAlone: lambda event: f"Complete; late arrivals wait: {event.why}",
    s.Waiting: lambda event: f"Waiting for {event.what}",
    s.DiskCame: lambda event: f"The disk at {event.place} is there; restarting",
    s.TargetGone: lambda event: f"{event.target} is gone",
    s.Watching: _watching,
    s.Postponed: lambda event: f"{event.message}; trying again in {duration_of_run(event.delay_s)}",
    s.Stopping: lambda _: "Stopping: everything counted is kept",
}
