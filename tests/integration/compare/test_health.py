"""`nimad health`: what a memory of either kind holds, the two of them side by side, and what is not well.

The page of the pair is kept in `tests/golden/health.txt`; renew it with NIMAD_UPDATE_GOLDEN=1.
"""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import ladybug
import pytest
from support.commands import GOLDEN, Ran, environment, nimad
from support.following import agent, ask
from support.memories import ENGINE_LIMITS, change, copied, edge, make_memory, migrate, node, turn, vector
from test_bad_input import everything_in, restricted

from nimad.config import Settings
from nimad.diagnostics import health as desk
from nimad.diagnostics.health import Health, of_file, of_memory
from nimad.report.messages.health_screen import to_json

__all__ = ["restricted"]

NOW_MS = round(time.time() * 1_000)
KEYS = {
    *("nodes", "turns", "edges", "layers", "recent_24h", "db_size_bytes", "db_size_mb", "tables", "fts_enabled"),
    *("first_memory", "last_memory"),
}
NODES = [
    node(1, who="Ada", fe_score=0.25, embedding=vector(1, 2)),
    node(2, who="Ada", fe_score=0.75, timestamp=1_700_000_100_000),
    node(3, who="Zoë", layer="output", timestamp=1_700_000_200_000),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory and its target, which the tests copy or only read."""
    folder = tmp_path_factory.mktemp("made")
    source = make_memory(folder / "graph.sqlite", nodes=NODES, edges=[edge(1, 1, 2)], turns=[turn(1, 1, None, 3)])
    migrate(source, reader_python=Path("none"))
    return folder


@pytest.fixture
def pair(made: Path, tmp_path: Path) -> Path:
    """The same two files, for a test that changes them."""
    return copied(made, tmp_path)


def asked(folder: Path, *words: str | Path) -> tuple[Ran, dict[str, Any]]:
    done = nimad(folder, "health", *words, "--json")
    assert done.err == ""
    return done, json.loads(done.out)


def health(folder: Path) -> Health:
    return of_memory(Settings(source=folder / "graph.sqlite"))


def differing(found: Health) -> dict[str, str]:
    return {difference.what: difference.why for difference in found.differences}


# Two files that are well


def test_the_page_of_a_pair_is_the_golden_one(made: Path) -> None:
    before = everything_in(made)
    done = nimad(made, "health", "--source", "graph.sqlite", "--verbose", TZ="UTC")
    assert (done.code, done.err) == (0, "")
    page = re.sub(r"\d[\d,.]* MB", lambda size: f"{'0 MB':>{len(size[0])}}", done.out.replace(str(made), "FOLDER"))
    if os.environ.get("NIMAD_UPDATE_GOLDEN") == "1":
        (GOLDEN / "health.txt").write_text(page)
    assert page == (GOLDEN / "health.txt").read_text()
    assert max(len(line) for line in page.splitlines()) <= 80
    assert everything_in(made) == before


def test_without_utf_8_it_says_the_same_in_plain_signs(made: Path) -> None:
    done = nimad(made, "health", "--source", "graph.sqlite", "--verbose", PYTHONIOENCODING="ascii")
    assert (done.code, done.err) == (0, "")
    assert done.out.isascii()
    assert "+ Healthy" in done.out


@pytest.mark.parametrize("name", ["graph.sqlite", "graph.ladybug"])
def test_a_file_of_either_kind_is_told_by_what_is_in_it(made: Path, tmp_path: Path, name: str) -> None:
    other = Path(shutil.copy(made / name, tmp_path / "no-name-that-tells"))
    done, found = asked(tmp_path, "--db", other, "--verbose")
    assert (done.code, found["ok"], found["path"]) == (0, True, str(other))
    stats = found["stats"]
    assert found["kind"] == ("sqlite" if name.endswith("sqlite") else "ladybug")
    assert stats.keys() >= KEYS
    assert (stats["nodes"], stats["turns"], stats["edges"], stats["embeddings"]) == (3, 1, 1, 1)
    assert stats["layers"] == {"input": 2, "output": 1}
    assert stats["top_contributors"] == {"Ada": 2, "Zoë": 1}
    assert stats["mean_fe_score"] == 0.5
    assert stats["recent_24h"] == 0
    assert stats["first_memory"] == "2023-11-14T22:13:20+00:00"
    assert stats["last_memory"] == "2023-11-14T22:16:40+00:00"
    assert stats["db_size_bytes"] == other.stat().st_size
    assert stats["fts_enabled"] is False
    assert ("memory_nodes" if found["kind"] == "sqlite" else "MemoryNode") in stats["tables"]


def test_of_two_files_the_sqlite_one_comes_first_and_is_what_scripts_read(made: Path) -> None:
    done, found = asked(made, "--source", "graph.sqlite")
    assert done.code == 0
    assert [file["kind"] for file in found["files"]] == ["sqlite", "ladybug"]
    assert found["stats"] == found["files"][0]["stats"]
    assert found["kind"] == "sqlite"
    assert "mean_fe_score" not in found["stats"]


# Differences


def test_every_difference_is_marked_and_makes_it_unhealthy(pair: Path) -> None:
    change(pair / "graph.sqlite", "DELETE FROM memory_nodes WHERE id = 3")
    change(pair / "graph.sqlite", "DELETE FROM memory_edges")
    found = health(pair)
    assert not found.ok
    assert differing(found) == dict.fromkeys(["nodes", "edges", "last_ms", "layer output"], "")
    done = nimad(pair, "health", "--source", "graph.sqlite")
    assert done.code == 1
    assert [line.split()[0] for line in done.out.splitlines() if line.endswith(" ≠")] == [
        *("Memories", "Edges", "Last", "output"),
    ]
    assert "4 figures differ" in done.out
    assert f"verify --source {pair}/graph.sqlite --target {pair}/graph.ladybug" in done.out


def store(pair: Path, key: int, *, on: str) -> None:
    """A turn of one node, as the agent stores it: in SQLite, in the target by itself, or on both sides."""
    if on != "target":
        change(
            pair / "graph.sqlite",
            "INSERT INTO memory_nodes (id, timestamp, layer, text, who) VALUES (?, ?, 'new', 'late', 'Eve')",
            *(key, NOW_MS),
        )
        change(pair / "graph.sqlite", "INSERT INTO memory_turns (turn_id, input_node_id) VALUES (?, ?)", f"t{key}", key)
    if on != "sqlite":
        with (
            closing(ladybug.Database(str(pair / "graph.ladybug"), **ENGINE_LIMITS)) as database,
            closing(ladybug.Connection(database)) as connection,
        ):
            node_ = f"id: {key}, timestamp: {NOW_MS}, layer: 'new', text: 'late', who: 'Eve'"
            connection.execute(f"CREATE (:MemoryNode {{{node_}}})")
            connection.execute(f"CREATE (:Turn {{id: {NOW_MS + key}, turn_id: 't{key}'}})")


def test_what_came_late_alone_leaves_it_healthy_and_is_counted(pair: Path) -> None:
    for key in (4, 5):
        store(pair, key, on="sqlite")
    done, found = asked(pair, "--source", "graph.sqlite")
    assert (done.code, found["ok"]) == (0, True)
    assert {each["what"]: each["why"] for each in found["differences"]} == dict.fromkeys(
        ["nodes", "turns", "recent", "last_ms", "layer new"], "late"
    )
    (note,) = found["notes"]
    assert note.startswith("2 memories, 2 turns came late and SQLite alone has them; bring them with: ")
    assert note.endswith(f" migrate --source {pair}/graph.sqlite --target {pair}/graph.ladybug")


def test_of_what_the_agent_stores_on_both_sides_one_turn_that_was_missed_is_late(pair: Path) -> None:
    for key, on in ((4, "both"), (5, "sqlite"), (6, "both")):
        store(pair, key, on=on)
    found = health(pair)
    assert found.ok
    assert differing(found) == {"nodes": "late", "turns": "late", "recent": "late", "layer new": "late"}
    assert any(note.startswith("1 memory, 1 turn came late") for note in found.notes)


def test_what_the_agent_stored_in_the_target_alone_is_the_agents(pair: Path) -> None:
    store(pair, 4, on="target")
    found = health(pair)
    assert found.ok
    assert set(differing(found).values()) == {"agent"}
    assert not any("late" in note for note in found.notes)


def test_what_left_one_side_hides_no_late_one(pair: Path) -> None:
    """As many came to SQLite as it lost, and as the agent added to the target."""
    store(pair, 4, on="sqlite")
    change(pair / "graph.sqlite", "DELETE FROM memory_nodes WHERE id = 3")
    found = health(pair)
    assert any(note.startswith("1 memory, 1 turn came late and SQLite alone has them") for note in found.notes)
    change(pair / "graph.sqlite", "INSERT INTO memory_nodes (id, timestamp, layer, text) VALUES (5, 7, 'new', 'later')")
    with agent(pair / "graph.ladybug") as connection:
        connection.execute(f"CREATE (:MemoryNode {{id: 9, timestamp: {NOW_MS}, layer: 'own', text: 'of the agent'}})")
    found = health(pair)
    assert any(note.startswith("2 memories, 1 turn came late") for note in found.notes)
    assert differing(found)["layer output"] == "", "what left SQLite is no arrival of the target's"


def test_ids_that_are_not_sqlites_are_no_difference(pair: Path) -> None:
    """The agent gives a memory another id in the target, far above SQLite's or below zero."""
    for key, at in ((4, 1_000), (5, -3)):
        store(pair, key, on="sqlite")
        with agent(pair / "graph.ladybug") as connection:
            connection.execute(f"CREATE (:MemoryNode {{id: {at}, timestamp: {NOW_MS}, layer: 'new', text: 'late'}})")
    assert set(differing(health(pair))) == {"turns"}
    store(pair, 6, on="sqlite")
    found = health(pair)
    assert found.ok
    assert differing(found)["nodes"] == "late"
    assert any(note.startswith("1 memory, 3 turns came late") for note in found.notes)


def test_memories_that_no_reader_sees_are_told_and_seen_once_the_target_is_made_anew(tmp_path: Path) -> None:
    """As in a target of the first release, which had no defaults: neither SQLite's memories nor the agent's own."""
    source, target = make_memory(tmp_path / "graph.sqlite", nodes=NODES), tmp_path / "graph.ladybug"
    migrate(source, reader_python=Path("none"))
    with agent(target) as connection:
        connection.execute("CREATE (:MemoryNode {id: 9, layer: 'input', turn_id: 'mine', text: 'own', timestamp: 5})")
        connection.execute("MATCH (n:MemoryNode) WHERE n.id IN [1, 9] SET n.is_ghost = NULL")
    (said,) = [note for note in health(tmp_path).notes if "hides" in note]
    assert "hides 2 memories from the agent: is_ghost is NULL" in said
    migrate(source, replace=True, reader_python=Path("none"))
    assert not [note for note in health(tmp_path).notes if "hides" in note]
    seen = ask(target, "MATCH (n:MemoryNode) WHERE n.is_ghost = false RETURN n.text ORDER BY n.id")
    assert seen == [["memory 1"], ["memory 2"], ["memory 3"], ["own"]]


def test_a_memory_that_the_target_lost_is_not_taken_for_a_late_one(pair: Path) -> None:
    store(pair, 4, on="sqlite")
    with (
        closing(ladybug.Database(str(pair / "graph.ladybug"), **ENGINE_LIMITS)) as database,
        closing(ladybug.Connection(database)) as connection,
    ):
        connection.execute("MATCH (n:MemoryNode {id: 2}) DETACH DELETE n")
    found = health(pair)
    assert not found.ok
    assert differing(found)["nodes"] == ""
    assert differing(found)["turns"] == "late"


def test_a_memory_that_the_agent_removed_is_the_agents_once_a_look_has_noted_it(pair: Path) -> None:
    migrate(pair / "graph.sqlite", reader_python=Path("none"))  # which takes the copies for the same pair
    with agent(pair / "graph.ladybug") as connection:
        connection.execute("MATCH (n:MemoryNode {id: 2}) DETACH DELETE n")
    assert not health(pair).ok, "nothing tells yet that it was not lost"
    migrate(pair / "graph.sqlite", reader_python=Path("none"))
    found = health(pair)
    assert found.ok
    assert differing(found)["nodes"] == "agent"
    assert differing(found)["edges"] == "agent"


@pytest.mark.long
def test_what_comes_into_tables_that_were_empty_is_late(tmp_path: Path) -> None:
    migrate(make_memory(tmp_path / "graph.sqlite", nodes=NODES, edges=[], turns=[]), reader_python=Path("none"))
    store(tmp_path, 4, on="both")
    change(tmp_path / "graph.sqlite", "INSERT INTO memory_edges (source_id, target_id, relation) VALUES (1, 4, 'r')")
    change(tmp_path / "graph.sqlite", "INSERT INTO memory_turns (turn_id, input_node_id) VALUES ('t5', 4)")
    found = health(tmp_path)
    assert found.ok
    assert differing(found) == {"edges": "late", "turns": "late"}
    assert any(note.startswith("1 edge, 1 turn came late and SQLite alone has them") for note in found.notes)


@pytest.mark.sampled
@pytest.mark.parametrize("bound", [2**70, -(2**70), "3", None, True])
def test_a_bound_that_cannot_be_is_none(pair: Path, bound: object) -> None:
    state = pair / "graph.ladybug.state.json"
    told = json.loads(state.read_text())
    state.write_text(json.dumps({**told, "bounds": {**told["bounds"], "memory_nodes": bound}}))
    store(pair, 4, on="sqlite")
    found = health(pair)
    assert all(file.ok for file in found.files)
    assert differing(found)["nodes"] == ""


def test_without_a_word_of_the_run_nothing_is_late(pair: Path) -> None:
    store(pair, 4, on="sqlite")
    (pair / "graph.ladybug.state.json").unlink()
    assert not health(pair).ok


def test_what_is_in_quarantine_is_accounted_for(tmp_path: Path) -> None:
    bad = [node(4, timestamp="noon"), node(5, layer="output", embedding=b"odd")]
    source = make_memory(tmp_path / "graph.sqlite", nodes=[*NODES, *bad])
    assert migrate(source, reader_python=Path("none")).result.exit_code == 1
    found = health(tmp_path)
    assert differing(found) == {"embeddings": "quarantine"}, "its memories all arrived"
    assert found.ok
    (tmp_path / "graph.ladybug.quarantine.jsonl").unlink()
    assert not health(tmp_path).ok


def test_tables_that_the_run_left_out_are_accounted_for(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=NODES, edges=[edge(1, 1, 2)], turns=[turn(1, 1)])
    migrate(source, nodes_only=True, reader_python=Path("none"))
    assert differing(health(tmp_path)) == dict.fromkeys(["turns", "edges"], "left out")


# What is not well


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no file"),
        (b"", "is empty"),
        (b"a letter to nobody, and no memory at all", "is no SQLite file and none of LadybugDB"),
        (b"SQLite format 3\0" + b"\0" * 20, "is truncated"),
        (b"LBUG" + (49).to_bytes(8, "little") + b"\xff" * 8_000, "cannot be read"),
        (b"LBUG" + (9_999).to_bytes(8, "little") + b"\0" * 8_000, "belongs to a newer LadybugDB than ours"),
    ],
    ids=["missing", "empty", "a letter", "half a header", "damaged", "from the future"],
)
def test_a_file_that_is_none_is_a_line_and_no_health(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "graph"
    if content is not None:
        path.write_bytes(content)
    found = to_json(of_file(path), verbose=False)
    assert not found["ok"]
    assert said in found["files"][0]["problem"]
    assert found["stats"].keys() >= KEYS
    assert found["stats"]["nodes"] is None


def test_neither_file_is_there(tmp_path: Path) -> None:
    done = nimad(tmp_path, "health")
    assert done.code == 1
    assert f"Not healthy: there is no file {tmp_path}/.nima/memory/graph.sqlite" in done.out


def test_with_no_target_yet_it_says_how_to_make_one(tmp_path: Path) -> None:
    make_memory(tmp_path / "graph.sqlite", nodes=NODES)
    done = nimad(tmp_path, "health", "--source", "graph.sqlite")
    assert done.code == 0
    assert f"make it with: {sys.executable} -P -m nimad migrate --source {tmp_path}/graph.sqlite" in done.out


def test_a_target_that_was_taken_away_is_no_health(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=NODES)
    target = migrate(source, reader_python=Path("none")).target
    target.unlink()
    done = nimad(tmp_path, "health", "--source", "graph.sqlite")
    assert done.code == 1
    assert f"{target} is gone: it was published, and has been taken away" in done.out
    assert done.out.rstrip().endswith("--replace")
    assert "no LadybugDB file yet" not in done.out


def test_a_memory_without_any_is_well_and_said_to_be_empty(tmp_path: Path) -> None:
    path = make_memory(tmp_path / "graph.sqlite")
    found = of_file(path)
    assert found.ok
    assert found.notes == [f"{path} holds no memory yet"]


def test_damaged_pages_are_no_health(tmp_path: Path) -> None:
    path = make_memory(tmp_path / "graph.sqlite", nodes=[node(key, text="x" * 900) for key in range(1, 60)])
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 3 * 4096)
        file.write(b"\xa5" * 4096)
    found = of_file(path)
    assert not found.ok
    assert "is damaged" in found.files[0].problem


