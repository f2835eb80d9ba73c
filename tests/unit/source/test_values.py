"""Values: the rule of each column type (docs/VALUES.md), and that whatever follows the rules arrives bit for bit."""

import json
import math
import struct
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.memories import same_value, vector

from nimad.source import arrow
from nimad.source.cells import InvalidText
from nimad.source.schema import Column, Schema, Table, ValueKind
from nimad.source.values import are_plain, cell

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
DIMENSION = 4
NAN, INF = math.nan, math.inf
#: NaNs that no arithmetic makes: negative, signalling, with a payload.
ODD_NANS = struct.pack("<4I", 0xFFC00000, 0x7F800001, 0x7FC0BEEF, 0xFFFFFFFF)
NASTY_TEXTS = [
    "",
    "\0",
    "a\0b",
    "\r",
    "a\rb\r\nc\n",
    "'",
    '"',
    "`",
    "\\",
    "\\n",
    "$x {} [] //",
    "NULL",
    "'; DROP TABLE memory_nodes; --",
    '{"json": [1, "\\u0000"]}',
    "👩🏽‍🚀 e\u0301 \u200f \ufeff",
    "\U0010ffff\ufffe\ue000",
    "\u2028\u2029\x85\x1c",
    " leading and trailing ",
]


SCHEMA = Schema(Table("memory_nodes", "id", ()), None, None, DIMENSION)


def column(kind: ValueKind) -> Column:
    return Column("c", "c", kind)


# The rules, type by type

BECOMES: list[tuple[ValueKind, Any, Any]] = [
    (ValueKind.INT64, 0, 0),
    (ValueKind.INT64, INT64_MIN, INT64_MIN),
    (ValueKind.INT64, INT64_MAX, INT64_MAX),
    (ValueKind.INT64, 5.0, 5),
    (ValueKind.INT64, -0.0, 0),
    (ValueKind.INT64, float(INT64_MIN), INT64_MIN),
    (ValueKind.INT64, "42", 42),
    (ValueKind.INT64, "  -7\n", -7),
    (ValueKind.INT64, "+3", 3),
    (ValueKind.INT64, "007", 7),
    (ValueKind.INT64, "5.0", 5),
    (ValueKind.INT64, "1e3", 1_000),
    (ValueKind.INT64, str(INT64_MAX), INT64_MAX),
    (ValueKind.DOUBLE, 0.1, 0.1),
    (ValueKind.DOUBLE, -0.0, -0.0),
    (ValueKind.DOUBLE, 5e-324, 5e-324),
    (ValueKind.DOUBLE, INF, INF),
    (ValueKind.DOUBLE, 7, 7.0),
    (ValueKind.DOUBLE, 2**53, 2.0**53),
    (ValueKind.DOUBLE, -(2**63), -(2.0**63)),
    (ValueKind.DOUBLE, "0.5", 0.5),
    (ValueKind.DOUBLE, ".5", 0.5),
    (ValueKind.DOUBLE, "5.", 5.0),
    (ValueKind.DOUBLE, "-1E-3", -0.001),
    (ValueKind.DOUBLE, " 12 ", 12.0),
    (ValueKind.BOOL, 0, False),
    (ValueKind.BOOL, 1, True),
    (ValueKind.BOOL, 1.0, True),
    (ValueKind.BOOL, "0", False),
    (ValueKind.BOOL, "1", True),
    (ValueKind.STRING, 7, "7"),
    (ValueKind.STRING, INT64_MIN, "-9223372036854775808"),
    (ValueKind.STRING, 0.1, "0.1"),
    (ValueKind.STRING, b"gr\xc3\xb6\xc3\x9fer\0", "größer\0"),
    (ValueKind.STRING, b"", ""),
    *((ValueKind.STRING, text, text) for text in NASTY_TEXTS),
    (ValueKind.BLOB, b"", b""),
    (ValueKind.BLOB, b"\x00\xff", b"\x00\xff"),
    (ValueKind.BLOB, "größer", "größer".encode()),
    (ValueKind.BLOB, InvalidText(b"\xff"), b"\xff"),
    (ValueKind.VECTOR, vector(1, -0.0, NAN, INF), vector(1, -0.0, NAN, INF)),
    (ValueKind.VECTOR, ODD_NANS, ODD_NANS),
    *((kind, None, None) for kind in ValueKind),
]


