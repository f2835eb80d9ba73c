"""Judged rows as Arrow tables: the form in which the engine copies them."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from nimad.source.rows import Judged
from nimad.source.schema import FLOAT_BYTES, Kind, Schema

_TYPES = {
    Kind.INT64: pa.int64(),
    Kind.DOUBLE: pa.float64(),
    Kind.STRING: pa.large_string(),
    Kind.BOOL: pa.bool_(),
    Kind.BLOB: pa.large_binary(),
}


def node_table(judged: Judged, schema: Schema) -> pa.Table:
    """Nodes: `id`, then every column under its target name."""
    table = judged.rows.table
    names = ["id", *(column.target for column in table.columns)]
    arrays = [pa.array(judged.rows.keys, pa.int64())]
    offset = len(table.ends)
    for column, values in zip(table.columns, judged.columns[offset:], strict=True):
        arrays.append(_array(column.kind, values, schema.dimension))
    return pa.table(arrays, names=names)


def edge_table(judged: Judged, schema: Schema) -> pa.Table:
    """Edges: `from`, `to`, `edge_id`, then the properties, in the order that COPY of a relationship wants."""
    table = judged.rows.table
    ends = judged.columns[: len(table.ends)]
    arrays = [pa.array(ids, pa.int64()) for ids in ends] + [pa.array(judged.rows.keys, pa.int64())]
    for column, values in zip(table.columns, judged.columns[len(table.ends) :], strict=True):
        arrays.append(_array(column.kind, values, schema.dimension))
    return pa.table(arrays, names=[f"c{index}" for index in range(len(arrays))])


def id_table(ids: Sequence[int]) -> pa.Table:
    """Nodes that are nothing but an id."""
    return pa.table([pa.array(ids, pa.int64())], names=["id"])


def link_table(turns: Sequence[int], nodes: Sequence[int]) -> pa.Table:
    """Links of one kind: the turn's id and the node's."""
    return pa.table([pa.array(turns, pa.int64()), pa.array(nodes, pa.int64())], names=["c0", "c1"])


def _array(kind: Kind, values: Sequence[Any], dimension: int) -> pa.Array:
    if kind is Kind.VECTOR:
        return _vectors(values, dimension)
    if kind is Kind.BOOL:
        values = [None if value is None else bool(value) for value in values]
    return pa.array(values, _TYPES[kind])


def _vectors(values: Sequence[bytes | None], dimension: int) -> pa.Array:
    """Fixed-size lists of float32 straight from the source's little-endian bytes."""
    empty = bytes(dimension * FLOAT_BYTES)
    joined = pa.py_buffer(b"".join(empty if value is None else value for value in values))
    floats = pa.Array.from_buffers(pa.float32(), len(values) * dimension, [None, joined])
    missing = pa.array([value is None for value in values], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(floats, dimension, mask=missing)
