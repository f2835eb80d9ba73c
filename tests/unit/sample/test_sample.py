"""The sample is a memory as NIMA.md describes it, and the same one every time."""

import hashlib
import json
import math
import re
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nimad.errors import CannotWriteError, NimadError, UsageError
from nimad.sample import REAL_LAYERS, SHAPES, Sample, create_schema, layer_counts, releases, write_sample
from nimad.sample.times import DAY_MS, END_MS

BEFORE = "id timestamp layer text summary who affect_json session_key conversation_id turn_id"
NODES_1_0 = f"{BEFORE} created_at"
SINCE_2_2 = "embedding strength decay_rate last_accessed is_ghost dismissal_count"
NODE_COLUMNS = {
    "1.0": NODES_1_0,
    "2.0": f"{NODES_1_0} fe_score",
    "2.2": f"{NODES_1_0} fe_score {SINCE_2_2}",
    "3.0": f"{BEFORE} fe_score {SINCE_2_2} created_at",
    "3.1": f"{BEFORE} fe_score {SINCE_2_2} created_at themes",
}
EDGE_COLUMNS = "id source_id target_id relation weight"
TURN_COLUMNS = "id turn_id input_node_id contemplation_node_id output_node_id timestamp affect_json"
TABLES_3_1 = {
    "nima_insights",
    "nima_patterns",
    "nima_dream_runs",
    "nima_suppressed_memories",
    "nima_pruner_runs",
    "nima_lucid_moments",
}


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path = tmp_path_factory.mktemp("sample") / "graph.sqlite"
    write_sample(path, Sample(nodes=400))
    with closing(sqlite3.connect(path)) as connection:
        yield connection


def columns(connection: sqlite3.Connection, table: str) -> str:
    return " ".join(row[1] for row in connection.execute(f"PRAGMA table_info({table})"))


def rows_of(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def test_the_real_size_has_the_real_layers_turns_and_edges() -> None:
    assert layer_counts(9_770) == REAL_LAYERS
    assert (Sample().turns, Sample().edges) == (5_802, 6_333)


@pytest.mark.parametrize("nodes", [0, 1, 2, 3, 7, 977, 100_003])
def test_the_layers_add_up_at_any_size(nodes: int) -> None:
    assert sum(layer_counts(nodes).values()) == nodes


@pytest.mark.parametrize("nodes", [0, 1, 2, 3, 4, 5, 9, 33])
def test_even_a_tiny_sample_is_complete(tmp_path: Path, nodes: int) -> None:
    path = tmp_path / "graph.sqlite"
    counts = write_sample(path, Sample(nodes=nodes, embedded_share=0))
    assert counts.nodes == nodes
    assert counts.edges <= Sample(nodes=nodes).edges
    assert counts.bytes == path.stat().st_size


def test_the_file_holds_what_the_counts_say(memory: sqlite3.Connection) -> None:
    layers = dict(memory.execute("SELECT layer, count(*) FROM memory_nodes GROUP BY layer"))
    assert layers == layer_counts(400)
    assert memory.execute("SELECT count(*) FROM memory_turns").fetchone() == (Sample(nodes=400).turns,)
    assert memory.execute("SELECT count(*) FROM memory_edges").fetchone() == (Sample(nodes=400).edges,)
    assert memory.execute("SELECT max(id) > count(*) FROM memory_nodes").fetchone() == (1,)


def test_the_same_sample_has_the_same_rows_and_another_seed_has_others(tmp_path: Path) -> None:
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        write_sample(tmp_path / name, Sample(nodes=40, seed=seed, full_text_index=False))
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "two")
    assert rows_of(tmp_path / "one") != rows_of(tmp_path / "three")


def test_the_rows_are_those_of_every_other_machine(tmp_path: Path) -> None:
    write_sample(tmp_path / "graph.sqlite", Sample(nodes=40, full_text_index=False))
    digest = hashlib.sha256()
    with closing(sqlite3.connect(tmp_path / "graph.sqlite")) as connection:
        for table in ("memory_nodes", "memory_edges", "memory_turns", *sorted(TABLES_3_1)):
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1"):
                digest.update(repr(row).encode())
    assert digest.hexdigest()[:16] == "8b5ede2dbabc3fae", "a changed sample changes every benchmark: say so"


def test_a_row_does_not_depend_on_the_shape(tmp_path: Path) -> None:
    contents = []
    for shape in SHAPES:
        write_sample(tmp_path / shape, Sample(nodes=30, shape=shape, full_text_index=False))
        with closing(sqlite3.connect(tmp_path / shape)) as connection:
            contents.append(connection.execute(f"SELECT {NODES_1_0.replace(' ', ', ')} FROM memory_nodes").fetchall())
    assert all(content == contents[0] for content in contents)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_has_its_columns_and_tables(shape: str) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        create_schema(connection, shape)
        created_at = " created_at" if shape >= "3.0" else ""
        assert columns(connection, "memory_nodes") == NODE_COLUMNS[shape]
        assert columns(connection, "memory_edges") == EDGE_COLUMNS + created_at
        assert columns(connection, "memory_turns") == TURN_COLUMNS + created_at
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        others = tables - {"memory_nodes", "memory_edges", "memory_turns", "sqlite_sequence"}
        assert others == (TABLES_3_1 if shape == "3.1" else set())


def test_only_the_early_shapes_check_the_layer() -> None:
    for shape in SHAPES:
        with closing(sqlite3.connect(":memory:")) as connection:
            create_schema(connection, shape)
            if shape >= "3.0":
                connection.execute("INSERT INTO memory_nodes (layer) VALUES ('dream')")
            else:
                with pytest.raises(sqlite3.IntegrityError):
                    connection.execute("INSERT INTO memory_nodes (layer) VALUES ('dream')")


