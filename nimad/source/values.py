"""The rule for each type of column: what an SQLite value becomes, or why it cannot become it.

SQLite's column types are advice: any column may hold any value. `docs/VALUES.md` says these rules in prose.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from nimad.source.file import InvalidText
from nimad.source.schema import FLOAT_BYTES, Kind

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
#: Longest text that can be a number, in characters.
_NUMBER_CHARS = 400


class UnrepresentableError(ValueError):
    """The value has no equal in the column's type; the message says which value and why."""


def convert(kind: Kind, value: Any, dimension: int) -> Any:
    """Return what `value` becomes in a column of `kind`; NULL stays NULL.

    Raises `UnrepresentableError`. Nothing is rounded, cut or cleaned.
    """
    if value is None:
        return None
    if kind is Kind.VECTOR:
        return _vector(value, dimension)
    if isinstance(value, InvalidText) and kind is not Kind.BLOB:
        raise UnrepresentableError(f"text of {len(value.raw):,} bytes that is not valid UTF-8")
    return _RULES[kind](value)


def are_plain(kind: Kind, values: Sequence[Any], dimension: int) -> bool:
    """Whether every value already is what the column wants, so that none needs a rule of its own."""
    if not set(map(type, values)) <= _PLAIN[kind]:
        return False
    if kind is Kind.BOOL:
        return set(values) <= {None, 0, 1}
    if kind is Kind.VECTOR:
        return all(value is None or len(value) == dimension * FLOAT_BYTES for value in values)
    return True


def _int64(value: Any) -> int:
    number = _number(value, "an integer")
    if not math.isfinite(number) or number != (whole := int(number)):
        raise UnrepresentableError(f"{_short(value)} where an integer belongs")
    if not _INT64_MIN <= whole <= _INT64_MAX:
        raise UnrepresentableError(f"{_short(value)} is outside the 64-bit integers")
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
        raise UnrepresentableError(f"{_short(value)} is outside the 64-bit floats")
    if number == int(number) and nearest != number:
        raise UnrepresentableError(f"{number} is not exact as a 64-bit float")
    return nearest  # text in decimals becomes the float nearest to it, as SQLite itself would read it


def _bool(value: Any) -> bool:
    number = _number(value, "0 or 1")
    if number not in (0, 1):
        raise UnrepresentableError(f"{_short(value)} where 0 or 1 belongs")
    return bool(number)


#: What SQLite reads as a number in text; Python's own parsers also take 1_000, `inf` and other scripts' digits.
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?\s*", re.ASCII)


def _number(value: Any, wanted: str) -> int | float | Decimal:
    """The number that a value is, exactly: a text's decimals are not rounded yet."""
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, str) and len(value) <= _NUMBER_CHARS and _NUMBER.fullmatch(value):
        return Decimal(value.strip())
    raise UnrepresentableError(f"{_short(value)} where {wanted} belongs")


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise UnrepresentableError(f"a BLOB of {len(value):,} bytes where text belongs") from None
    return repr(value)  # an int's digits, a float's shortest exact form


def _blob(value: Any) -> bytes:
    if isinstance(value, InvalidText):
        return value.raw
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise UnrepresentableError(f"{_short(value)} where bytes belong")


def _vector(value: Any, dimension: int) -> bytes:
    if not isinstance(value, bytes):
        raise UnrepresentableError(f"{_short(value)} where an embedding's bytes belong")
    if len(value) % FLOAT_BYTES:
        raise UnrepresentableError(f"an embedding of {len(value):,} bytes, no multiple of {FLOAT_BYTES}")
    if len(value) != dimension * FLOAT_BYTES:
        raise UnrepresentableError(f"an embedding of {len(value) // FLOAT_BYTES} floats, not {dimension}")
    return value


_RULES: Mapping[Kind, Callable[[Any], Any]] = {
    Kind.INT64: _int64,
    Kind.DOUBLE: _double,
    Kind.STRING: _string,
    Kind.BOOL: _bool,
    Kind.BLOB: _blob,
}
_NULL = type(None)
_PLAIN: Mapping[Kind, frozenset[type]] = {
    Kind.INT64: frozenset({_NULL, int}),
    Kind.DOUBLE: frozenset({_NULL, float}),
    Kind.STRING: frozenset({_NULL, str}),
    Kind.BOOL: frozenset({_NULL, int}),
    Kind.BLOB: frozenset({_NULL, bytes}),
    Kind.VECTOR: frozenset({_NULL, bytes}),
}

#: Longest piece of a value that a reason quotes, in characters.
_QUOTED_CHARS = 40


def _short(value: Any) -> str:
    if isinstance(value, InvalidText):
        return "text that is not valid UTF-8"
    if isinstance(value, bytes):
        return f"a BLOB of {len(value):,} bytes"
    if isinstance(value, str):
        return f"text {value[:_QUOTED_CHARS]!r}{'…' if len(value) > _QUOTED_CHARS else ''}"
    return repr(value)
