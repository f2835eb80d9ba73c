"""Values: the rule of each column type (docs/VALUES.md), and that whatever follows the rules arrives bit for bit."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.arrival import Raw, assert_arrived, columns_without_types, write
from support.memories import LINKS, assert_same, edge, make_memory, migrate_smoothly, node, turn, vector
from test_values import ANY_FLOAT, ANY_INT, INF, INT64_MAX, INT64_MIN, NAN, NASTY_TEXTS, ODD_NANS

from nimad.migration import batches

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
