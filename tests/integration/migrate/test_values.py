"""Values: the rule of each column type (docs/VALUES.md), and that whatever follows the rules arrives bit for bit."""

import json
import math
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from support.arrival import Raw, assert_arrived, columns_without_types, write
from support.memories import LINKS, assert_same, edge, make_memory, migrate_smoothly, node, same_value, turn, vector

from nimad.migration import batches
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

EXTRA = ("image BLOB", "ratio REAL", "tally INTEGER", "note TEXT")
ADDED = [f"ALTER TABLE memory_{name}s ADD COLUMN {one}" for name in ("node", "edge", "turn") for one in EXTRA]

UTF8_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TEXTS = st.none() | UTF8_TEXT | st.sampled_from(NASTY_TEXTS)
INTS = st.none() | ANY_INT
FLOATS = st.none() | ANY_FLOAT
VECTORS = st.none() | st.binary(min_size=16, max_size=16) | st.just(ODD_NANS)
OWN_COLUMNS = {"image": st.none() | st.binary(max_size=30), "ratio": FLOATS, "tally": INTS, "note": TEXTS}
NODE_VALUES = st.fixed_dictionaries(
    {
        "timestamp": INTS,
        "layer": TEXTS,
        "text": TEXTS,
        "summary": TEXTS,
        "fe_score": FLOATS,
        "strength": FLOATS,
        "is_ghost": st.sampled_from([None, 0, 1]),
        "embedding": VECTORS,
        **OWN_COLUMNS,
    }
)
EDGE_VALUES = st.fixed_dictionaries({"relation": TEXTS, "weight": FLOATS, **OWN_COLUMNS})
TURN_VALUES = st.fixed_dictionaries({"affect_json": TEXTS, "timestamp": INTS, **OWN_COLUMNS})
IDS = st.lists(ANY_INT, min_size=1, max_size=40, unique=True)


@st.composite
def memories(draw: st.DrawFn) -> dict[str, Any]:
    """A batch of arbitrary rows for each table; every end of an edge or turn is a node of the batch."""
    ids = draw(IDS)
    one = st.sampled_from(ids)
    maybe = st.none() | one
    return {
        "nodes": [node(key, **draw(NODE_VALUES)) for key in ids],
        "edges": [edge(key, draw(one), draw(one), **draw(EDGE_VALUES)) for key in draw(IDS)[:15]],
        "turns": [turn(key, draw(maybe), draw(maybe), draw(maybe), **draw(TURN_VALUES)) for key in draw(IDS)[:15]],
    }


@given(memory=memories())
@settings(
    max_examples=4,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # each step of shrinking would be one more migration
    suppress_health_check=list(HealthCheck),
)
def test_any_rows_at_all_come_back_bit_for_bit(memory: dict[str, Any]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="nimad-values-"))
    try:
        source = make_memory(folder / "graph.sqlite", schema=ADDED, **memory)
        run = migrate_smoothly(source)
        assert_same(source, run.target)
        assert run.quarantine == []
        assert run.result.exit_code == 0
    finally:
        shutil.rmtree(folder)


# Every wrong type in every column

#: Of columns that have no type, so that SQLite leaves each value what it is.
NODE_COLUMNS = (
    *("timestamp", "layer", "text", "summary", "who", "affect_json", "turn_id", "fe_score", "embedding", "strength"),
    *("decay_rate", "last_accessed", "is_ghost", "dismissal_count", "recall_count", "themes", "created_at", "own"),
)
ODD_SCHEMA = (
    columns_without_types("memory_nodes", NODE_COLUMNS),
    columns_without_types("memory_edges", ("source_id", "target_id", "relation", "weight", "own")),
    columns_without_types("memory_turns", ("turn_id", *LINKS, "timestamp", "affect_json", "own")),
)
WRONG = (
    st.none()
    | st.sampled_from([0, 1, 2, -1, 2**53 + 1, INT64_MAX, 0.5, 1.0, INF, -0.0, 1e300])
    | st.sampled_from(["", "false", "n/a", "1", "0.5", "2026-03-04T05:06:07Z", "3 days", "[1, 2, 3, 4]", "[1]"])
    | st.sampled_from([b"", b"text", b"\xff", vector(1, 2, 3, 4), bytes(3), Raw(b"caf\xe9"), Raw(b"\xed\xa0\x80")])
    | UTF8_TEXT
)


