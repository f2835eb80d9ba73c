"""Embeddings: how the numbers are stored, proven by a sample, and their conversion to 32-bit floats.

NIMA packs floats of 32 bits. Other programs leave floats of 64 or 16 bits, or lists in JSON, in the same column. A BLOB
does not say which: its numbers do, where they are of ordinary size one way and nonsense the other.
"""

import json
import math
import sqlite3
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from struct import unpack
from typing import Any

from nimad.source.schema import DEFAULT_DIMENSION, FLOAT_BYTES, Table, ValueKind, Width
from nimad.source.sql import sql_name

#: Embeddings of one length that are looked at, and lengths of which some are.
SAMPLE = 64
_LENGTHS = 8
#: Ids are spread by their remainder by it.
_PRIME = 10_007
#: Numbers below which a sample proves nothing.
_NUMBERS = 64
#: Share of a sample that has to make sense one way, and may at most make sense the other.
_PROVEN, _NONSENSE = 0.9, 0.1
#: The largest number of an embedding is ordinary between these.
_LEAST_MAXIMUM, _MAXIMUM = 2.0**-12, 1e6
#: A number that is smaller than the largest by more than this is odd, and a few of them may be.
_SPREAD, _ODD = 2.0**-20, 0.05
#: Beyond these, numbers of 32 bits are no embedding of anything.
_ABSURD, _VANISHING = 1e12, 1e-12

#: How a list in JSON begins, in a BLOB.
LIST_BEGINS = b"["

_FORMATS: Mapping[Width | None, tuple[str, int]] = {None: ("f", 4), Width.DOUBLE: ("d", 8), Width.HALF: ("e", 2)}
#: What is said of embeddings that are stored otherwise.
_SAID: Mapping[Width | None, str] = {Width.DOUBLE: "floats of 64 bits", Width.HALF: "floats of 16 bits"}
JSON = "lists in JSON"
#: The mark of a text among lengths.
_TEXT = -1


class NoEmbeddingError(ValueError):
    """A number, or a text that is no list of numbers."""


@dataclass(frozen=True)
class Stored:
    """How a memory's embeddings are stored. `converted`: how many are stored in each other way; `unknown`: in none."""

    dimension: int = DEFAULT_DIMENSION
    widths: Mapping[int, Width] = field(default_factory=dict)
    converted: Mapping[str, int] = field(default_factory=dict)
    unknown: int = 0


