"""The conversion of a cell: the single rule for loading, verification, comparison and sync.

SQLite's column types are advice: any column may hold any value. `docs/VALUES.md` says these rules in prose. A value
that has no place is set aside alone, and its row migrates with the column's default, or NULL, in its place.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from nimad.source import embeddings
from nimad.source.cells import InvalidText, Uncomputed
from nimad.source.schema import FLOAT_BYTES, INT64_MIN, Column, Schema, ValueKind

_INT64_MAX = 2**63 - 1
#: Longest text that can be a number or a moment, in characters.
_NUMBER_CHARS = 400


#: In a reason: the value is set aside, and something nearest to it migrates.
MIGRATED_AS = ", migrated as "


class UnrepresentableError(ValueError):
    """The value has no equal in the column's type; the message says why, and never quotes the value.

    `instead`: what is nearest to it all the same, and takes its place.
    """

    def __init__(self, reason: str, instead: Any = None) -> None:
        super().__init__(reason)
        self.instead = instead


@dataclass(frozen=True)
class Cell:
    """What a value becomes, and why the value itself is set aside; no reason where it is not."""

    value: Any
    reason: str = ""


def cell(column: Column, value: Any, schema: Schema) -> Cell:
    """What becomes of `value` in `column`."""
    if value is None:
        return Cell(column.default)
    if isinstance(value, Uncomputed):
        return Cell(column.default, f"{column.name}: it does not compute: {value.why}")
    try:
        if column.kind is ValueKind.VECTOR:
            return Cell(_vector(value, schema))
        converted = _moment(value) if column.is_moment else convert(column.kind, value)
    except UnrepresentableError as error:
        return Cell(column.default if error.instead is None else error.instead, f"{column.name}: {error}")
    if column.kind is ValueKind.INT64 and converted < schema.least:
        return Cell(column.default, f"{column.name}: the least 64-bit integer, which the engine would store as another")
    return Cell(converted)


def convert(kind: ValueKind, value: Any) -> Any:
    """Return what `value` becomes in a column of `kind`; NULL stays NULL.

    Raises `UnrepresentableError`. Nothing is rounded, cut or cleaned.
    """
    return None if value is None else _RULES[kind](value)


def are_plain(column: Column, values: Sequence[Any], schema: Schema) -> bool:
    """Whether every value already is what the column wants, so that none needs a rule of its own."""
    kind = column.kind
    if not set(map(type, values)) <= _PLAIN[kind]:
        return False
    if kind is ValueKind.BOOL:
        return set(values) <= {None, 0, 1}
    if kind is ValueKind.VECTOR:
        size = schema.dimension * FLOAT_BYTES
        return size not in schema.widths and all(
            value is None or (len(value) == size and not value.startswith(embeddings.LIST_BEGINS)) for value in values
        )
    if kind is ValueKind.INT64 and schema.least > INT64_MIN:
        return all(value is None or value >= schema.least for value in values)
    return True


def _int64(value: Any) -> int:
    number = _number(value, "an integer")
    if not math.isfinite(number) or number != (whole := int(number)):
        raise UnrepresentableError(f"{_kind_of(value)} where an integer belongs")
    if not INT64_MIN <= whole <= _INT64_MAX:
        raise UnrepresentableError(f"{_kind_of(value)} outside the 64-bit integers")
    return whole


def _double(value: Any) -> float:
    number = _number(value, "a number")
    if isinstance(number, float):
        return number
    try:
        nearest = float(number)
    except OverflowError:
        nearest = math.inf
    if math.isinf(nearest) or (nearest == 0) != (number == 0):
        raise UnrepresentableError(f"{_kind_of(value)} outside the 64-bit floats")
    if number == int(number) and nearest != number:
        raise UnrepresentableError(f"{_kind_of(value)} that is not exact as a 64-bit float")
    return nearest  # text in decimals becomes the float nearest to it, as SQLite itself would read it


def _bool(value: Any) -> bool:
    number = _number(value, "0 or 1")
    if number not in (0, 1):
        raise UnrepresentableError(f"{_kind_of(value)} where 0 or 1 belongs")
    return bool(number)


#: What SQLite reads as a number in text; Python's own parsers also take 1_000, `inf` and other scripts' digits.
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?\s*", re.ASCII)


def _number(value: Any, wanted: str) -> int | float | Decimal:
    """The number that a value is, exactly: a text's decimals are not rounded yet."""
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, str) and len(value) <= _NUMBER_CHARS and _NUMBER.fullmatch(value):
        return Decimal(value.strip())
    raise UnrepresentableError(f"{_kind_of(value)} where {wanted} belongs")