@pytest.mark.parametrize(("kind", "value", "expected"), BECOMES)
def test_what_a_value_becomes(kind: ValueKind, value: Any, expected: Any) -> None:
    found = cell(column(kind), value, SCHEMA)
    assert same_value(found.value, expected)
    assert found.reason == ""


REFUSED: list[tuple[ValueKind, Any, str]] = [
    (ValueKind.INT64, "soon", "text of 4 characters where an integer belongs"),
    (ValueKind.INT64, "", "text of 0 characters where an integer belongs"),
    (ValueKind.INT64, "5 6", "text of 3 characters where an integer belongs"),
    (ValueKind.INT64, "1_000", "text of 5 characters where an integer belongs"),
    (ValueKind.INT64, "0x10", "text of 4 characters where an integer belongs"),
    (ValueKind.INT64, "٣", "text of 1 characters where an integer belongs"),
    (ValueKind.INT64, "5.5", "text of 3 characters where an integer belongs"),
    (ValueKind.INT64, 5.5, "a float where an integer belongs"),
    (ValueKind.INT64, INF, "a float where an integer belongs"),
    (ValueKind.INT64, 2.0**63, "a float outside the 64-bit integers"),
    (ValueKind.INT64, str(2**63), "text of 19 characters outside the 64-bit integers"),
    (ValueKind.INT64, b"5", "a BLOB of 1 bytes where an integer belongs"),
    (ValueKind.INT64, InvalidText(b"\xff5"), "text of 2 bytes that is not valid UTF-8 where an integer belongs"),
    (ValueKind.DOUBLE, "high", "text of 4 characters where a number belongs"),
    (ValueKind.DOUBLE, "nan", "text of 3 characters where a number belongs"),
    (ValueKind.DOUBLE, "inf", "text of 3 characters where a number belongs"),
    (ValueKind.DOUBLE, ".", "text of 1 characters where a number belongs"),
    (ValueKind.DOUBLE, 2**53 + 1, "an integer that is not exact as a 64-bit float"),
    (ValueKind.DOUBLE, INT64_MAX, "an integer that is not exact as a 64-bit float"),
    (ValueKind.DOUBLE, "9007199254740993", "text of 16 characters that is not exact as a 64-bit float"),
    (ValueKind.DOUBLE, "9" * 350, "text of 350 characters outside the 64-bit floats"),
    (ValueKind.DOUBLE, b"", "a BLOB of 0 bytes where a number belongs"),
    (ValueKind.BOOL, 2, "an integer where 0 or 1 belongs"),
    (ValueKind.BOOL, -1, "an integer where 0 or 1 belongs"),
    (ValueKind.BOOL, 0.5, "a float where 0 or 1 belongs"),
    (ValueKind.BOOL, "yes", "text of 3 characters where 0 or 1 belongs"),
    (ValueKind.BOOL, b"\x01", "a BLOB of 1 bytes where 0 or 1 belongs"),
    (ValueKind.BLOB, 5, "an integer where bytes belong"),
    (ValueKind.BLOB, 0.5, "a float where bytes belong"),
    (ValueKind.VECTOR, b"", "an embedding of 0 floats, not 4"),
    (ValueKind.VECTOR, bytes(15), "an embedding of 15 bytes, no multiple of 4"),
    (ValueKind.VECTOR, vector(1, 2), "an embedding of 2 floats, not 4"),
    (ValueKind.VECTOR, bytes(4 * 1_536), "an embedding of 1536 floats, not 4"),
    (ValueKind.VECTOR, "[0.1, 0.2]", "an embedding of 2 floats, not 4"),
    (ValueKind.VECTOR, "[0.1, 0.2, 1e39, 0]", "an embedding with a number outside the 32-bit floats"),
    (ValueKind.VECTOR, "[0.1, 0.2, 1e999, 0]", "text of 20 characters where an embedding's bytes belong"),
    (ValueKind.VECTOR, '[0.1, "0.2", 1, 0]', "text of 18 characters where an embedding's bytes belong"),
    (ValueKind.VECTOR, "secret", "text of 6 characters where an embedding's bytes belong"),
    (ValueKind.VECTOR, 5, "an integer where an embedding's bytes belong"),
    (
        ValueKind.VECTOR,
        InvalidText(bytes(16)),
        "text of 16 bytes that is not valid UTF-8 where an embedding's bytes belong",
    ),
]


