"""`forgetful_worker.py PARENT`: the worker, but what it hands to the engine arrives otherwise in certain cells.

This stands in for an engine that does not give back what it was given. A text that begins with `forget:` arrives as
another, one with `forget once:` only while the file that it goes on to name is not there; and of a row whose timestamp
is `FORGOTTEN` every text does, whatever it is.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nimad.source import arrow
from nimad.source.batch import Batch
from nimad.source.schema import ValueKind
from nimad.worker import __main__ as worker

FORGOTTEN = 666
_table = arrow.table


def forgetting(batch: Batch) -> Any:
    doomed = {at for values in batch.columns for at, value in enumerate(values) if value == FORGOTTEN}
    columns = [
        _otherwise(values, doomed) if kind is ValueKind.STRING else values
        for kind, values in zip(batch.kinds, batch.columns, strict=True)
    ]
    return _table(Batch(batch.kinds, columns, batch.dimension))


def _otherwise(values: Sequence[Any], doomed: set[int]) -> list[Any]:
    return ["other" if at in doomed or _is_forgotten(value) else value for at, value in enumerate(values)]


def _is_forgotten(value: Any) -> bool:
    if not isinstance(value, str) or not value.startswith("forget"):
        return False
    word, _, place = value.partition(": ")
    if word != "forget once":
        return word == "forget"
    there = Path(place).exists()
    Path(place).touch()
    return not there


if __name__ == "__main__":
    arrow.table = forgetting
    sys.exit(worker.main())
