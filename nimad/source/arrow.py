"""Batches as Arrow tables, the form that the engine copies fastest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from nimad.source.batch import Batch
from nimad.source.schema import FLOAT_BYTES, ValueKind

_TYPES = {
    ValueKind.INT64: pa.int64(),
    ValueKind.DOUBLE: pa.float64(),
    ValueKind.STRING: pa.large_string(),
    ValueKind.BOOL: pa.bool_(),
    ValueKind.BLOB: pa.large_binary(),
}


def table(batch: Batch) -> pa.Table:
    """A batch as a table whose columns are called c0, c1 and so on."""
    pairs = zip(batch.kinds, batch.columns, strict=True)
    arrays = [_array(kind, values, batch.dimension) for kind, values in pairs]
    return pa.table(arrays, names=[f"c{index}" for index in range(len(arrays))])


class Spool:
    """Batches in a file that has no name, as Parquet, for the engine to read at `path`.

    The engine needs a third less memory for rows in a file than for the same in an Arrow table: of a table it keeps all
    strings a second time until the COPY is over. What has no name is gone with the process, however that ends.
    """

    def __init__(self, folder: Path) -> None:
        """Make the file on the disk of `folder`."""
        import tempfile

        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self._writer: Any = None
        self.rows = 0

    @property
    def path(self) -> str:
        """Where this process, and no other one, finds the file."""
        return f"/proc/self/fd/{self._file.fileno()}"

    def add(self, batch: Batch) -> None:
        """Append a batch, of the same columns as the others, as a row group."""
        if not batch.rows:
            return
        rows = table(batch)
        if self._writer is None:
            from pyarrow import parquet

            # Neither small nor to be searched: it is read once, at once and from end to end.
            plain = {"compression": "none", "use_dictionary": False, "write_statistics": False, "store_schema": False}
            self._writer = parquet.ParquetWriter(self._file, rows.schema, **plain)
        self._writer.write_table(rows)
        self.rows += batch.rows

    def finish(self) -> None:
        """Write what is still held back: the file is whole after this."""
        if self._writer is not None:
            self._writer.close()
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def can_spool(folder: Path) -> bool:
    """Whether a `Spool` works here.

    Some builds of pyarrow lack Parquet, and some file systems do not open a file without a name a second time.
    """
    try:
        from pyarrow import parquet  # noqa: F401 - Spool needs it

        with Spool(folder) as spool, Path(spool.path).open("rb"):
            return True
    except (ImportError, OSError):
        return False


def values(column: pa.ChunkedArray, kind: ValueKind) -> list[Any]:
    """A column that the engine gave, as a batch would have it."""
    return _vector_bytes(column) if kind is ValueKind.VECTOR else column.to_pylist()


def _array(kind: ValueKind, values: Sequence[Any], dimension: int) -> pa.Array:
    if kind is ValueKind.VECTOR:
        return _vectors(values, dimension)
    if kind is ValueKind.BOOL:
        values = [None if value is None else bool(value) for value in values]
    return pa.array(values, _TYPES[kind])


def _vectors(values: Sequence[bytes | None], dimension: int) -> pa.Array:
    """Fixed-size lists of float32 straight from the source's little-endian bytes."""
    empty = bytes(dimension * FLOAT_BYTES)
    joined = pa.py_buffer(b"".join(empty if value is None else value for value in values))
    floats = pa.Array.from_buffers(pa.float32(), len(values) * dimension, [None, joined])
    missing = pa.array([value is None for value in values], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(floats, dimension, mask=missing)


def _is_valid(chunk: pa.Array) -> Sequence[bool]:
    """Which rows have a value."""
    bits = chunk.buffers()[0]
    if bits is None or not chunk.null_count:
        return [True] * len(chunk)
    packed = memoryview(bits)
    return [bool(packed[at >> 3] >> (at & 7) & 1) for at in range(chunk.offset, chunk.offset + len(chunk))]


def _vector_bytes(column: pa.ChunkedArray) -> list[bytes | None]:
    """Each vector's floats as little-endian bytes.

    From the buffers themselves: Arrow's `is_valid` and `flatten` import its kernels first, while the target is open.
    """
    result: list[bytes | None] = []
    for chunk in column.chunks:
        floats, width = chunk.values, chunk.type.list_size * FLOAT_BYTES
        data = memoryview(floats.buffers()[1] or b"")
        at = floats.offset * FLOAT_BYTES + chunk.offset * width
        for is_valid in _is_valid(chunk):
            result.append(bytes(data[at : at + width]) if is_valid else None)
            at += width  # what is NULL takes its place, too
    return result