def test_an_sqlite_file_without_memories_is_no_memory(tmp_path: Path) -> None:
    path = make_memory(tmp_path / "graph.sqlite", own_schema=True, schema=["CREATE TABLE songs (id)"])
    assert "has no table memory_nodes" in of_file(path).files[0].problem


def test_a_file_that_is_closed_to_this_user_names_its_owner(tmp_path: Path, restricted: list[str]) -> None:
    path = make_memory(tmp_path / "graph.sqlite", nodes=NODES)
    path.chmod(0)
    done = nimad(tmp_path, "health", "--db", path, prefix=restricted)
    assert done.code == 1
    assert "may not be opened by this user" in done.out


def test_old_and_odd_schemas_count_what_is_there(tmp_path: Path) -> None:
    schema = ["CREATE TABLE memory_nodes (ID INTEGER PRIMARY KEY, Layer, who, timestamp, fe_score)"]
    rows = [
        {"ID": 1, "Layer": "input", "who": None, "timestamp": "noon", "fe_score": "high"},
        {"ID": 2, "Layer": b"\xff", "who": 5, "timestamp": 2**62, "fe_score": 9e999},
    ]
    path = make_memory(tmp_path / "graph.sqlite", nodes=rows, schema=schema, own_schema=True, journal="DELETE")
    done, found = asked(tmp_path, "--db", path, "--verbose")
    stats = found["stats"]
    assert done.code == 0
    assert (stats["nodes"], stats["turns"], stats["edges"], stats["embeddings"]) == (2, 0, 0, 0)
    assert stats["layers"] == {"input": 1, "\N{REPLACEMENT CHARACTER}": 1}
    assert stats["last_memory"] == 2**62
    assert stats["mean_fe_score"] is None
    assert str(2**62) in nimad(tmp_path, "health", "--db", path).out


