"""The plan of a sample: which nodes there are, and which turn each belongs to, before any row is made."""

from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import NamedTuple

from nimad.sample.request import Sample, layer_counts
from nimad.sample.seeded_random import chance, rng_of
from nimad.sample.times import DAY_MS, END_MS, TURN_DAYS


class Turn(NamedTuple):
    number: int
    timestamp: int
    input_id: int | None
    contemplation_id: int | None
    output_id: int | None

    @property
    def turn_id(self) -> str:
        return f"turn_{self.timestamp}_{self.number:06d}"

    @property
    def nodes(self) -> list[tuple[str, int]]:
        """The layer and id of each node of the turn, in the order in which they arose."""
        ids = (self.input_id, self.contemplation_id, self.output_id)
        layers = zip(("input", "contemplation", "output"), ids, strict=True)
        return [(layer, node_id) for layer, node_id in layers if node_id is not None]


class Outline(NamedTuple):
    legacy_ids: list[int]
    turns: list[Turn]


def plan_of(sample: Sample) -> Outline:
    """Give each node its id, with gaps, and each turn its time and its nodes, before any row is made."""
    rng = rng_of(sample, "plan")
    counts = layer_counts(sample.nodes)
    ids = _ids(rng)
    legacy = list(islice(ids, counts["legacy_vsa"]))
    inputs, thoughts, outputs = counts["input"], counts["contemplation"], counts["output"]
    # Inputs fill the first places, thoughts the last ones, so every turn has a node and some have both.
    places = list(range(sample.turns))
    rng.shuffle(places)
    turns = []
    for number, place in enumerate(places):
        slot = TURN_DAYS * DAY_MS // len(places)
        start = END_MS - TURN_DAYS * DAY_MS + number * slot + rng.randrange(max(1, slot * 2 // 3))
        input_id = next(ids) if place < inputs else None
        thought_id = next(ids) if place >= len(places) - thoughts else None
        # Answers go first to turns with both (they stand at the end of the inputs), then to those before.
        output_id = next(ids) if inputs - outputs <= place < inputs else None
        turns.append(Turn(number, start, input_id, thought_id, output_id))
    return Outline(legacy, turns)


def _ids(rng: Random) -> Iterator[int]:
    """Yield rising ids; one row in fifty has been deleted since."""
    node_id = 0
    while True:
        node_id += rng.randrange(2, 5) if chance(rng, 0.02) else 1
        yield node_id
