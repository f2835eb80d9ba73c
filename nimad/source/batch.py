"""Converted rows as columns on their way to the engine, through Arrow or parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nimad.source.rows import ConvertedRows
from nimad.source.schema import Schema, ValueKind


@dataclass(frozen=True)
class Batch:
    """Columns of equal length. Values are as `ConvertedRows` has them: embeddings are little-endian float32 bytes."""

    kinds: Sequence[ValueKind]
    columns: Sequence[Sequence[Any]]
    dimension: int = 0  # floats in an embedding

    @property
    def rows(self) -> int:
        return len(self.columns[0])


def of_nodes(judged: ConvertedRows, schema: Schema) -> Batch:
    """Nodes, or turns without their links: the key, then every column."""
    return _keyed(judged, schema, ends=0)


def of_edges(judged: ConvertedRows, schema: Schema) -> Batch:
    """Edges: both ends, the key, then the properties, in the order that COPY of a relationship wants."""
    return _keyed(judged, schema, ends=len(judged.rows.table.ends))


def _keyed(judged: ConvertedRows, schema: Schema, *, ends: int) -> Batch:
    table = judged.rows.table
    kinds = [*[ValueKind.INT64] * ends, ValueKind.INT64, *(column.kind for column in table.columns)]
    columns = [*judged.columns[:ends], judged.rows.keys, *judged.columns[len(table.ends) :]]
    return Batch(kinds, columns, schema.dimension)


def of_ids(*columns: Sequence[int]) -> Batch:
    """Nodes that are nothing but an id, or links as (turns, nodes)."""
    return Batch([ValueKind.INT64] * len(columns), columns)