def test_an_older_engines_file_with_few_columns_is_read(tmp_path: Path) -> None:
    path = tmp_path / "own.lbug"
    with (
        closing(ladybug.Database(str(path), **ENGINE_LIMITS)) as database,
        closing(ladybug.Connection(database)) as connection,
    ):
        connection.execute("CREATE NODE TABLE MemoryNode(id INT64 PRIMARY KEY, text STRING)").close()
        connection.execute("CREATE (:MemoryNode {id: 1, text: 'hello'})").close()
    found = of_file(path)
    assert found.ok
    assert found.files[0].vitals is not None
    assert (found.files[0].vitals.nodes, found.files[0].vitals.first_ms, found.files[0].vitals.layers) == (1, None, {})


def test_names_in_a_memory_give_no_commands_to_a_terminal_and_stop_no_output(tmp_path: Path) -> None:
    make_memory(tmp_path / "graph.sqlite", nodes=[node(1, who="\x1b[2J\x9b1mEve\r\nAda", layer="ünknown\x07")])
    for encoding in ("utf-8", "ascii"):
        done = nimad(tmp_path, "health", "--db", "graph.sqlite", "--verbose", PYTHONIOENCODING=encoding)
        assert (done.code, done.err) == (0, "")
        assert not set(done.out) & {"\x1b", "\x9b", "\x07", "\r"}
        told = nimad(tmp_path, "health", "--db", "graph.sqlite", "--json", PYTHONIOENCODING=encoding)
        assert json.loads(told.out)["stats"]["layers"] == {"ünknown\x07": 1}


