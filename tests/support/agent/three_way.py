"""Which value has to be in LadybugDB at a rest, told from what both sides wrote: the rule, without nimad's code.

`base` is what was copied from SQLite, `here` what SQLite has now, `there` what LadybugDB had before the comparison.
Only one side changed: its value. Both did: recall figures of the later `last_accessed`, a mark of either side, and of
everything else LadybugDB's.
"""

import math
from collections.abc import Mapping
from typing import Any

from support.agent.ladybug_side import SUMMARY_LENGTH, TEXT_LENGTH, cut
from support.agent.reading import Memory
from support.agent.steps import COLUMNS

#: What the agent takes NULL for.
DEFAULTS: Mapping[str, Any] = {
    "strength": 1.0,
    "decay_rate": 0.01,
    "last_accessed": 0,
    "is_ghost": False,
    "dismissal_count": 0,
}
RECALL = ("strength", "decay_rate", "last_accessed")
CUTS = {"text": TEXT_LENGTH, "summary": SUMMARY_LENGTH}


def expected(base: Memory | None, here: Memory | None, there: Memory | None) -> Memory | None:
    """What LadybugDB has to hold of one memory; None where it may not hold it."""
    here, base, there = with_defaults(here), with_defaults(base), with_defaults(there)
    if here is None:  # it left SQLite, or was never there
        copied = base is not None and there is not None and same(base, there)
        return None if copied else there
    if there is None:  # LadybugDB never had it, or it was removed there
        return here if base is None or not same(base, here) else None
    return {name: _value(name, base, here, there) for name in COLUMNS}


def same(one: Memory, other: Memory) -> bool:
    """Whether the columns that both have hold the same."""
    return not differing(one, other)


def differing(one: Memory, other: Memory) -> list[str]:
    return [name for name in COLUMNS if name in one and name in other and not _equal(one[name], other[name])]


def _value(name: str, base: Memory | None, here: Memory, there: Memory) -> Any:
    if name not in here:
        return there[name]
    if name in RECALL:
        return (here if _recalled_here(base, here, there) else there)[name]
    ours, theirs = here[name], there[name]
    if name in CUTS and ours is not None and cut(ours, CUTS[name]) == theirs:
        return ours  # what LadybugDB had no room for is no change
    if base is None:
        return ours if theirs is None else _both(name, ours, theirs)
    if _equal(base.get(name), theirs):
        return ours
    if _equal(base.get(name), ours):
        return theirs
    return _both(name, ours, theirs)


def _both(name: str, ours: Any, theirs: Any) -> Any:
    if name == "is_ghost":
        return bool(ours) or bool(theirs)
    if name == "dismissal_count":
        return max(ours or 0, theirs or 0)
    return theirs


def _recalled_here(base: Memory | None, here: Memory, there: Memory) -> bool:
    """Whether SQLite's recall figures count, all three of them."""
    changed_here = base is None or any(not _equal(base.get(name), here.get(name)) for name in RECALL)
    changed_there = base is None or any(not _equal(base.get(name), there.get(name)) for name in RECALL)
    if changed_here and changed_there:
        return (here.get("last_accessed") or 0) > (there.get("last_accessed") or 0)
    return changed_here or not changed_there


def with_defaults(memory: Memory | None) -> Memory | None:
    """A memory as the agent reads it."""
    if memory is None:
        return None
    return {name: DEFAULTS.get(name) if value is None else value for name, value in memory.items()}


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-6)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)
