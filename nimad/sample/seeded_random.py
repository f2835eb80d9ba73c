"""Repeatable chance: random numbers that come from a sample's seed alone."""

from random import Random

from nimad.sample.request import Sample


def rng_of(sample: Sample, purpose: str) -> Random:
    """Return numbers of their own for each purpose, so that rows do not depend on the shape."""
    return Random(f"{sample.seed}/{purpose}")


def chance(rng: Random, share: float) -> bool:
    return rng.random() < share


def share_of(rng: Random) -> float:
    return rng.randrange(1_001) / 1_000