def test_a_name_that_is_no_utf_8_is_said_to_be_none(tmp_path: Path) -> None:
    strange = os.fsdecode(b"odd \xff name")
    make_memory(tmp_path / "graph.sqlite", nodes=NODES).rename(tmp_path / strange)
    done = nimad(tmp_path, "health", "--db", strange)
    assert (done.code, done.err) == (1, "")
    assert "is not UTF-8" in done.out
    assert not json.loads(nimad(tmp_path, "health", "--db", strange, "--json").out)["ok"]


# Beside other programs


@pytest.fixture
def writer(pair: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another program that has the target open for writing."""
    opening = f"import ladybug; d = ladybug.Database({str(pair / 'graph.ladybug')!r}, **{ENGINE_LIMITS!r})"
    code = f"{opening}; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(pair)
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.communicate("\n")


def test_a_target_that_a_program_has_open_is_read_and_the_program_named(
    pair: Path, writer: "subprocess.Popen[str]"
) -> None:
    before = everything_in(pair)
    done = nimad(pair, "health", "--source", "graph.sqlite")
    assert (done.code, done.err) == (0, "")
    assert f"{pair}/graph.ladybug is open in another program: python -c import" in done.out
    assert f"PID {writer.pid}" in done.out
    assert everything_in(pair) == before


def test_a_target_that_cannot_be_read_because_a_program_has_it_open_is_said_to_be(
    pair: Path, writer: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "_PAUSE_S", 0.0)
    target = pair / "graph.ladybug"
    with target.open("r+b") as file:  # as in the middle of its checkpoint
        file.write(b"LBUG" + (49).to_bytes(8, "little") + b"\xff" * 4_000)
    found = of_file(target)
    assert found.files[0].problem == (
        f"{target} is open in another program (PID {writer.pid}), and cannot be asked meanwhile; ask again once it is "
        "closed"
    )


def test_a_memory_that_an_agent_writes_to_is_read_meanwhile(tmp_path: Path) -> None:
    path = make_memory(tmp_path / "graph.sqlite", nodes=NODES)
    with closing(sqlite3.connect(path, isolation_level=None)) as agent:
        agent.execute("INSERT INTO memory_nodes (timestamp, layer, text) VALUES (?, 'input', 'just now')", (NOW_MS,))
        agent.execute("BEGIN IMMEDIATE")
        found = of_file(path).files[0]
        assert found.vitals is not None
        assert (found.vitals.nodes, found.vitals.recent) == (4, 1)


def test_a_folder_is_said_to_be_one_and_not_a_failing_disk(tmp_path: Path) -> None:
    assert of_file(tmp_path).files[0].problem == f"{tmp_path} is not a file"


def test_one_file_or_two_are_named_not_both(tmp_path: Path) -> None:
    assert nimad(tmp_path, "health", "--db", "a", "--source", "b").code == 2
