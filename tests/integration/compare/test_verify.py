"""`nimad verify`: both sides held against each other at any time, each side's doing told apart, and nothing touched."""

import itertools
import json
import os
import sys
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

import ladybug
import pytest
from support.commands import GOLDEN, Ran, nimad
from support.following import Following, agent, new_turn, written_by_agent
from support.memories import ENGINE_LIMITS, change, edge, make_memory, migrate, node, turn, vector
from support.torture import beside, target_of
from test_bad_input import everything_in, restricted

from nimad.compare import comparison
from nimad.compare.comparison import compare
from nimad.config import Settings
from nimad.errors import EngineError, ExitCode, NimadError, RefusedError
from nimad.report.messages import comparison_messages
from nimad.state import target_state
from nimad.state.paths import Files, locked
from nimad.target.catalog import tables_of_indexes
from nimad.worker.identity.match import pair
from nimad.worker.identity.natural_key import NaturalKey

__all__ = ["restricted"]


def verified(source: Path, level: str = "full", *, code: int) -> dict[str, Any]:
    """What `nimad verify --json` says."""
    compared = compare(Settings(source=source, target=target_of(source)), level)
    found: dict[str, Any] = json.loads(json.dumps(comparison_messages.to_json(compared)))
    assert (compared.exit_code, found["exit_code"]) == (code, code), list(comparison_messages.lines(compared))
    return found


def kinds(found: dict[str, Any]) -> dict[str, dict[str, list[int]]]:
    """By kind and table, the ids that are named."""
    named: dict[str, dict[str, list[int]]] = {}
    for table, facts in found["tables"].items():
        for kind, listed in facts.items():
            if isinstance(listed, dict) and listed["count"]:
                assert len(listed["first"]) == min(listed["count"], 20) or not listed["first"]
                named.setdefault(kind, {})[table] = [key for key, _ in listed["first"]]
    return named


def remarks(found: dict[str, Any], table: str, kind: str) -> dict[int, str]:
    return dict(found["tables"][table][kind]["first"])


# The same


def test_a_target_that_was_just_made_is_the_same(source: Path) -> None:
    before = everything_in(source.parent)
    found = verified(source, code=ExitCode.COMPLETE)
    assert kinds(found) == {}
    assert [table["same"] for table in found["tables"].values()] == [60, 20, 20]
    assert verified(source, "counts", code=ExitCode.COMPLETE)["same"]
    assert everything_in(source.parent) == before


def test_nothing_is_left_behind_in_a_folder_that_nobody_may_write_to(source: Path, restricted: list[str]) -> None:
    target = target_of(source)
    with agent(target) as connection:
        connection.execute("CALL force_checkpoint_on_close=false")
        connection.execute(
            "CREATE (:MemoryNode {id: 61, layer: 'input', turn_id: 'mine', text: 'agent', timestamp: 5})"
        )
    assert beside(target, ".wal").stat().st_size, "the engine's log has to be there for this"
    source.parent.chmod(0o555)
    for path in source.parent.iterdir():
        path.chmod(0o444)
    before = everything_in(source.parent)
    done = nimad(source.parent, "verify", "--source", source, "--json", prefix=restricted)
    after = everything_in(source.parent)
    source.parent.chmod(0o755)
    assert done.code == ExitCode.QUARANTINED, done.err
    assert kinds(json.loads(done.out)) == {"extra": {"memory_nodes": [61]}}
    assert after == before


# What each side did since


def test_what_the_agent_wrote_to_the_target_is_its_own_and_no_difference(source: Path) -> None:
    written_by_agent(target_of(source), 100, [61, 62, 63])
    found = verified(source, code=ExitCode.QUARANTINED)
    assert kinds(found) == {
        "extra": {"memory_nodes": [61, 62, 63], "memory_edges": [61, 62], "memory_turns": [61]},
    }


def test_a_table_of_the_agents_is_told_of_whatever_its_name_begins_with(source: Path) -> None:
    with agent(target_of(source)) as connection:
        connection.execute("CREATE NODE TABLE _notes(id INT64 PRIMARY KEY, note STRING)")
        connection.execute("CREATE (:_notes {id: 1, note: 'of the agent'})")
        connection.execute("CREATE REL TABLE _noted(FROM _notes TO MemoryNode)")
        connection.execute("MATCH (a:_notes {id: 1}), (b:MemoryNode {id: 3}) CREATE (a)-[:_noted]->(b)")
    assert compare(Settings(source=source, target=target_of(source))).others == {"_noted": 1, "_notes": 1}


