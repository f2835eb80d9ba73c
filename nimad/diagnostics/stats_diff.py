"""Differences between the stats of a source and of its target, and which of them are expected."""

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nimad.source.schema import EDGES, NODES, TURNS
from nimad.source.stats import ExpectedDifferences, MemoryStats
from nimad.state.quarantine_summary import READ

#: Digits to which two means are the same: engines add up in different orders.
_DIGITS = 9
#: What the figure is called that counts the rows of a table.
_ROWS: Mapping[str, str] = {NODES: "nodes", EDGES: "edges", TURNS: "turns"}


@dataclass(frozen=True)
class StatsDifference:
    """One figure that differs. `what`: its name in `MemoryStats`, followed by the layer, if any."""

    what: str
    source: Any
    target: Any
    why: str = ""  # that explains it

    @property
    def expected(self) -> bool:
        return bool(self.why)


@dataclass
class SetAsideFigures:
    """What rows and values in quarantine take from figures, by table and figure, without the rows themselves.

    `columns`: those of nodes of which a value is there; `unread`: by table, whole rows of which nothing else is known.
    """

    taken: Counter[tuple[str, str]] = field(default_factory=Counter)
    columns: set[str] = field(default_factory=set)
    unread: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, entries: Iterable[Mapping[str, Any]], layers: Collection[str]) -> "SetAsideFigures":
        """Of entries, as many as there may be. `layers`: those that either side has."""
        found = cls()
        for number, entry in enumerate(entries):
            if number >= READ:
                found.unread.update(dict.fromkeys(_ROWS, sys.maxsize))
                break
            table, part, row = entry["table"], entry["part"], entry.get("row")
            if table not in _ROWS:
                continue
            if table == NODES and part in _COLUMN_OF.values():
                found.columns.add(part)
            if part == "embedding":
                found.taken[table, "embeddings"] += 1
            if part == "row":
                found.taken[table, _ROWS[table]] += 1
                if not isinstance(row, Mapping):
                    found.unread[table] += 1
                    continue
                found.taken[table, "embeddings"] += row.get("embedding") is not None
                if (layer := _name(row.get("layer"))) in layers:
                    found.taken[table, f"layer {layer}"] += 1
        return found


@dataclass(frozen=True)
class StatsPair:
    """Both sides, and what is known of why they may differ.

    `aside`: what was set aside; `tables`: of the source, which the run took, None where nothing tells; `late`: rows
    that came to the source, and are not in the target yet; `own`: rows that the target alone ever had; `removed`: rows
    of the source that the agent removed from the target.
    """

    source: MemoryStats
    target: MemoryStats
    aside: SetAsideFigures = field(default_factory=SetAsideFigures)
    tables: Sequence[str] | None = None
    late: ExpectedDifferences = field(default_factory=ExpectedDifferences)
    own: ExpectedDifferences = field(default_factory=ExpectedDifferences)
    removed: ExpectedDifferences = field(default_factory=ExpectedDifferences)


def differences(pair: StatsPair) -> list[StatsDifference]:
    """Every figure that differs, in the order in which they are shown."""
    return [_explained(pair, *found) for found in _differing(pair.source, pair.target)]


def _differing(source: MemoryStats, target: MemoryStats) -> Iterator[tuple[str, Any, Any]]:
    for name in ("nodes", "turns", "edges", "embeddings", "recent", "first_ms", "last_ms"):
        if getattr(source, name) != getattr(target, name):
            yield name, getattr(source, name), getattr(target, name)
    for layer in [*source.layers, *(name for name in target.layers if name not in source.layers)]:
        ours, theirs = source.layers.get(layer, 0), target.layers.get(layer, 0)
        if ours != theirs:
            yield f"layer {layer}", ours, theirs
    if _rounded(source.mean_fe_score) != _rounded(target.mean_fe_score):
        yield "mean_fe_score", source.mean_fe_score, target.mean_fe_score


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)


def _explained(pair: StatsPair, what: str, source: Any, target: Any) -> StatsDifference:
    return StatsDifference(what, source, target, _why(pair, what, source, target))


def _why(pair: StatsPair, what: str, source: Any, target: Any) -> str:
    """What accounts for a difference: rows that both have had have to agree, and each may have others."""
    table = {"turns": TURNS, "edges": EDGES}.get(what, NODES)
    if pair.tables is not None and table not in pair.tables:
        return "left out"
    values = False
    if (column := _COLUMN_OF.get(what)) is not None:  # of which rows follows from how many
        values = column in pair.aside.columns
        what, source, target = "nodes", pair.source.nodes, pair.target.nodes
    aside = pair.aside.taken[table, what]
    late, own, removed = (_figure(apart, what) for apart in (pair.late, pair.own, pair.removed))
    beyond = (source - late - removed) - aside - (target - own)
    if not 0 <= beyond <= pair.aside.unread[table]:
        return ""
    if late > own:
        return "late"
    return "agent" if own or removed else "quarantine" if aside or values or beyond else ""


def _figure(apart: ExpectedDifferences, what: str) -> int:
    if what.startswith("layer "):
        return apart.layers.get(what.removeprefix("layer "), 0)
    return {"nodes": apart.nodes, "turns": apart.turns, "edges": apart.edges, "embeddings": apart.embeddings}[what]


#: Figures that come from a column of some rows, whichever these are.
_COLUMN_OF: Mapping[str, str] = {
    **dict.fromkeys(("first_ms", "last_ms", "recent"), "timestamp"),
    "mean_fe_score": "fe_score",
}


def _name(layer: Any) -> str:
    return layer if isinstance(layer, str) else repr(layer) if isinstance(layer, int | float | None) else ""
