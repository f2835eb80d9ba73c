"""The three-way rule: which value a column gets when SQLite and the agent may both have changed it.

The base is what SQLite held when the row was last reconciled (`state/ledger.py`). Only SQLite changed: SQLite's value.
Only the target changed: the target's. Both: recall figures, all of them together, by the later `last_accessed`, marks
the stronger one, all else the target's. `docs/ARCHITECTURE.md` has the table of who wins when.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nimad.state.ledger import check_of
from nimad.worker.identity import natural_key

#: Figures that a recall writes together.
RECALL = frozenset({"strength", "decay_rate", "last_accessed", "recall_count"})
#: Marks that no older row takes away: the larger value is the stronger one.
MARKS = frozenset({"is_ghost", "dismissal_count"})
#: Texts of which nima-core writes only the beginning to the target, and the shortest beginning that is taken for one.
CUT = frozenset({"text", "summary"})
CUT_CHARS = 100


@dataclass(frozen=True)
class Conflict:
    """A column that both sides changed. `lost`: the value that gives way; `winner`: `sqlite` or `target`."""

    column: str
    lost: Any
    winner: str


@dataclass(frozen=True)
class Resolution:
    """Of one row that both sides have: columns that get SQLite's value, and columns in which the target's stays.

    `undecided`: of the latter, those in which nothing tells that the target's value is the newer one.
    """

    take: frozenset[str] = frozenset()
    keep: frozenset[str] = frozenset()
    conflicts: tuple[Conflict, ...] = ()
    undecided: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Base:
    """What is known of a row's last reconciled state.

    `checks`: by column, None where the row was never reconciled; `defaults`: of the columns that have one, what
    the target held before the source had them; `noted`: whether there is a ledger at all; `is_ours`: whether a value is
    one that we brought, though it is not the base: a run that ended before it looked, or a target that lost what we
    brought later; `undecided`: columns in which the target's value was never SQLite's base, and stayed for want of a
    better rule.
    """

    checks: Mapping[str, bytes] | None
    defaults: Mapping[str, Any]
    noted: bool = True
    is_ours: Callable[[str, bytes], bool] = lambda *_: False
    undecided: frozenset[str] = frozenset()

    def check(self, column: str) -> bytes | None:
        if self.checks is None:
            return None
        return self.checks.get(column) or check_of(self.defaults.get(column))


def resolve(here: Mapping[str, Any], there: Mapping[str, Any], unlike: Sequence[str], base: Base) -> Resolution:
    """Decide for every column in which SQLite's converted row and the target's row differ."""
    take, undecided, conflicts = set[str](), set[str](), []
    recalled = _is_recalled(here, base), _is_recalled(there, base, is_ours=base.is_ours)
    for column in unlike:
        known, now, both = base.check(column), check_of(there[column]), False
        hides = there[column] is None and column in base.defaults  # from the agent's readers, and is nobody's word
        if hides or (now != known and base.is_ours(column, now)):
            taken = True
        elif known is None:
            taken = _without_base(column, here, there, base)
            both = base.noted and column in CUT and not taken  # two texts, or two cuts of one: written on both sides
        else:
            taken, theirs = recalled if column in RECALL else (check_of(here[column]) != known, now != known)
            if taken and theirs:
                taken, both = _is_stronger(column, here, there), True
        if taken:
            take.add(column)
        elif known is None or both or column in base.undecided:
            undecided.add(column)
        if both:
            lost, winner = (there[column], "sqlite") if taken else (here[column], "target")
            conflicts.append(Conflict(column, lost, winner))
    return Resolution(frozenset(take), frozenset(unlike) - take, tuple(conflicts), frozenset(undecided))


def _is_recalled(side: Mapping[str, Any], base: Base, is_ours: Callable[[str, bytes], bool] = lambda *_: False) -> bool:
    """Whether a side changed any of the figures that a recall writes: they are of one moment, and go together."""
    checks = {column: check_of(side[column]) for column in RECALL & side.keys()}
    return any(check != base.check(column) and not is_ours(column, check) for column, check in checks.items())


def _without_base(column: str, here: Mapping[str, Any], there: Mapping[str, Any], base: Base) -> bool:
    """Whether SQLite's value is taken where nothing tells what was copied: only where the target lacks one."""
    if there[column] is None or is_cut(column, here[column], there[column]):
        return True
    return base.noted and column in RECALL | MARKS and _is_stronger(column, here, there)


def _is_stronger(column: str, here: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    """Whether SQLite's value wins where both sides wrote one."""
    if column in RECALL:
        return _number(here.get("last_accessed")) > _number(there.get("last_accessed"))
    if column in MARKS:
        return _number(here[column]) > _number(there[column])
    return is_cut(column, here[column], there[column])


def is_cut(column: str, whole: Any, cut: Any) -> bool:
    """Whether the target has only the beginning of SQLite's text, as nima-core writes it.

    SQLite's may be cut as well: then it is the longer one without the sign of the cut.
    """
    if column not in CUT or not isinstance(whole, str) or not isinstance(cut, str) or len(cut) < CUT_CHARS:
        return False
    begins, says = cut.removesuffix(natural_key.CUT_END), whole.removesuffix(natural_key.CUT_END)
    return whole.startswith(begins) and (len(cut) < len(whole) or len(begins) < len(says))


def _number(value: Any) -> float:
    return value if isinstance(value, (int, float)) else 0