@st.composite
def odd_memories(draw: st.DrawFn) -> dict[str, list[dict[str, Any]]]:
    """Rows each of whose columns may hold a value of any type."""
    ids = range(1, 13)

    def rows(names: Sequence[str], ends: Sequence[str] = ()) -> list[dict[str, Any]]:
        end = st.sampled_from([*ids, *ids, 99, None, "one", "2", 3.0, b"4", 0.5])
        return [{"id": key, **{n: draw(end if n in ends else WRONG) for n in names}} for key in ids]

    return {
        "memory_nodes": rows(NODE_COLUMNS),
        "memory_edges": rows(("source_id", "target_id", "relation", "weight", "own"), ("source_id", "target_id")),
        "memory_turns": rows(("turn_id", *LINKS, "timestamp", "affect_json", "own"), tuple(LINKS)),
    }


@given(memory=odd_memories())
@settings(
    max_examples=3,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_of_any_values_at_all_no_memory_is_missing(memory: dict[str, list[dict[str, Any]]]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="nimad-values-"))
    try:
        source = make_memory(folder / "graph.sqlite", own_schema=True, schema=ODD_SCHEMA)
        for table, rows in memory.items():
            write(source, table, rows)
        run = migrate_smoothly(source, max_set_aside="0")
        assert_arrived(source, run.target)
        assert run.result.success_rate == 100
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("spool_factor", [1.1, 1e9], ids=["waiting in a file", "waiting in memory"])
def test_each_known_trap_comes_back_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spool_factor: float
) -> None:
    monkeypatch.setattr(batches, "SPOOL_FACTOR", spool_factor)  # of a disk: the second has no room for a file
    texts = [*NASTY_TEXTS, None, "x" * 10_000_000, "🙂\0\n" * 300_000]
    floats = [0.0, -0.0, INF, -INF, 5e-324, -2.2250738585072014e-308, 1.7976931348623157e308, 0.1, None]
    ints = [INT64_MIN, INT64_MAX, 0, -1, 2**53 + 1, None]
    vectors = [ODD_NANS, vector(NAN, INF, -INF, -0.0), vector(1e-45, 3.4e38, 1, 0), bytes(16), None]
    nodes = [
        node(
            number,
            text=text,
            summary=None if text is None else text[:100],
            fe_score=floats[number % len(floats)],
            strength=floats[-number % len(floats)],
            timestamp=ints[number % len(ints)],
            embedding=vectors[number % len(vectors)],
            image=None if text is None else text.encode()[:1_000],
        )
        for number, text in enumerate(texts)
    ]
    source = make_memory(tmp_path / "graph.sqlite", schema=ADDED, nodes=nodes)
    run = migrate_smoothly(source)

    target = assert_same(source, run.target)
    assert [target.nodes[number]["text"] for number in range(len(texts))] == texts
    assert run.result.exit_code == 0


#: Reads vectors as a worker does while it has the target open, and says which of Arrow's modules it took.
READS_VECTORS = """
import sys
import pyarrow as pa
from nimad.source import arrow
from nimad.source.schema import ValueKind
column = pa.chunked_array([pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2))])
print(len(arrow.values(column, ValueKind.VECTOR)), "pyarrow.compute" in sys.modules)
"""


def test_vectors_are_read_without_arrows_kernels() -> None:
    """Their import takes longer than all else that a late turn has the target open for."""
    done = subprocess.run([sys.executable, "-c", READS_VECTORS], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("3 False\n", "")


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
