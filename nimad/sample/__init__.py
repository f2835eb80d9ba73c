"""A NIMA memory in SQLite as it is met in the field, made up from a seed: for the demo, tests and benchmarks.

The same ``Sample`` gives the same rows on every machine and Python. That rests on three habits: no clock, no
function of the C mathematics library except the exactly rounded square root, and no ``sum`` over floats (its
result changed in Python 3.12).
"""

from nimad.sample.releases import create_schema
from nimad.sample.request import REAL_LAYERS, SHAPES, Sample, layer_counts
from nimad.sample.write import SampleCounts, write_sample

__all__ = ["REAL_LAYERS", "SHAPES", "Sample", "SampleCounts", "create_schema", "layer_counts", "write_sample"]
