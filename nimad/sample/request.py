"""What is to be made: how large a memory, in which shape, from which seed."""

from dataclasses import dataclass

from nimad.errors import UsageError

SHAPES = ("1.0", "2.0", "2.2", "3.0", "3.1")

#: One real memory (NIMA.md); samples of other sizes keep its proportions.
REAL_LAYERS = {"contemplation": 3_364, "input": 3_082, "output": 1_859, "legacy_vsa": 1_465}
REAL_NODES = 9_770
REAL_TURNS = 5_802
REAL_EDGES = 6_333


def check_shape(shape: str) -> None:
    if shape not in SHAPES:
        raise UsageError(f"NIMA has no schema shape {shape!r}: choose one of {', '.join(SHAPES)}")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What to make. The default is as large as the real memory that NIMA.md counts.

    ``dimension`` is floats per embedding; ``embedded_share`` (0 to 1) is the share of nodes that have one, in
    shapes that know embeddings at all.
    """

    nodes: int = REAL_NODES
    seed: int = 1
    shape: str = "3.1"
    dimension: int = 384
    full_text_index: bool = True
    embedded_share: float = 1.0

    def __post_init__(self) -> None:
        check_shape(self.shape)
        if self.nodes < 0 or self.dimension < 1 or not 0 <= self.embedded_share <= 1:
            raise UsageError(
                "a sample needs nodes >= 0, dimension >= 1 and embedded_share within 0 to 1, "
                f"not {self.nodes}, {self.dimension} and {self.embedded_share}"
            )

    @property
    def turns(self) -> int:
        return round(self.nodes * REAL_TURNS / REAL_NODES)

    @property
    def edges(self) -> int:
        return round(self.nodes * REAL_EDGES / REAL_NODES)


DEFAULT_SAMPLE = Sample()


def layer_counts(nodes: int) -> dict[str, int]:
    """Split ``nodes`` among the layers as in the real memory; the largest remainders get the rest."""
    counts = {layer: nodes * real // REAL_NODES for layer, real in REAL_LAYERS.items()}
    by_remainder = sorted(REAL_LAYERS, key=lambda layer: -(nodes * REAL_LAYERS[layer] % REAL_NODES))
    for layer in by_remainder[: nodes - sum(counts.values())]:
        counts[layer] += 1
    return counts
