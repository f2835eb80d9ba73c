"""Naming: by which id the target knows a row of the source, when the agent writes to both of them itself.

nima-core takes the highest id and one for its own rows in the target, so an id there need not mean the memory that has
it in SQLite. A memory is recognised by its turn and layer, a turn by its name.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from nimad.worker.ledger import Notes

#: What a row is recognised by: of a node its turn and layer, of a turn its name.
Natural = tuple[Any, ...]


@dataclass(frozen=True)
class Place:
    """A row's id in the target, and whether it is there."""

    id: int
    there: bool


@dataclass
class Names:
    """The ids of the target's nodes, or turns. `others`: by id, what those are that may be none of the source's."""

    notes: Notes
    there: set[int]
    others: Mapping[int, Natural]
    parts: int  # of a natural key
    aliases: dict[int, int] = field(init=False)
    placed: set[int] = field(default_factory=set)  # the source's keys
    _taken: set[int] = field(default_factory=set)
    _by_natural: dict[Natural, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.aliases = dict(self.notes.aliases)
        for key, values in sorted(self.others.items()):
            if values[0] is not None:
                self._by_natural.setdefault(values[: self.parts], []).append(key)

    def of(self, key: int) -> int:
        return self.aliases.get(key, key)

    def knows(self, key: int | None) -> bool:
        """Whether a row of the source is in the target, by whatever id."""
        return key in self.placed or (key is not None and key in self.notes.digests and self.of(key) in self.there)

    def rivals(self, naturals: Collection[Natural]) -> set[int]:
        """Rows of the target that may be the ones looked for, unless the source has them by their own id."""
        return {key for natural in naturals for key in self._by_natural.get(natural, ())}

    def place(self, key: int, natural: Natural, claimed: Collection[int], alike: Callable[[int], bool]) -> Place | None:
        """Where a row is, or is to be; None where it could not be found again. `claimed`: other rows' in the source."""
        own = self.of(key)
        if key in self.notes.digests and own in self.there:
            self.placed.add(key)
            return Place(own, there=True)
        named = natural[0] is not None
        if key in self.others and key not in self._taken:
            same = named and self.others[key][: self.parts] == natural
            if same or alike(key):
                return self._take(key, key)
        for other in self._by_natural.get(natural, ()) if named else ():
            if other not in self._taken and other not in claimed and other != key:
                return self._take(key, other)
        if key not in self.there:
            return self._new(key, key)
        # Below every id: no counter and no highest id plus one ever comes there.
        return self._new(key, min(0, *self.there) - 1) if named else None

    def _take(self, key: int, at: int) -> Place:
        self._taken.add(at)
        self._name(key, at)
        return Place(at, there=True)

    def _new(self, key: int, at: int) -> Place:
        self.there.add(at)
        self._name(key, at)
        return Place(at, there=False)

    def _name(self, key: int, at: int) -> None:
        self.placed.add(key)
        if at == key:
            self.aliases.pop(key, None)
        else:
            self.aliases[key] = at
