"""Rows as parameters of UNWIND, for an interpreter without pyarrow: ten times slower, and as exact.

Every value is cast to its column's type, because the engine takes types from the values, and a slice may hold nothing
but NULLs.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from nimad.source.batch import Batch
from nimad.source.schema import Kind
from nimad.target.into import Into, quoted

#: Rows of one statement: each value of them is an object of Python and one of the engine at the same time.
SLICE_ROWS = 200

_Rows = list[dict[str, Any]]


def inserts(into: Into, batch: Batch) -> Iterator[tuple[str, _Rows]]:
    """Statements that insert a batch, each with its rows."""
    for part, has_vectors in _parts(batch):
        values = [_value(index, kind, batch.dimension) for index, kind in enumerate(batch.kinds)]
        given = zip(into.properties, batch.kinds[len(into.ends) :], values[len(into.ends) :], strict=True)
        properties = ", ".join(
            f"{quoted(name)}: {value}" for name, kind, value in given if kind is not Kind.VECTOR or has_vectors
        )
        braces = f" {{{properties}}}" if properties else ""
        if into.ends:
            start, end = into.ends
            create = (
                f"MATCH (a:{start}), (b:{end}) WHERE a.id = {values[0]} AND b.id = {values[1]} "
                f"CREATE (a)-[:{into.table}{braces}]->(b)"
            )
        else:
            create = f"CREATE (:{into.table}{braces})"
        yield from ((f"UNWIND $rows AS row {create}", rows) for rows in _slices(batch, part))


def updates(into: Into, batch: Batch) -> Iterator[tuple[str, _Rows]]:
    """Statements that set the properties of nodes, whose ids are the batch's first column."""
    for part, has_vectors in _parts(batch):
        changes = []
        for index, (name, kind) in enumerate(zip(into.properties[1:], batch.kinds[1:], strict=True), start=1):
            value = "NULL" if kind is Kind.VECTOR and not has_vectors else _value(index, kind, batch.dimension)
            changes.append(f"n.{quoted(name)} = {value}")
        match = f"MATCH (n:{into.table}) WHERE n.id = row.c0 SET {', '.join(changes)}"
        yield from ((f"UNWIND $rows AS row {match}", rows) for rows in _slices(batch, part))


def vector_bytes(values: Sequence[float]) -> bytes:
    """Floats of an embedding as little-endian float32."""
    return array("f", values).tobytes()


def quieted(vector: bytes) -> bytes:
    """An embedding as it is after a passage through Python's floats: a signalling NaN has become a quiet one."""
    return vector_bytes(array("f", vector).tolist())


def _parts(batch: Batch) -> Iterator[tuple[Sequence[int], bool]]:
    """Positions of rows with an embedding and of those without: engines up to 0.18 cannot cast the NULL of a list."""
    vectors = next((c for c, kind in zip(batch.columns, batch.kinds, strict=True) if kind is Kind.VECTOR), None)
    everything = range(batch.rows)
    if vectors is None:
        yield everything, False
        return
    yield [position for position in everything if vectors[position] is not None], True
    yield [position for position in everything if vectors[position] is None], False


def _slices(batch: Batch, positions: Sequence[int]) -> Iterator[_Rows]:
    for start in range(0, len(positions), SLICE_ROWS):
        yield [
            {
                f"c{index}": _plain(kind, column[position])
                for index, (kind, column) in enumerate(zip(batch.kinds, batch.columns, strict=True))
            }
            for position in positions[start : start + SLICE_ROWS]
        ]


def _value(index: int, kind: Kind, dimension: int) -> str:
    return f"CAST(row.c{index} AS {f'FLOAT[{dimension}]' if kind is Kind.VECTOR else kind})"


def _plain(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    if kind is Kind.VECTOR:
        return array("f", value).tolist()
    if kind is Kind.BOOL:
        return bool(value)
    return float(value) if kind is Kind.DOUBLE else value
