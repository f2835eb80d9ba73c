"""The id map: the target's id for a row of the source, when the agent writes to both.

nima-core takes the highest id and one for its own rows in the target, so an id there need not mean the memory that has
it in SQLite; and it takes an id again once its newest memory is gone. So the ledger is asked which id a row had, and
the target whose it is now.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from nimad.state.ledger import Notes
from nimad.worker.identity import natural_key
from nimad.worker.identity.natural_key import NaturalKey

#: The texts of rows of the target.
Texts = Callable[[Collection[int]], Mapping[int, str | None]]


@dataclass(frozen=True)
class TargetId:
    """A row's id in the target, and whether it is there."""

    id: int
    there: bool


@dataclass(frozen=True)
class SourceRow:
    """A row that is looked for. `claimed`: rows of the target that are other rows' of the source."""

    key: int
    natural: NaturalKey
    text: str | None
    claimed: Collection[int]


@dataclass
class IdMap:
    """The ids of the target's nodes, or turns. `others`: by id, what those are that may be none of the source's."""

    table: str
    notes: Notes
    there: set[int]
    others: dict[int, NaturalKey]
    ours: dict[int, NaturalKey] = field(default_factory=dict)  # noted ones, as the target has them
    aliases: dict[int, int] = field(init=False)
    placed: set[int] = field(default_factory=set)  # the source's keys
    gone: set[int] = field(default_factory=set)  # keys whose rows left the source
    going: set[int] = field(default_factory=set)  # the target's ids of those
    moments: Counter[NaturalKey] = field(default_factory=Counter)  # how many rows are of each layer and moment
    _taken: set[int] = field(default_factory=set)
    _by_name: dict[NaturalKey, list[int]] = field(default_factory=dict)
    _by_moment: dict[NaturalKey, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.aliases = {**self.notes.plans, **self.notes.aliases}
        self.moments = self.moments or Counter(its[1:] for its in self.others.values())
        for key, its in sorted(self.others.items()):
            self._offer(key, its)

    def of(self, key: int) -> int:
        return self.aliases.get(key, key)

    def noted(self, key: int | None) -> bool:
        """Whether the ledger has a row, and its id is there."""
        if key is None or key not in self.notes.digests or key in self.gone:
            return False
        return self.of(key) in self.there and self.of(key) not in self.going

    def knows(self, key: int | None) -> bool:
        """Whether a row of the source is in the target, by whatever id."""
        return key in self.placed or (key is not None and self.noted(key) and self.is_ours(key))

    def is_ours(self, key: int) -> bool:
        """Whether the row that has a noted row's id still is that row, as far as the ledger has a mark of it."""
        marked, its = self.notes.marks.get(key), self.ours.get(self.of(key))
        return marked is None or its is None or natural_key.has_fingerprint(self.table, its, marked)

    def near(self, natural: NaturalKey) -> set[int]:
        """Rows of the target that may be the one looked for."""
        named = self._by_name.get(natural[:-1], ()) if natural[0] else ()
        # One without a name may be any of that moment; one with a name only those that have none.
        moment = self._by_moment.get(natural[1:], ()) if natural[-1] is not None else ()
        return {*named, *(key for key in moment if not (natural[0] and self.others[key][0]))}

    def forget(self, key: int) -> None:
        """What has a noted row's id is another's, and may be the row of another key."""
        self.gone.add(key)
        if (own := self.of(key)) in self.ours and own not in self.others:
            self.others[own] = self.ours[own]
            self._offer(own, self.ours[own])

    def leave(self, key: int) -> None:
        """A noted row is to be taken out. Its id is nobody's until that is done."""
        self.gone.add(key)
        self.going.add(self.of(key))

    def left(self) -> None:
        """What was to be taken out is."""
        self.there -= self.going
        self.going = set()
        for key in self.gone - self.placed:
            self.aliases.pop(key, None)

    def place(self, wanted: SourceRow, texts: Texts) -> TargetId | None:
        """Where a row is, or is to be; None where it could not be found again."""
        key = wanted.key
        if self.noted(key):
            if natural_key.same(self.table, wanted.natural, self.ours[self.of(key)]):
                self.placed.add(key)
                return TargetId(self.of(key), there=True)
            self.forget(key)
        if (found := self._recognised(wanted, texts)) is not None:
            self._taken.add(found)
            return self._name(key, found, there=True)
        if key not in self.there:
            return self._name(key, key, there=False)
        # Below every id: no counter and no highest id plus one ever comes there.
        return self._name(key, min(0, *self.there) - 1, there=False) if wanted.natural[0] else None

    def _recognised(self, wanted: SourceRow, texts: Texts) -> int | None:
        """The row of the target that is most like one of the source."""
        key, natural = wanted.key, wanted.natural
        own = key in self.others and self._is_free(key)
        if own and natural[0] and self.others[key] == natural:
            return key
        near = {other for other in self.near(natural) if self._is_free(other) and other not in wanted.claimed}
        near |= {key} if own else set()
        there = texts(near) if near else {}
        ranked = [
            (rank, other == key, -other)
            for other in near
            if (
                rank := natural_key.match_score(
                    self.table,
                    natural,
                    self.others[other],
                    (wanted.text, there.get(other)),
                    own=other == key,
                    alone=self.moments[natural[1:]] == 1,
                )
            )
        ]
        return -max(ranked)[2] if ranked else None

    def _is_free(self, at: int) -> bool:
        return at not in self._taken and at not in self.going

    def _offer(self, at: int, its: NaturalKey) -> None:
        if its[0]:
            self._by_name.setdefault(its[:-1], []).append(at)
        self._by_moment.setdefault(its[1:], []).append(at)

    def _name(self, key: int, at: int, *, there: bool) -> TargetId:
        self.there.add(at)
        self.placed.add(key)
        if at == key:
            self.aliases.pop(key, None)
        else:
            self.aliases[key] = at
        return TargetId(at, there=there)

    def keys_at(self, ids: Iterable[int]) -> dict[int, int]:
        """By id, the keys of rows that the target knows by these ids."""
        wanted = set(ids)
        if not wanted:
            return {}
        known = {*self.placed, *(key for key in self.notes.digests if self.noted(key))}
        return {self.of(key): key for key in known if self.of(key) in wanted}
