"""The figures that are to be reached, and whether they are."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from measure import Run


@dataclass
class Measured:
    """All that one benchmark found out. Runs by contestant and number of nodes."""

    runs: dict[tuple[str, int], list[Run]] = field(default_factory=dict)
    file_bytes: dict[tuple[str, int], int] = field(default_factory=dict)
    sqlite_bytes: dict[int, int] = field(default_factory=dict)
    batches: dict[tuple[str, int], int] = field(default_factory=dict)
    peak_bytes: dict[int, list[int]] = field(default_factory=dict)
    search_ms: dict[str, float] = field(default_factory=dict)
    late_s: list[float] = field(default_factory=list)
    idle_rss_bytes: int | None = None
    idle_cpu_share: float | None = None

    def seconds(self, who: str, nodes: int) -> list[float]:
        return [run.wall_s for run in self.runs[who, nodes]]

    def ratio(self, one: tuple[str, int], other: tuple[str, int], of: str = "wall_s") -> "Spread":
        """One contestant's figure against another's, round by round where both ran in each, else median by median."""
        mine = [getattr(run, of) for run in self.runs[one]]
        theirs = [getattr(run, of) for run in self.runs[other]]
        if len(mine) != len(theirs):
            theirs = [statistics.median(theirs)] * len(mine)
        return Spread([a / b for a, b in zip(mine, theirs, strict=True)])

    def to_json(self) -> dict[str, Any]:
        plain = dict(vars(self))
        for name in ("runs", "file_bytes", "batches"):
            plain[name] = [
                {"who": who, "nodes": nodes, name: [vars(run) for run in value] if name == "runs" else value}
                for (who, nodes), value in plain[name].items()
            ]
        return plain


@dataclass(frozen=True)
class Spread:
    """Several measurements of the same."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __format__(self, how: str) -> str:
        low, high = format(min(self.values), how), format(max(self.values), how)
        median = format(self.median, how)
        return median if low == high else f"{median} ({low} to {high})"


@dataclass(frozen=True)
class Figure:
    """One line of the table. `stable`: it does not depend on what else the machine does, so CI may fail for it."""

    what: str
    goal: str
    measured: str
    reached: bool
    stable: bool = False

    @property
    def mark(self) -> str:
        return "reached" if self.reached else "**not reached**"


#: The real memory's nodes, and what the growth is measured between.
_REAL = 9_770


def figures(found: Measured, real: int, small: int, large: int) -> list[Figure]:
    """Every figure for which something was measured. `real`, `small`, `large`: nodes of the memories."""
    lines = [
        _at_most("time against the floor's", 2.0, lambda: found.ratio(("nimad", real), ("floor", real))),
        _at_least("faster than upstream 2.x, times", 4.0, lambda: found.ratio(("upstream 2.x", real), ("nimad", real))),
        _at_least("faster than naive, times", 5.0, lambda: found.ratio(("naive", real), ("nimad", real))),
        _at_most(
            f"time of {large:,} nodes against {small:,}",
            round(1.1 * large / small, 2),
            lambda: found.ratio(("nimad", large), ("nimad", small)),
        ),
        _at_most(
            f"bytes written for {large:,} nodes against {small:,}",
            round(1.1 * large / small, 2),
            lambda: found.ratio(("nimad", large), ("nimad", small), "written_bytes"),
            stable=True,
        ),
        _at_most(
            f"`--fixed-batch 500` against growing batches, {small:,} nodes, time",
            2.5,
            lambda: found.ratio(("nimad, fixed 500", small), ("nimad", small)),
        ),
        *_sizes(found, real),
        _at_most("batches of nodes", 2, lambda: Spread([found.batches["nimad", real]]), "g", stable=True),
        _at_most(
            "peak memory of all our processes, MB",
            450,
            lambda: Spread([peak / 1e6 for peak in found.peak_bytes[real]]),
            ".0f",
        ),
        _at_least(_search(found), 3.0, lambda: Spread([found.search_ms["fts5_ms"] / found.search_ms["contains_ms"]])),
        _at_most("one turn more, until it is in the target, s", 1.5, lambda: Spread(found.late_s)),
        _at_most("daemon idle, MB of RSS", 40, lambda: _if_any(found.idle_rss_bytes, 1e-6), ".1f"),
        _at_most("daemon idle, % of a processor", 0.1, lambda: _if_any(found.idle_cpu_share, 100), ".3f"),
    ]
    fixed = sorted(nodes for who, nodes in found.runs if who == "nimad, fixed 500" and nodes > small)
    lines += [
        Figure(f"`--fixed-batch 500` of {nodes:,} nodes", "completes", "complete", reached=True) for nodes in fixed
    ]
    return [line for line in lines if line is not None]


def _sizes(found: Measured, real: int) -> list[Figure | None]:
    def file(who: str) -> int:
        return found.file_bytes[who, real]

    return [
        _at_most(
            "bytes written against the final file's",
            3.5,
            lambda: Spread([run.written_bytes / file("nimad") for run in found.runs["nimad", real]]),
            stable=True,
        ),
        _at_most("final file against the floor's", 1.05, lambda: Spread([file("nimad") / file("floor")]), stable=True),
        _at_least("final file smaller than SQLite's, %", 30.0, lambda: _smaller(found, "nimad", real), ".1f"),
        _at_least(
            "for comparison: the floor's file smaller than SQLite's, %",
            30.0,
            lambda: _smaller(found, "floor", real),
            ".1f",
        ),
    ]


def _smaller(found: Measured, who: str, nodes: int) -> Spread:
    return Spread([100 * (1 - found.file_bytes[who, nodes] / found.sqlite_bytes[nodes])])


def _search(found: Measured) -> str:
    each = " to ".join(f"{found.search_ms[name]:.1f}" for name in ("contains_ms", "fts5_ms") if name in found.search_ms)
    return f"text search, 10 hits: faster than FTS5, times ({each} ms)"


def _if_any(value: float | None, unit: float) -> Spread:
    if value is None:
        raise KeyError
    return Spread([value * unit])


def _at_most(
    what: str, goal: float, value: Callable[[], Spread], how: str = ".2f", *, stable: bool = False
) -> Figure | None:
    return _figure(what, f"≤ {goal:g}", value, how, lambda got: got <= goal, stable=stable)


def _at_least(
    what: str, goal: float, value: Callable[[], Spread], how: str = ".2f", *, stable: bool = False
) -> Figure | None:
    return _figure(what, f"≥ {goal:g}", value, how, lambda got: got >= goal, stable=stable)


def _figure(
    what: str, goal: str, value: Callable[[], Spread], how: str, reached: Callable[[float], bool], *, stable: bool
) -> Figure | None:
    """A line, or None where nothing of it was measured."""
    try:
        got = value()
        median = got.median
    except (KeyError, statistics.StatisticsError):
        return None
    return Figure(what, goal, format(got, how), reached(median), stable)
