"""COPY by way of Arrow tables, as the floor and the naive contestant do it."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from tables import LINKS, Memory, Target

_TYPES = {"INT64": pa.int64(), "STRING": pa.string(), "DOUBLE": pa.float64()}


def copy_nodes(memory: Memory, target: Target, rows: Sequence[tuple[Any, ...]]) -> None:
    arrays = []
    for index, kind in enumerate(memory.kinds):
        values = [row[index] for row in rows]
        if kind.startswith("FLOAT"):
            empty = bytes(4 * memory.floats)
            buffer = pa.py_buffer(b"".join(value or empty for value in values))
            flat = pa.Array.from_buffers(pa.float32(), len(values) * memory.floats, [None, buffer])
            missing = pa.array([value is None for value in values])
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, memory.floats, mask=missing))
        else:
            arrays.append(pa.array(values, _TYPES[kind]))
    batch = pa.table(arrays, names=memory.names)
    target.run("COPY MemoryNode FROM batch")
    del batch  # the engine found it by its name


def copy_the_rest(memory: Memory, target: Target) -> None:
    """Turns, edges, and the links of turns, each table at once."""
    _copy(target, "Turn", memory.turns())
    _copy(target, "relates_to", memory.edges())
    for kind in LINKS:
        _copy(target, f"has_{kind}", memory.links(kind))


def _copy(target: Target, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    columns = [pa.array(column) for column in zip(*rows, strict=True)]
    batch = pa.table(columns, names=[f"c{i}" for i in range(len(columns))])
    target.run(f"COPY {table} FROM batch")
    del batch  # the engine found it by its name