def look_at_embeddings(connection: sqlite3.Connection, nodes: Table) -> Stored:
    """Find the commonest number of floats, of two equally common ones the larger, and how they are stored."""
    column = next((column for column in nodes.columns if column.kind is ValueKind.VECTOR), None)
    if column is None:
        return Stored()
    name, table = sql_name(column.name), sql_name(nodes.name)
    # Grouped here: in a GROUP BY, or a condition on it, SQLite reads whole embeddings to know their length.
    lengths = connection.execute(
        f"SELECT CASE typeof({name}) WHEN 'blob' THEN length({name}) ELSE {_TEXT} END FROM {table} "
        f"WHERE typeof({name}) IN ('blob', 'text')"
    )
    counted = Counter(length for (length,) in lengths)

    def sample(count: int, condition: str, *values: Any) -> list[Any]:
        """Some of so many, from all over the table: an import may have left others than the agent does."""
        spread = (
            f"abs({sql_name(nodes.key)} % {_PRIME}) % {max(1, count // SAMPLE)} = 0"  # first: it reads no embedding
        )
        found: list[Any] = []
        for where in (f"{spread} AND {condition}", condition):
            if len(found) < min(count, SAMPLE // 2):
                rows = connection.execute(f"SELECT {name} FROM {table} WHERE {where} LIMIT {SAMPLE}", values)
                found = [row[0] for row in rows]
        return found

    dimensions: Counter[int] = Counter({length // FLOAT_BYTES: 0 for length in counted if length > 0})
    widths: dict[int, Width] = {}
    converted: Counter[str] = Counter()
    texts = counted.pop(_TEXT, 0)
    if texts:
        _count_lists(sample(texts, f"typeof({name}) = 'text'"), texts, dimensions, converted)
    for length, count in counted.most_common():
        if not length:
            continue
        # Zeros prove nothing, and would use the sample up.
        numbers = f"typeof({name}) = 'blob' AND length({name}) = ?1 AND {name} <> zeroblob(?1)"
        samples = sample(count, numbers, length) if len(widths) < _LENGTHS else []
        if _count_lists(samples, count, dimensions, converted):
            continue
        width = width_of(samples)
        if width is not None:
            widths[length] = width
        if width in _SAID:
            converted[_SAID[width]] += count
        if width is Width.MIXED:
            doubles = sum(map(_is_double, samples)) * count // len(samples)
            converted[_SAID[Width.DOUBLE]] += doubles
            dimensions[length // _FORMATS[Width.DOUBLE][1]] += doubles
            count -= doubles  # noqa: PLW2901
        size = _FORMATS.get(width, _FORMATS[None])[1]
        if width is not Width.UNKNOWN and length % size == 0:
            dimensions[length // size] += count
    dimension, most = max(dimensions.items(), key=lambda item: (item[1], item[0]), default=(0, 0))
    unknown = sum(counted[length] for length, width in widths.items() if width is Width.UNKNOWN)
    return Stored(dimension if most else DEFAULT_DIMENSION, widths, dict(converted), unknown)


def _count_lists(samples: Sequence[Any], count: int, dimensions: Counter[int], converted: Counter[str]) -> bool:
    """Count so many embeddings as the lists that a sample of them is, if it is of lists."""
    sizes = [len(numbers) for value in samples if (numbers := _list(value)) is not None]
    if not sizes:
        return False
    for size, found in Counter(sizes).items():
        dimensions[size] += count * found // len(samples)
    converted[JSON] += count * len(sizes) // len(samples)
    return True


def width_of(samples: Sequence[bytes]) -> Width | None:
    """How embeddings of one length are stored; None for floats of 32 bits, also where nothing else is proven."""
    samples = [value for value in samples if any(value)]
    if not samples or len(samples) * (length := len(samples[0])) < _NUMBERS * FLOAT_BYTES:
        return None
    doubles = sum(map(_is_double, samples))
    if doubles + sum(map(_is_of_few_digits, samples)) >= _PROVEN * len(samples):
        return Width.DOUBLE
    if _share(samples, None, _is_ordinary) > _NONSENSE:
        return Width.MIXED if doubles > _NONSENSE * len(samples) else None
    proven = [width for width in (Width.DOUBLE, Width.HALF) if _share(samples, width, _is_ordinary) >= _PROVEN]
    if len(proven) == 1:
        return proven[0]
    absurd = length % FLOAT_BYTES == 0 and len(samples) == SAMPLE and _share(samples, None, _is_absurd) >= _PROVEN
    return Width.UNKNOWN if absurd else None


def _share(samples: Sequence[bytes], width: Width | None, test: Callable[[Sequence[float]], bool]) -> float:
    """The share of a sample that a test is true of, read in one way; none where the length does not allow it."""
    if len(samples[0]) % _FORMATS[width][1]:
        return 0.0
    return sum(test(_unpacked(value, width)) for value in samples) / len(samples)


def _unpacked(value: bytes, width: Width | None) -> Sequence[float]:
    code, size = _FORMATS[width]
    return unpack(f"<{len(value) // size}{code}", value)


def _is_double(value: bytes) -> bool:
    """Whether these make sense as floats of 64 bits and as those of 32 make none."""
    return _is_ordinary_double(value) and not _is_ordinary(_unpacked(value, None))


def _is_of_few_digits(value: bytes) -> bool:
    """Whether these may be floats of 64 bits with lower halves of nothing, as small integers and quarters have them.

    The upper halves look like ordinary floats of 32 bits, from one up.
    """
    if not _is_ordinary_double(value):
        return False
    halves = _unpacked(value, None)
    return not any(halves[::2]) and _is_ordinary(halves) and max(map(abs, halves)) > 1


def _is_ordinary_double(value: bytes) -> bool:
    return len(value) % _FORMATS[Width.DOUBLE][1] == 0 and _is_ordinary(_unpacked(value, Width.DOUBLE))


def _is_ordinary(numbers: Sequence[float]) -> bool:
    sizes = [abs(number) for number in numbers if number]
    if not sizes or not all(map(math.isfinite, sizes)) or not _LEAST_MAXIMUM <= (most := max(sizes)) <= _MAXIMUM:
        return False
    return sum(size < most * _SPREAD for size in sizes) <= _ODD * len(sizes)


def _is_absurd(numbers: Sequence[float]) -> bool:
    most = max(map(abs, numbers))
    return not all(map(math.isfinite, numbers)) or most > _ABSURD or most < _VANISHING


def as_floats(value: Any, dimension: int, widths: Mapping[int, Width]) -> bytes:
    """An embedding as little-endian floats of 32 bits, so many of them.

    Raises `ValueError` with what it is instead, and `NoEmbeddingError` where it is no embedding at all.
    """
    size = dimension * FLOAT_BYTES
    width = widths.get(len(value)) if isinstance(value, bytes) else None
    if width is Width.UNKNOWN:
        raise ValueError(
            f"an embedding of {len(value):,} bytes, whose numbers make no sense as floats of 16, 32 or 64 bits"
        )
    if width is Width.MIXED:
        width = Width.DOUBLE if _is_double(value) else None
    if width is not None:
        return _narrowed(_unpacked(value, width), dimension)
    is_list = isinstance(value, bytes) and value.startswith(LIST_BEGINS) and _list(value) is not None
    if isinstance(value, bytes) and len(value) == size and not is_list:
        return value
    if (numbers := _list(value)) is not None:
        return _narrowed(numbers, dimension)
    if not isinstance(value, bytes):
        raise NoEmbeddingError
    if len(value) % FLOAT_BYTES:
        raise ValueError(f"an embedding of {len(value):,} bytes, no multiple of {FLOAT_BYTES}")
    raise ValueError(_miscounted(len(value) // FLOAT_BYTES, dimension))


def _miscounted(floats: int, dimension: int) -> str:
    return f"an embedding of {floats} floats, not {dimension}"


def _list(value: Any) -> list[float] | None:
    """The numbers of a list in JSON, as text or in a BLOB; None for anything else."""
    if not isinstance(value, (str, bytes)) or value.strip()[:1] not in ("[", b"["):
        return None
    try:
        numbers = json.loads(value, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    if not isinstance(numbers, list) or not numbers or not _are_numbers(numbers):
        return None
    return numbers


def _finite(text: str) -> float:
    """A number of a list; one too large for 64 bits would become infinity, which nobody wrote."""
    if math.isinf(number := float(text)):
        raise ValueError(text)
    return number


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _narrowed(numbers: Sequence[float], dimension: int) -> bytes:
    if len(numbers) != dimension:
        raise ValueError(_miscounted(len(numbers), dimension))
    outside = ValueError("an embedding with a number outside the 32-bit floats")
    try:
        wide = array("d", numbers)
    except OverflowError:  # an integer that no float holds
        raise outside from None
    floats = array("f", wide)
    if any(map(math.isinf, floats)) and not any(map(math.isinf, wide)):
        raise outside
    return floats.tobytes()
