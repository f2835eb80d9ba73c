"""Events of a published target that is kept in sync, as facts."""

from dataclasses import dataclass

from nimad.events.run import Event


@dataclass(frozen=True)
class CaughtUp(Event):
    """Late arrivals are in the target, and a later process found them there.

    `added`, `changed`, `removed`: memories; `edges`, `turns`: added or changed; `nodes`: in the target now.
    """

    added: int
    changed: int
    removed: int
    edges: int
    turns: int
    quarantined: int
    nodes: int
    seconds: float
    log_file: str = ""  # where a line of it belongs


@dataclass(frozen=True)
class LeftAlone(Event):
    """Late arrivals wait: nothing was written, for a reason that is new."""

    why: str


@dataclass(frozen=True)
class ColumnsLeftOut(Event):
    """Columns came to the source that the target's cannot hold; all else is followed. As `table.column (why)`."""

    columns: tuple[str, ...]


@dataclass(frozen=True)
class Adopted(Event):
    """No run tells how `target` was made, but its memories are those of `source`: it is kept in sync from now on."""

    target: str
    source: str


@dataclass(frozen=True)
class Moved(Event):
    """The memory is another file than was read last, or at another place, and has the rows that `target` was made from.

    `was`, `now`: its paths.
    """

    target: str
    was: str
    now: str