@pytest.mark.parametrize(
    ("indexes", "own"),
    [
        ([], set()),
        (["_PK"], set()),
        (["by.likeness"], {"_0_by.likeness_UPPER", "_0_by.likeness_LOWER", "_by.likeness_UPPER"}),
        (["words"], {"0_words_docs", "0_words_terms", "0_words_appears_in", "default_english_stopwords"}),
        (None, {"_0_by.likeness_UPPER", "_0_by.likeness_LOWER", "_by.likeness_UPPER", "_0_byXlikeness_UPPER"}),
    ],
    ids=["none", "of a key", "of vectors", "of texts", "an engine that lists none"],
)
def test_the_tables_of_an_index_are_told_by_the_index(indexes: list[str] | None, own: set[str]) -> None:
    names = {"MemoryNode", "_notes", "_0_notes", "_0_by.likeness_UPPER", "_0_by.likeness_LOWER", "_by.likeness_UPPER"}
    names |= {
        "_0_byXlikeness_UPPER",
        "0_words_docs",
        "0_words_terms",
        "0_words_appears_in",
        "default_english_stopwords",
    }
    words = {name for name in names if "words" in name} if indexes is None else set[str]()
    assert tables_of_indexes(names, indexes) == own | words


def test_what_reached_sqlite_later_is_late(source: Path) -> None:
    ids = new_turn(source, 100)
    found = verified(source, code=ExitCode.QUARANTINED)
    assert kinds(found) == {
        "late": {"memory_nodes": ids, "memory_edges": [59, 60], "memory_turns": [100]},
    }


def test_a_memory_of_both_is_one_whatever_its_ids_are(source: Path) -> None:
    follow = Following(source)
    new_turn(source, 100)
    written_by_agent(follow.target, 200, [61, 62, 63])
    follow()
    found = verified(source, code=ExitCode.QUARANTINED)
    assert kinds(found) == {"extra": {"memory_nodes": [61, 62, 63], "memory_edges": [61, 62], "memory_turns": [61]}}
    assert found["tables"]["memory_nodes"]["renamed"] == 3
    beside(follow.target, ".ledger").unlink()
    assert kinds(verified(source, code=ExitCode.QUARANTINED)) == kinds(found), "and without a ledger too"


def test_a_recall_is_told_by_the_side_that_recalled_last(source: Path) -> None:
    with agent(target_of(source)) as connection:
        connection.execute("MATCH (n:MemoryNode {id: 5}) SET n.strength = 0.75, n.last_accessed = 99999")
        connection.execute("MATCH (n:MemoryNode {id: 6}) SET n.decay_rate = 0.25")
        connection.execute("MATCH (n:MemoryNode {id: 7}) SET n.who = 'Ada'")
    change(source, "UPDATE memory_nodes SET strength = 0.25, last_accessed = 88888 WHERE id = 9")
    found = verified(source, code=ExitCode.QUARANTINED)
    assert kinds(found) == {"since_there": {"memory_nodes": [5, 6, 7]}, "since_here": {"memory_nodes": [9]}}
    assert remarks(found, "memory_nodes", "since_there")[5].startswith("last_accessed, strength")


def test_a_value_that_is_another_one_is_a_difference(source: Path) -> None:
    with agent(target_of(source)) as connection:
        connection.execute("MATCH (n:MemoryNode {id: 5}) SET n.text = 'zeros'")
        connection.execute("MATCH (n:MemoryNode {id: 60}) DETACH DELETE n")
        connection.execute("MATCH ()-[r:relates_to]->() WHERE r.edge_id = 4 SET r.weight = 0.25")
    change(source, "UPDATE memory_nodes SET summary = 'new' WHERE id = 6")
    found = verified(source, code=ExitCode.DIFFERENCE)
    assert kinds(found) == {
        "differing": {"memory_nodes": [5, 6], "memory_edges": [4]},
        "lacking": {"memory_nodes": [60]},
    }
    assert remarks(found, "memory_nodes", "differing") == {
        5: "text (SQLite is as it was copied)",
        6: "summary (SQLite changed since)",
    }
    assert remarks(found, "memory_nodes", "lacking") == {60: "is gone from the target"}
    assert "counts" in verified(source, "counts", code=ExitCode.DIFFERENCE)["level"]


def test_a_link_that_is_gone_is_a_difference_of_its_turn(source: Path) -> None:
    with agent(target_of(source)) as connection:
        connection.execute("MATCH (t:Turn {id: 4})-[r:has_output]->() DELETE r")
    found = verified(source, code=ExitCode.DIFFERENCE)
    assert remarks(found, "memory_turns", "differing") == {4: "output_node_id (SQLite is as it was copied)"}