@pytest.mark.parametrize(("kind", "value", "reason"), REFUSED)
def test_what_has_no_place_is_set_aside_with_a_reason_that_does_not_quote_it(
    kind: ValueKind, value: Any, reason: str
) -> None:
    found = cell(column(kind), value, SCHEMA)
    assert (found.value, found.reason) == (None, f"c: {reason}")
    assert not are_plain(column(kind), [None, value], SCHEMA)
    assert cell(Column("c", "c", ValueKind.INT64, 7), "secret", SCHEMA).value == 7, "the default takes its place"


@pytest.mark.parametrize(
    ("value", "readable", "reason"),
    [
        (InvalidText(b"caf\xe9"), "caf\ufffd", "text of 4 bytes, not valid UTF-8"),
        (b"\xff\xfe", "\ufffd\ufffd", "a BLOB of 2 bytes, not valid UTF-8"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd", "a BLOB of 3 bytes, not valid UTF-8"),  # half a surrogate pair
    ],
)
def test_of_text_that_is_no_utf8_the_readable_part_migrates(value: Any, readable: str, reason: str) -> None:
    found = cell(column(ValueKind.STRING), value, SCHEMA)
    assert (found.value, found.reason) == (readable, f"c: {reason}, migrated as text with U+FFFD")


MOMENTS: list[tuple[Any, int | None]] = [
    (1_700_000_000_000.75, 1_700_000_000_000),
    (-1.5, -1),
    ("1700000000000.9", 1_700_000_000_000),
    ("2026-03-04T05:06:07Z", 1_772_600_767_000),
    ("2026-03-04 05:06:07", 1_772_600_767_000),
    ("2026-03-04T05:06:07.123456+02:00", 1_772_593_567_123),
    ("2026-03-04T05:06:07.9-0530", 1_772_620_567_900),
    ("2026-03-04T05:06z", 1_772_600_760_000),
    ("2026-03-04", 1_772_582_400_000),
    ("1969-12-31T23:59:59.9995Z", 0),
    ("0001-01-01T00:00:00+14:00", -62_135_647_200_000),
    ("2026-02-30T00:00:00Z", None),
    ("2026-03-04T25:00:00Z", None),
    ("2026-03-04T05:06:07+99:99", None),
    ("4 March 2026", None),
    ("2026-W10-3", None),
    ("05:06:07", None),
    ("", None),
    (b"2026-03-04", None),
    (INF, None),
    (1e300, None),
]


@pytest.mark.parametrize(("value", "milliseconds"), MOMENTS)
def test_moments_that_are_no_integers_are_read_where_it_is_certain_what_they_mean(
    value: Any, milliseconds: int | None
) -> None:
    found = cell(Column("timestamp", "timestamp", ValueKind.INT64, None, is_moment=True), value, SCHEMA)
    assert found.value == milliseconds
    assert ("migrated as" in found.reason) == (milliseconds is not None)
    assert found.reason.startswith("timestamp: ")
    assert cell(column(ValueKind.INT64), value, SCHEMA).value is None, "in no other column"


def test_the_least_integer_is_set_aside_for_an_engine_that_does_not_hold_it() -> None:
    old = Schema(SCHEMA.nodes, None, None, DIMENSION, least=INT64_MIN + 1)
    assert cell(column(ValueKind.INT64), INT64_MIN, old).value is None
    assert cell(column(ValueKind.INT64), INT64_MIN + 1, old).reason == ""
    assert not are_plain(column(ValueKind.INT64), [None, INT64_MIN], old)
    assert are_plain(column(ValueKind.INT64), [None, INT64_MIN], SCHEMA)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (ValueKind.INT64, "9007199254740993.0"),
        (ValueKind.INT64, "0.99999999999999999999"),
        (ValueKind.INT64, "1e-400"),
        (ValueKind.BOOL, "0.99999999999999999999"),
        (ValueKind.BOOL, "1e-400"),
        (ValueKind.DOUBLE, "1e400"),
    ],
)
def test_a_number_in_text_is_never_rounded_to_another(kind: ValueKind, text: str) -> None:
    found = cell(column(kind), text, SCHEMA)
    assert found.value is None or Decimal(found.value) == Decimal(text)
    assert (found.value is None) == bool(found.reason)


# The rules, for any value at all