#: A date of ISO 8601, a time with it or not, and a zone with that or not.
_ISO = re.compile(
    r"\s*(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,18}))?)?\s?(Z|[+-]\d\d(?::?\d\d)?)?)?\s*",
    re.ASCII | re.IGNORECASE,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _moment(value: Any) -> int:
    """Milliseconds since the epoch; of a fraction or a date as text, what it comes to is `instead`."""
    try:
        return _int64(value)
    except UnrepresentableError as error:
        moment, how = _of_number(value), f"with a fraction{MIGRATED_AS}it is without"
        if moment is None and isinstance(value, str) and len(value) <= _NUMBER_CHARS:
            moment, how = _of_iso(value), f"in ISO 8601{MIGRATED_AS}milliseconds since the epoch"
        if moment is None or not INT64_MIN <= moment <= _INT64_MAX:
            raise
        raise UnrepresentableError(f"{_kind_of(value)} {how}", moment) from error


def _of_number(value: Any) -> int | None:
    try:
        number = _number(value, "")
    except UnrepresentableError:
        return None
    return int(number) if math.isfinite(number) else None


def _of_iso(text: str) -> int | None:
    found = _ISO.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=_zone(found[8]))
    except ValueError:
        return None
    since = moment - _EPOCH
    seconds = Decimal(since.days * 86_400 + since.seconds) + Decimal(f"0.{found[7] or 0}")
    return int(seconds * 1_000)


def _zone(text: str | None) -> timezone:
    if text is None or text in "Zz":
        return UTC
    digits = text[1:].replace(":", "").ljust(4, "0")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if text[0] == "-" else offset)


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value
    raw = value.raw if isinstance(value, InvalidText) else value
    if isinstance(raw, bytes):
        try:
            return raw.decode()
        except UnicodeDecodeError:
            readable = raw.decode(errors="replace")
            what = f"a BLOB of {len(raw):,} bytes" if raw is value else f"text of {len(raw):,} bytes"
            raise UnrepresentableError(f"{what}, not valid UTF-8{MIGRATED_AS}text with U+FFFD", readable) from None
    return repr(value)  # an int's digits, a float's shortest exact form


def _blob(value: Any) -> bytes:
    if isinstance(value, InvalidText):
        return value.raw
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise UnrepresentableError(f"{_kind_of(value)} where bytes belong")


def _vector(value: Any, schema: Schema) -> bytes:
    try:
        return embeddings.as_floats(value, schema.dimension, schema.widths)
    except embeddings.NoEmbeddingError:
        raise UnrepresentableError(f"{_kind_of(value)} where an embedding's bytes belong") from None
    except ValueError as error:
        raise UnrepresentableError(str(error)) from None


_RULES: Mapping[ValueKind, Callable[[Any], Any]] = {
    ValueKind.INT64: _int64,
    ValueKind.DOUBLE: _double,
    ValueKind.STRING: _string,
    ValueKind.BOOL: _bool,
    ValueKind.BLOB: _blob,
}
_NULL = type(None)
_PLAIN: Mapping[ValueKind, frozenset[type]] = {
    ValueKind.INT64: frozenset({_NULL, int}),
    ValueKind.DOUBLE: frozenset({_NULL, float}),
    ValueKind.STRING: frozenset({_NULL, str}),
    ValueKind.BOOL: frozenset({_NULL, int, bool}),
    ValueKind.BLOB: frozenset({_NULL, bytes}),
    ValueKind.VECTOR: frozenset({_NULL, bytes}),
}


def _kind_of(value: Any) -> str:
    """What a value is, without a word of it."""
    if isinstance(value, InvalidText):
        return f"text of {len(value.raw):,} bytes that is not valid UTF-8"
    if isinstance(value, bytes):
        return f"a BLOB of {len(value):,} bytes"
    if isinstance(value, str):
        return f"text of {len(value):,} characters"
    return "an integer" if isinstance(value, int) else "a float"
