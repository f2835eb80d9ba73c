"""Conversion of a value from a column of one target to the same column of another."""

from array import array
from collections.abc import Mapping
from math import isinf
from typing import Any

from nimad.source.schema import ValueKind
from nimad.worker.compare.shared_schema import kind_of

#: Bits of a whole number, and whether one of them is its sign.
_WHOLE: Mapping[str, tuple[int, bool]] = {
    **{f"INT{bits}": (bits, True) for bits in (64, 32, 16, 8)},
    **{f"UINT{bits}": (bits, False) for bits in (64, 32, 16, 8)},
    "SERIAL": (64, True),
}
#: The largest whole number that every smaller one has a double of its own below.
_EXACT = 2**53


def as_held(value: Any, before: str, here: str) -> Any:
    """The value as a column of the type `here` holds what one of the type `before` held; None where it cannot."""
    if value is None or kind_of(here) is None:
        return None
    if before == here:
        return value
    numbers = (ValueKind.INT64, ValueKind.DOUBLE)
    if kind_of(before) not in numbers or kind_of(here) not in numbers:
        return None
    if here in _WHOLE:
        bits, signed = _WHOLE[here]
        least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return value if isinstance(value, int) and least <= value <= most else None
    if isinstance(value, int) and abs(value) > _EXACT:
        return None
    return _narrowed(float(value)) if here == "FLOAT" else float(value)


def _narrowed(value: float) -> float | None:
    """The nearest number of 32 bits; None where it has none."""
    near = array("f", [value])[0]
    return None if isinf(near) and not isinf(value) else near
