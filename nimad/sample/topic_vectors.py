"""Embeddings: near each other for memories of one topic, far apart for others."""

import math
import struct
from array import array
from collections.abc import Callable
from random import Random

from nimad.sample.request import Sample
from nimad.sample.seeded_random import rng_of
from nimad.sample.vocabulary import TOPICS

NOISE_FLOATS = 1 << 18
NOISE_STEP = 100_003  #: Odd, so no two of the first ``NOISE_FLOATS`` nodes share a stretch of noise.
TOPIC_SHARE = 0.72  #: Of a vector's squared length; the rest is noise. Same-topic cosines come near this.


def embedder(sample: Sample) -> Callable[[str], bytes | None]:
    """Return a function that gives the next node's vector near its topic's centre, as NIMA stores it."""
    if sample.shape < "2.2" or not sample.embedded_share:
        return lambda _topic: None
    rng = rng_of(sample, "embeddings")
    centres = {topic: _centre(rng, sample.dimension) for topic in TOPICS}
    # Three uniform numbers stand in for a normal one, whose logarithm may differ between machines.
    deviation = 2 * math.sqrt((1 - TOPIC_SHARE) / sample.dimension)
    noise = array("d")
    for _ in range(NOISE_FLOATS):
        noise.append((rng.random() + rng.random() + rng.random() - 1.5) * deviation)
    noise.extend(noise[: sample.dimension])
    pack = struct.Struct(f"<{sample.dimension}f").pack
    position = 0

    def embed(topic: str) -> bytes | None:
        nonlocal position
        position += 1
        if int(position * sample.embedded_share) == int((position - 1) * sample.embedded_share):
            return None
        begin = position * NOISE_STEP % NOISE_FLOATS
        stretch = noise[begin : begin + sample.dimension]
        return pack(*[value + shift for value, shift in zip(centres[topic], stretch, strict=True)])

    return embed


def _centre(rng: Random, dimension: int) -> list[float]:
    values = [rng.random() - 0.5 for _ in range(dimension)]
    scale = math.sqrt(TOPIC_SHARE / math.fsum(value * value for value in values))
    return [value * scale for value in values]
