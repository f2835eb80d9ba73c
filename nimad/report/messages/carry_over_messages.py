"""Messages about what a new target takes over from the old one."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nimad.events import run as e
from nimad.events.run import Event
from nimad.plural import number_of
from nimad.report.level import Level

Lines = Iterator[tuple[Level, str]]


def _brought_along(event: e.BroughtAlong) -> Lines:
    if event.brought:
        yield Level.INFO, f"Brought along from the target before: {_numbers(event.brought)}"
    if event.ids:
        yield Level.INFO, f"Under the ids of the target before, which are not SQLite's: {_numbers(event.ids)}"
    if event.left_behind:
        yield Level.WARN, f"Only the backup of the target before holds: {_numbers(event.left_behind)}"

    if event.put_back:
        yield (
            Level.WARN,
            "Missing in the target before, too many to have been removed one by one, and there again: "
            f"{_numbers(event.put_back)}",
        )


def _not_brought_along(event: e.NotBroughtAlong) -> Lines:
    yield Level.WARN, f"What {event.target} alone holds is not brought along, and stays in its backup: {event.why}"


def _numbers(counts: Mapping[str, int]) -> str:
    """How many of what, as `2 of MemoryNode, 3 changed values`."""
    return ", ".join(
        number_of(count, *_BROUGHT[name]) if name in _BROUGHT else f"{count} of {name}"
        for name, count in counts.items()
    )


_BROUGHT: Mapping[str, tuple[str, str]] = {
    "memory_nodes": ("memory", "memories"),
    "memory_edges": ("edge", "edges"),
    "memory_turns": ("turn", "turns"),
    "values": ("changed value", "changed values"),
    "links": ("link", "links"),
    "removed": ("removal", "removals"),
}


WORDS: Mapping[type[Event], Callable[[Any], Lines]] = {
    e.BroughtAlong: _brought_along,
    e.NotBroughtAlong: _not_brought_along,
}