def test_rows_in_quarantine_are_expected_to_be_missing(tmp_path: Path) -> None:
    memory = make_memory(
        tmp_path / "graph.sqlite",
        nodes=[node(1), node(2, timestamp="noon"), node(3, embedding=b"odd"), node(4, embedding=vector(1, 2))],
        edges=[edge(1, 1, 2), edge(2, 1, 3), edge(3, 1, 77)],
        turns=[turn(1, 1, 2, 88)],
    )
    migrate(memory, reader_python=Path("none"))
    found = verified(memory, code=ExitCode.QUARANTINED)
    assert kinds(found) == {
        "aside": {"memory_nodes": [2, 3], "memory_edges": [3], "memory_turns": [1]},
    }
    assert remarks(found, "memory_nodes", "aside")[2] == "timestamp: text of 4 characters where an integer belongs"
    assert remarks(found, "memory_nodes", "aside")[3] == "embedding: an embedding of 3 bytes, no multiple of 4"


# Whatever LadybugDB file


def test_a_file_of_somebody_elses_making_is_compared_as_far_as_it_goes(source: Path, tmp_path: Path) -> None:
    """As nima-core's own script makes one: edges without keys, numbers of 32 bits, no column that it does not know."""
    other = tmp_path / "other.lbug"
    with (
        closing(ladybug.Database(str(other), **ENGINE_LIMITS)) as database,
        closing(ladybug.Connection(database)) as connection,
    ):
        connection.execute(
            "CREATE NODE TABLE MemoryNode(id INT64 PRIMARY KEY, timestamp INT64, layer STRING, text STRING, "
            "turn_id STRING, strength FLOAT, mood STRING)"
        )
        connection.execute("CREATE REL TABLE relates_to(FROM MemoryNode TO MemoryNode, relation STRING, weight DOUBLE)")
        connection.execute("CREATE NODE TABLE DreamNode(id STRING PRIMARY KEY, narrative STRING)")
        connection.execute("CREATE (:DreamNode {id: 'd1', narrative: 'sheep'})")
        for key in range(1, 61):
            layer, number = ("input", "contemplation", "output")[(key - 1) % 3], 1 + (key - 1) // 3
            connection.execute(
                f"CREATE (:MemoryNode {{id: {key + 1000}, timestamp: 1700000000000, layer: '{layer}', "
                f"text: 'memory {key}', turn_id: 'turn_{number}', strength: 0.5, mood: 'calm'}})"
            )
        for key in range(1, 60, 3):
            connection.execute(
                f"MATCH (a:MemoryNode {{id: {key + 1000}}}), (b:MemoryNode {{id: {key + 1001}}}) "
                "CREATE (a)-[:relates_to {relation: 'triggered', weight: 0.5}]->(b)"
            )
    found = json.loads(json.dumps(comparison_messages.to_json(compare(Settings(source=source, target=other)))))
    assert found["exit_code"] == ExitCode.DIFFERENCE
    assert "MemoryNode.strength is FLOAT, and SQLite has 64 bits" in found["remarks"]
    assert "Turn is missing" in found["remarks"]
    assert [table["same"] for table in found["tables"].values()] == [60, 20, 0]
    assert kinds(found)["lacking"] == {"memory_turns": list(range(1, 21))}
    assert found["beyond"] == {"MemoryNode": {"mood": 60}}
    assert found["others"] == {"DreamNode": 1}


@pytest.mark.parametrize(
    ("names", "code", "said"),
    [
        ({"target": "none.ladybug"}, ExitCode.USAGE, "there is no file"),
        ({"source": "none.sqlite"}, ExitCode.USAGE, "there is no memory at"),
        ({"source": "graph.ladybug", "target": "graph.sqlite"}, ExitCode.USAGE, "is not an SQLite file"),
        ({"target": "graph.ladybug.state.json"}, ExitCode.IO_ERROR, "cannot be read as a LadybugDB file"),
        ({"target": "."}, ExitCode.USAGE, "is not a file"),
    ],
)
def test_what_cannot_be_compared_says_why(source: Path, names: dict[str, str], code: int, said: str) -> None:
    before = everything_in(source.parent)
    paths: dict[str, Any] = {name: source.parent / text for name, text in ({"source": source.name} | names).items()}
    with pytest.raises(NimadError, match=said) as raised:
        compare(Settings(**paths))
    assert raised.value.exit_code == code
    assert everything_in(source.parent) == before


