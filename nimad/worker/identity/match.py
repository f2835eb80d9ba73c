"""Matching rows of the target to rows of SQLite, whatever has been written to either side since.

The rules are those of `worker/identity/id_map.py`, but no ledger is required: first the same id and the same memory,
then the same turn, layer and moment, then the highest match score. A row of the target matches at most one row of
SQLite.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from nimad.state.ledger import Notes
from nimad.worker.identity import natural_key
from nimad.worker.identity.id_map import IdMap, SourceRow
from nimad.worker.identity.natural_key import NaturalKey

#: Rows whose texts are held at the same time.
_TEXTS = 500

#: The texts of rows, by key; or every value of theirs that is one.
Texts = Callable[[Collection[int]], Mapping[int, Any]]
#: The target's ids of rows of SQLite, by key.
Pairs = dict[int, int]


def pair(
    table: str,
    here: Mapping[int, NaturalKey],
    there: Mapping[int, NaturalKey],
    texts: tuple[Texts, Texts],
    notes: Notes | None = None,
    wholes: tuple[Texts, Texts] | None = None,
) -> Pairs:
    """Find the rows of the target that SQLite's are; those in neither of the result's sides have no counterpart.

    `texts`: of SQLite's rows and of the target's; `wholes`: all texts of theirs, for rows that have no turn or text to
    be known by; `notes`: what a ledger says, where there is one.
    """
    pairs = _pair_noted(table, here, there, notes or Notes())
    _pair_equals(here, there, pairs)
    _pair_unmoved(here, there, texts, pairs)
    _pair_alike(table, here, there, texts, pairs)
    if wholes is not None:
        _pair_nameless(here, there, wholes, pairs)
    _pair_in_place(here, there, texts, pairs, notes or Notes())
    return pairs


def _pair_noted(table: str, here: Mapping[int, NaturalKey], there: Mapping[int, NaturalKey], notes: Notes) -> Pairs:
    """Pair what is there by its own id, or by the other one that the ledger has for it."""
    pairs, taken = Pairs(), set[int]()
    for key in sorted(here, key=lambda key: key not in notes.digests):  # a row that is noted has its id
        at = notes.id_of(key)
        if at in there and at not in taken and _is_own(table, key, here[key], there[at], notes):
            pairs[key] = at
            taken.add(at)
    return pairs


def _is_own(table: str, key: int, here: NaturalKey, there: NaturalKey, notes: Notes) -> bool:
    """Whether a row still is the one with its id there.

    Without a turn, layer and moment alone do not say so: only with a ledger that has a mark of it, and its id.
    """
    if not natural_key.same(table, here, there):
        return False
    if here[0] and there[0]:
        return True
    marked = notes.marks.get(key)
    return marked is not None and key in notes.digests and natural_key.has_fingerprint(table, there, marked)


def _pair_equals(here: Mapping[int, NaturalKey], there: Mapping[int, NaturalKey], pairs: Pairs) -> None:
    """Pair what has the same turn, layer and moment under another id."""
    taken = set(pairs.values())
    free: dict[NaturalKey, list[int]] = {}
    for at, its in sorted(there.items(), reverse=True):
        if its[0] and at not in taken:
            free.setdefault(its, []).append(at)
    for key, its in sorted(here.items()):
        if key not in pairs and free.get(its):
            pairs[key] = free[its].pop()


def _pair_unmoved(
    here: Mapping[int, NaturalKey], there: Mapping[int, NaturalKey], texts: tuple[Texts, Texts], pairs: Pairs
) -> None:
    """Pair what has the same id, layer, moment and text; nothing could be more like it.

    Where thousands of rows without a turn have one moment, as after an import, each would be held against all.
    """
    taken = set(pairs.values())
    left = [key for key, its in sorted(here.items()) if key not in pairs and key not in taken and its == there.get(key)]
    for start in range(0, len(left), _TEXTS):
        part = left[start : start + _TEXTS]
        own, theirs = texts[0](part), texts[1](part)
        pairs.update((key, key) for key in part if own.get(key) == theirs.get(key))


def _pair_alike(
    table: str,
    here: Mapping[int, NaturalKey],
    there: Mapping[int, NaturalKey],
    texts: tuple[Texts, Texts],
    pairs: Pairs,
) -> None:
    """Pair what is left by likeness: of turn, layer and moment, and of text."""
    left = sorted(here.keys() - pairs.keys())
    taken = set(pairs.values())
    others = {at: its for at, its in there.items() if at not in taken}
    moments = Counter(its[1:] for its in here.values()) | Counter(its[1:] for its in there.values())
    names = IdMap(table, Notes(), set(others), others, moments=moments)
    for start in range(0, len(left) if others else 0, _TEXTS):
        _place(names, left[start : start + _TEXTS], here, texts, pairs)


def _place(
    names: IdMap, keys: Sequence[int], here: Mapping[int, NaturalKey], texts: tuple[Texts, Texts], pairs: Pairs
) -> None:
    near = {key: names.near(here[key]) | ({key} & names.others.keys()) for key in keys}
    wanted = [key for key in keys if near[key]]
    if not wanted:
        return
    own, theirs = texts[0](wanted), texts[1](set().union(*near.values()))
    for key in wanted:
        place = names.place(SourceRow(key, here[key], own.get(key), ()), lambda _: theirs)
        if place is not None and place.there:
            pairs[key] = place.id


def _pair_nameless(
    here: Mapping[int, NaturalKey], there: Mapping[int, NaturalKey], wholes: tuple[Texts, Texts], pairs: Pairs
) -> None:
    """Pair what has no turn and says the same in every column, whatever its id is."""
    taken = set(pairs.values())
    left = [key for key, its in sorted(here.items()) if key not in pairs and not its[0]]
    free = [at for at, its in sorted(there.items(), reverse=True) if at not in taken and not its[0]]
    if not left or not free:
        return
    own, theirs = wholes[0](left), wholes[1](free)
    alike: dict[Any, list[int]] = {}
    for at in free:
        alike.setdefault((there[at], theirs.get(at)), []).append(at)
    for key in left:
        if alike.get(what := (here[key], own.get(key))):
            pairs[key] = alike[what].pop()


def _pair_in_place(
    here: Mapping[int, NaturalKey],
    there: Mapping[int, NaturalKey],
    texts: tuple[Texts, Texts],
    pairs: Pairs,
    notes: Notes,
) -> None:
    """Pair what has no turn, and its id, layer and text, where the target had no place for the moment.

    It was set aside alone, and has been put right in SQLite since.
    """
    taken, left = set(pairs.values()), Pairs()
    for key in sorted(here.keys() - pairs.keys(), key=lambda key: key not in notes.digests):
        at, its = notes.id_of(key), here[key]
        if at in there and at not in taken and not its[0] and there[at] == (*its[:-1], None):
            left[key] = at
            taken.add(at)
    own, theirs = (texts[0](left.keys()), texts[1](set(left.values()))) if left else ({}, {})
    pairs.update((key, at) for key, at in left.items() if own.get(key) and own.get(key) == theirs.get(at))
