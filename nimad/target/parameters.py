"""Rows as parameters of UNWIND, for an interpreter without pyarrow: slower, and as exact.

Text goes as bytes, and the engine decodes it: up to 0.15.3 a text parameter that looks like JSON is taken for a map or
a list, and arrives as another text (`{"a": 0.5}` as `{a: 0.500000}`), or ends the process.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from nimad.source.batch import Batch
from nimad.source.schema import ValueKind
from nimad.target.destination import Destination, cypher_name

#: Rows of one statement: each value of them is an object of Python and one of the engine at the same time.
SLICE_ROWS = 200

_Rows = list[dict[str, Any]]


def named(name: str, value: Any) -> tuple[str, Any]:
    """A single parameter: how a query asks for it, and what it is given."""
    return (f"decode(${name})", value.encode()) if isinstance(value, str) else (f"${name}", value)


def inserts(into: Destination, batch: Batch, nulls: Sequence[str] = ()) -> Iterator[tuple[str, _Rows]]:
    """Statements that insert a batch, each with its rows. `nulls`: properties that are NULL in spite of a default."""
    for given, rows in _slices(batch):
        values = {index: _value(index, batch) for index in given}
        columns = zip(range(len(into.ends), len(batch.kinds)), into.properties, strict=True)
        properties = [f"{cypher_name(name)}: {values[index]}" for index, name in columns if index in values]
        properties += [f"{cypher_name(name)}: NULL" for name in nulls]
        braces = f" {{{', '.join(properties)}}}" if properties else ""
        if into.ends:
            start, end = map(cypher_name, into.ends)
            one, other = map(cypher_name, into.keys)
            match = f"MATCH (a:{start}), (b:{end}) WHERE a.{one} = {values[0]} AND b.{other} = {values[1]}"
            yield f"UNWIND $rows AS row {match} CREATE (a)-[:{cypher_name(into.table)}{braces}]->(b)", rows
        else:
            yield f"UNWIND $rows AS row CREATE (:{cypher_name(into.table)}{braces})", rows


def updates(into: Destination, batch: Batch) -> Iterator[tuple[str, _Rows]]:
    """Statements that set the properties of nodes, whose ids are the batch's first column; also to NULL."""
    for given, rows in _slices(batch):
        if changes := _changes("n", into.properties, batch, given, start=0):
            yield f"UNWIND $rows AS row MATCH (n:{cypher_name(into.table)}) WHERE n.id = row.c0 SET {changes}", rows


def edge_updates(into: Destination, batch: Batch) -> Iterator[tuple[str, _Rows]]:
    """Statements that set the properties of edges; the batch's first columns are both ends and the edge's offset."""
    start, end = map(cypher_name, into.ends)
    match = f"MATCH (a:{start})-[r:{cypher_name(into.table)}]->(b:{end})"
    where = "a.id = row.c0 AND b.id = row.c1 AND offset(id(r)) = row.c2"
    for given, rows in _slices(batch):
        if changes := _changes("r", into.properties, batch, given, start=3):
            yield f"UNWIND $rows AS row {match} WHERE {where} SET {changes}", rows


def _changes(name: str, properties: Sequence[str], batch: Batch, given: Sequence[int], *, start: int) -> str:
    """The assignments of properties from the batch's columns, the first of which is at `start`; never to an `id`."""
    return ", ".join(
        f"{name}.{cypher_name(each)} = {_value(index, batch) if index in given else 'NULL'}"
        for index, each in enumerate(properties, start)
        if index
    )


def vector_bytes(values: Sequence[float]) -> bytes:
    """Floats of an embedding as little-endian float32."""
    return array("f", values).tobytes()


def quieted(vector: bytes) -> bytes:
    """An embedding as it is after a passage through Python's floats: a signalling NaN has become a quiet one."""
    return vector_bytes(array("f", vector).tolist())


def _slices(batch: Batch) -> Iterator[tuple[Sequence[int], _Rows]]:
    """Rows that have values in the same columns, and which columns these are.

    Engines before 0.20 cannot cast a NULL in place of a list, and end in a crash over some rows that are mostly NULLs.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for position, values in enumerate(zip(*batch.columns, strict=True)):
        given = tuple(index for index, value in enumerate(values) if value is not None)
        alike.setdefault(given, []).append(position)
    for given, positions in alike.items():
        for start in range(0, len(positions), SLICE_ROWS):
            part = positions[start : start + SLICE_ROWS]
            yield given, [{f"c{i}": _plain(batch.kinds[i], batch.columns[i][p]) for i in given} for p in part]


def _value(index: int, batch: Batch) -> str:
    """A value of a row, cast to its column's type: the engine's own guess is by the values that it sees."""
    kind = batch.kinds[index]
    if kind is ValueKind.STRING:
        return f"decode(row.c{index})"
    return f"CAST(row.c{index} AS {f'FLOAT[{batch.dimension}]' if kind is ValueKind.VECTOR else kind})"


def _plain(kind: ValueKind, value: Any) -> Any:
    if kind is ValueKind.VECTOR:
        return array("f", value).tolist()
    if kind is ValueKind.STRING:
        return value.encode()
    if kind is ValueKind.BOOL:
        return bool(value)
    return float(value) if kind is ValueKind.DOUBLE else value