def test_an_engine_that_cannot_be_used_is_not_taken_for_a_damaged_target(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "TARGET_DELAYS_S", (0.0, 0.0))
    with pytest.raises(EngineError, match="cannot be loaded"):
        compare(Settings(source=source, engine_python=Path("/bin/false")))


def test_a_target_that_is_open_elsewhere_is_compared_as_it_lies_on_the_disk(source: Path) -> None:
    with agent(target_of(source)) as connection:
        connection.execute(
            "CREATE (:MemoryNode {id: 61, layer: 'input', turn_id: 'mine', text: 'agent', timestamp: 5})"
        )
        found = verified(source, code=ExitCode.QUARANTINED)
    assert found["holder"] == os.getpid()
    assert kinds(found) == {"extra": {"memory_nodes": [61]}}


def test_a_target_that_changes_while_it_is_read_is_not_believed(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = itertools.count()
    monkeypatch.setattr(target_state, "stamps_of", lambda _: next(moments))
    with pytest.raises(RefusedError, match=r"is in use by another program .it changed while it was read."):
        compare(Settings(source=source))


def test_a_run_that_works_on_the_target_is_no_hindrance(source: Path) -> None:
    with locked(Files(target_of(source))):
        verified(source, code=ExitCode.COMPLETE)


# What people see


def shown(done: Ran) -> str:
    return done.out.replace(str(done.folder), "/memory").replace(f"{sys.executable} -P -m nimad", "nimad")


def test_what_people_see_is_kept_as_a_golden_file(source: Path) -> None:
    with agent(target_of(source)) as connection:
        connection.execute("MATCH (n:MemoryNode {id: 5}) SET n.strength = 0.75, n.last_accessed = 99999")
        connection.execute("MATCH (n:MemoryNode {id: 7}) SET n.text = 'zeros'")
        connection.execute("MATCH (n:MemoryNode {id: 60}) DETACH DELETE n")
    written_by_agent(target_of(source), 200, [62, 63, 64])
    new_turn(source, 100)
    done = nimad(source.parent, "verify", "--source", source)
    assert done.code == ExitCode.DIFFERENCE
    golden = GOLDEN / "verify.txt"
    if os.environ.get("NIMAD_UPDATE_GOLDEN"):
        golden.write_text(shown(done))
    assert shown(done) == golden.read_text()


@pytest.mark.parametrize("edited", [{"bounds": [1]}, {"file": "x"}, {"tables": 3}, {"also": 5}, {"replaces": []}])
def test_a_state_file_that_somebody_edited_is_as_good_as_none(source: Path, edited: dict[str, Any]) -> None:
    told = beside(target_of(source), ".state.json")
    told.write_text(json.dumps({**json.loads(told.read_text()), **edited}))
    files = Files(target_of(source))
    assert (target_state.read(files), target_state.of_target(files)) == ({}, {})


# Pairing


def naturals(*rows: tuple[int, str | None, str, int]) -> dict[int, NaturalKey]:
    return {key: (name, layer, moment) for key, name, layer, moment in rows}


def test_no_row_of_the_target_is_two_rows_of_sqlite() -> None:
    here = naturals((1, "t", "input", 5), (2, "t", "input", 5), (3, None, "input", 5))
    there = naturals((9, "t", "input", 5), (3, None, "input", 5))
    words = {1: "a", 2: "a", 3: "other"}
    found = pair("memory_nodes", here, there, (lambda _: words, lambda _: {9: "a", 3: "no such text"}))
    assert found == {1: 9}


def test_of_rows_without_a_turn_the_text_tells_which_is_which() -> None:
    here = naturals((1, None, "legacy_vsa", 5), (2, None, "legacy_vsa", 5))
    there = naturals((2, None, "legacy_vsa", 5), (8, None, "legacy_vsa", 5))
    texts = {1: "one", 2: "two"}, {2: "one", 8: "two"}
    assert pair("memory_nodes", here, there, (lambda _: texts[0], lambda _: texts[1])) == {1: 2, 2: 8}


def test_rows_of_one_moment_without_turns_are_not_each_held_against_all() -> None:
    asked = 0

    def texts(keys: Collection[int]) -> dict[int, str]:
        nonlocal asked
        asked += len(keys)
        return {key: f"text {key}" for key in keys}

    rows = naturals(*((key, None, "legacy_vsa", 5) for key in range(1, 1_501)))
    assert pair("memory_nodes", rows, rows, (texts, texts)) == {key: key for key in rows}
    assert asked == 2 * len(rows)