ANY_INT = st.integers(INT64_MIN, INT64_MAX) | st.sampled_from([0, 1, 2**53, 2**53 + 1, INT64_MIN, INT64_MAX])
ANY_FLOAT = st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, 5e-324, INF, -INF, 2.0**63])
ANY_TEXT = st.text() | st.sampled_from(NASTY_TEXTS) | ANY_INT.map(str) | ANY_FLOAT.map(repr)
ANY_BYTES = st.binary(max_size=40) | st.binary(min_size=16, max_size=16)
NO_UTF8 = st.binary(max_size=20).map(lambda raw: InvalidText(raw + b"\xff"))
ANY_VALUE = st.none() | ANY_INT | ANY_FLOAT | ANY_TEXT | ANY_BYTES | NO_UTF8

TYPES: dict[ValueKind, Any] = {
    ValueKind.INT64: int,
    ValueKind.DOUBLE: float,
    ValueKind.STRING: str,
    ValueKind.BOOL: bool,
    ValueKind.BLOB: bytes,
    ValueKind.VECTOR: bytes,
}


@given(kind=st.sampled_from(ValueKind), value=ANY_VALUE)
@settings(max_examples=500, deadline=None, database=None)
def test_any_value_becomes_its_equal_or_is_set_aside(kind: ValueKind, value: Any) -> None:
    found = cell(column(kind), value, SCHEMA)
    got = found.value
    if found.reason:
        assert len(found.reason.splitlines()) == 1
        raw = value.raw if isinstance(value, InvalidText) else value
        assert got == (raw.decode(errors="replace") if kind is ValueKind.STRING else None)
        return
    if value is None:
        assert got is None
        return
    assert type(got) is TYPES[kind]
    if kind is ValueKind.VECTOR and isinstance(value, bytes) and len(value) == 4 * DIMENSION:
        assert got == value
    elif kind is ValueKind.VECTOR:
        assert struct.unpack("<4f", got) == pytest.approx(json.loads(value))
    elif kind is ValueKind.BLOB:
        raw = value.raw if isinstance(value, InvalidText) else value
        assert got == (raw.encode() if isinstance(raw, str) else raw)
    elif kind is ValueKind.STRING:
        assert got == (value.decode() if isinstance(value, bytes) else value if isinstance(value, str) else repr(value))
    elif isinstance(value, str):
        assert float(got) == float(value)
    else:
        assert got == value


@given(kind=st.sampled_from(ValueKind), values=st.lists(ANY_VALUE, max_size=4))
@example(kind=ValueKind.BOOL, values=[0, 1, None])
@example(kind=ValueKind.BOOL, values=[0, 2])
@example(kind=ValueKind.VECTOR, values=[bytes(16), bytes(15)])
@settings(max_examples=500, deadline=None, database=None)
def test_a_column_that_passes_for_plain_needs_no_rule(kind: ValueKind, values: Sequence[Any]) -> None:
    if not are_plain(column(kind), values, SCHEMA):
        return
    for value in values:
        found = cell(column(kind), value, SCHEMA)
        assert found.reason == ""
        assert same_value(found.value, bool(value) if kind is ValueKind.BOOL and value is not None else value)


@given(values=st.lists(st.none() | ANY_INT, max_size=20), flags=st.lists(st.none() | st.sampled_from([0, 1])))
@settings(max_examples=100, deadline=None, database=None)
def test_columns_as_they_should_be_do_pass_for_plain(values: Sequence[Any], flags: Sequence[Any]) -> None:
    assert are_plain(column(ValueKind.INT64), values, SCHEMA)
    assert are_plain(column(ValueKind.BOOL), flags, SCHEMA)
    assert are_plain(column(ValueKind.STRING), [str(value) for value in values], SCHEMA)


# Through a real migration, and back


# Every wrong type in every column


@given(st.lists(st.none() | st.lists(st.floats(width=32), min_size=3, max_size=3), max_size=40), st.data())
def test_vectors_come_out_of_any_slice_of_what_the_engine_gave(
    rows: list[list[float] | None], data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, len(rows)))
    last = data.draw(st.integers(first, len(rows)))
    whole = pa.array(rows, pa.list_(pa.float32(), 3))
    found = arrow.values(pa.chunked_array([whole.slice(first, last - first), whole]), ValueKind.VECTOR)
    expected = [None if row is None else vector(*row) for row in rows]
    assert found == expected[first:last] + expected