def test_every_link_ends_at_a_node(memory: sqlite3.Connection) -> None:
    ids = {row[0] for row in memory.execute("SELECT id FROM memory_nodes")}
    for source, target in memory.execute("SELECT source_id, target_id FROM memory_edges"):
        assert {source, target} <= ids
    for layer in ("input", "contemplation", "output"):
        wrong = f"""SELECT count(*) FROM memory_turns t LEFT JOIN memory_nodes n ON n.id = t.{layer}_node_id
            WHERE t.{layer}_node_id IS NOT NULL AND (n.layer, n.turn_id) IS NOT ('{layer}', t.turn_id)"""
        assert memory.execute(wrong).fetchone() == (0,)
    assert memory.execute("SELECT min(weight) >= 0, max(weight) <= 1 FROM memory_edges").fetchone() == (1, 1)
    for table in ("nima_suppressed_memories", "nima_lucid_moments"):
        named = {row[0] for row in memory.execute(f"SELECT memory_id FROM {table}")}
        assert named
        assert named <= ids


def test_turn_and_layer_name_one_node(memory: sqlite3.Connection) -> None:
    twice = """SELECT turn_id, layer FROM memory_nodes WHERE layer <> 'legacy_vsa'
        GROUP BY turn_id, layer HAVING count(*) > 1 OR turn_id IS NULL"""
    assert memory.execute(twice).fetchall() == []
    legacy = "SELECT count(turn_id) + count(conversation_id) FROM memory_nodes WHERE layer = 'legacy_vsa'"
    assert memory.execute(legacy).fetchone() == (0,)


def test_texts_and_times_are_plausible(memory: sqlite3.Connection) -> None:
    for text, summary, timestamp, themes in memory.execute("SELECT text, summary, timestamp, themes FROM memory_nodes"):
        assert 1_500 <= len(text.encode()) <= 5_700
        assert len(summary or "") <= 300
        assert timestamp < END_MS + DAY_MS
        assert isinstance(json.loads(themes or "[]"), list)
    assert memory.execute("SELECT count(*) > 0 FROM memory_nodes WHERE who IS NULL").fetchone() == (1,)


def test_text_search_finds_the_words_of_the_rows(memory: sqlite3.Connection) -> None:
    found = memory.execute("SELECT rowid FROM memory_fts WHERE memory_fts MATCH 'text:sourdough'").fetchall()
    there = memory.execute("SELECT id FROM memory_nodes WHERE text LIKE '%sourdough%' ORDER BY id").fetchall()
    assert found
    assert found == there


def test_embeddings_of_one_topic_are_near_each_other(memory: sqlite3.Connection) -> None:
    query = "SELECT embedding, json_extract(themes, '$[0]') FROM memory_nodes WHERE themes IS NOT NULL LIMIT 60"
    found = [(struct.unpack("<384f", blob), topic) for blob, topic in memory.execute(query)]
    same: list[float] = []
    other: list[float] = []
    for number, (one, topic) in enumerate(found):
        assert math.hypot(*one) == pytest.approx(1, abs=0.15)
        for another, its_topic in found[:number]:
            nearness = math.fsum(a * b for a, b in zip(one, another, strict=True))
            (same if topic == its_topic else other).append(nearness)
    assert min(same) > 0.5 > max(other)


def test_part_of_the_nodes_can_be_without_embedding(tmp_path: Path) -> None:
    path = tmp_path / "graph.sqlite"
    write_sample(path, Sample(nodes=40, dimension=8, embedded_share=0.25))
    with closing(sqlite3.connect(path)) as connection:
        lengths = "SELECT count(embedding), min(length(embedding)), max(length(embedding)) FROM memory_nodes"
        assert connection.execute(lengths).fetchone() == (10, 32, 32)


def test_the_file_stands_alone_in_wal_mode(tmp_path: Path) -> None:
    write_sample(tmp_path / "graph.sqlite", Sample(nodes=20))
    assert [entry.name for entry in tmp_path.iterdir()] == ["graph.sqlite"]
    with closing(sqlite3.connect(tmp_path / "graph.sqlite")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_existing_file_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "graph.sqlite"
    path.write_text("precious")
    for there in (path, tmp_path):
        with pytest.raises(UsageError, match=rf"^{re.escape(str(there))} exists already: name another file$"):
            write_sample(there, Sample(nodes=5))
    assert path.read_text() == "precious"


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        CannotWriteError, match=r"there is no folder .*/my missing; make it with: mkdir -p '.*/my missing'$"
    ):
        write_sample(tmp_path / "my missing" / "graph.sqlite", Sample(nodes=5))
    (tmp_path / "file").touch()
    with pytest.raises(CannotWriteError, match="Not a directory"):
        write_sample(tmp_path / "file" / "graph.sqlite", Sample(nodes=5))


def test_a_sqlite_without_full_text_search_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = "CREATE VIRTUAL TABLE memory_fts USING fts99 (text)"
    monkeypatch.setattr(releases, "_FULL_TEXT_INDEX", index)
    with pytest.raises(NimadError, match="full_text_index=False"):
        write_sample(tmp_path / "graph.sqlite", Sample(nodes=5))
    assert list(tmp_path.iterdir()) == []
    write_sample(tmp_path / "graph.sqlite", Sample(nodes=5, full_text_index=False))


def test_impossible_samples_are_refused() -> None:
    with pytest.raises(UsageError, match=r"choose one of 1\.0"):
        Sample(shape="9.9")
    with pytest.raises(UsageError, match="embedded_share within 0 to 1"):
        Sample(embedded_share=1.5)
