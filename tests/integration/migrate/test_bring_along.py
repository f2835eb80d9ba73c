"""A new target in the place of one that the agent lives in: what the agent wrote to that one is in the new one."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.environments import OURS, answering
from support.following import NODES, Following, ask, new_turn
from support.memories import ENGINE_LIMITS, change, make_memory, migrate, node, read_target
from support.torture import beside, killed_once_done, target_of
from test_three_way import by_agent, value

from nimad.events.run import BroughtAlong, Event, NotBroughtAlong, Published, SetAside
from nimad.report.messages import carry_over_messages
from nimad.sample import Sample, write_sample
from nimad.supervisor import plan
from nimad.sync.result import SyncResult
from nimad.worker.protocol import Task

#: Names that nobody would give a table, and an agent may.
ODD, ODD_LINK = '`it\'s "odd", she said`', '`it\'s a "link"`'
#: What the agent does to its target: a turn of its own, a recall, a pruning, an edit, an insight, a removal.
OF_AGENT = (
    "CREATE (:MemoryNode {id: 61, layer: 'input', turn_id: 'mine', text: 'stored by the agent', timestamp: 5})",
    "CREATE (:MemoryNode {id: 62, layer: 'output', turn_id: 'mine', text: '{\"a\": 0.5}', timestamp: 5})",
    "MATCH (a:MemoryNode), (b:MemoryNode) WHERE a.id = 61 AND b.id = 62 "
    "CREATE (a)-[:relates_to {relation: 'own', weight: 0.5}]->(b)",
    "MATCH (a:MemoryNode), (b:MemoryNode) WHERE a.id = 61 AND b.id = 7 "
    "CREATE (a)-[:relates_to {relation: 'to SQLite', weight: 0.25}]->(b)",
    "CREATE (:Turn {id: 1700000000005, turn_id: 'mine', timestamp: 5})",
    "MATCH (t:Turn), (n:MemoryNode) WHERE t.turn_id = 'mine' AND n.id = 61 CREATE (t)-[:has_input]->(n)",
    "MATCH (n:MemoryNode) WHERE n.id = 5 SET n.strength = 0.75, n.recall_count = 3, n.last_accessed = 9000",
    "MATCH (n:MemoryNode) WHERE n.id = 6 SET n.is_ghost = true, n.dismissal_count = 1",
    "MATCH (n:MemoryNode) WHERE n.id = 7 SET n.text = 'merged'",
    "MATCH (n:MemoryNode) WHERE n.id = 9 DETACH DELETE n",
    "CREATE NODE TABLE IF NOT EXISTS _notes(name STRING PRIMARY KEY)",
    "CREATE (:_notes {name: 'a name that begins as one of an index'})",
    "CREATE NODE TABLE IF NOT EXISTS Mood(name STRING PRIMARY KEY, level DOUBLE)",
    "CREATE REL TABLE IF NOT EXISTS felt(FROM Mood TO MemoryNode, since INT64)",
    "CREATE (:Mood {name: 'calm', level: 0.5})",
    "MATCH (m:Mood), (n:MemoryNode) WHERE m.name = 'calm' AND n.id = 61 CREATE (m)-[:felt {since: 4}]->(n)",
    f"CREATE NODE TABLE IF NOT EXISTS {ODD}(`the name` STRING PRIMARY KEY, `a b` INT64)",
    f"CREATE REL TABLE IF NOT EXISTS {ODD_LINK}(FROM {ODD} TO MemoryNode)",
    f"CREATE (:{ODD} {{`the name`: 'x''y', `a b`: 4}})".replace("''", "\\'"),
    f"MATCH (m:{ODD}), (n:MemoryNode) WHERE n.id = 61 CREATE (m)-[:{ODD_LINK}]->(n)",
)


@pytest.fixture
def lived(follow: Following) -> Following:
    """A target that the agent lives in."""
    by_agent(follow.target, *OF_AGENT)
    return follow


def said(event: Event) -> str:
    return " ".join(text for _, text in carry_over_messages.WORDS[type(event)](event))


def nodes(target: Path) -> int:
    return int(ask(target, "MATCH (n:MemoryNode) RETURN count(*)")[0][0])


def assert_the_agents_is_there(target: Path) -> None:
    assert value(target, 5, "strength", "recall_count", "last_accessed") == [0.75, 3, 9000]
    assert value(target, 6, "is_ghost", "dismissal_count") == [True, 1]
    assert value(target, 7, "text") == ["merged"]
    assert ask(target, "MATCH (n:MemoryNode {id: 9}) RETURN n.id") == []
    mine = "MATCH (n:MemoryNode) WHERE n.turn_id = 'mine' RETURN n.text ORDER BY n.text"
    assert ask(target, mine) == [["stored by the agent"], ['{"a": 0.5}']]
    edges = (
        "MATCH (a:MemoryNode)-[r:relates_to]->(b:MemoryNode) WHERE a.turn_id = 'mine' "
        "RETURN b.text, r.relation, r.weight, r.edge_id ORDER BY r.weight"
    )
    assert ask(target, edges) == [["merged", "to SQLite", 0.25, None], ['{"a": 0.5}', "own", 0.5, None]]
    links = "MATCH (t:Turn)-[:has_input]->(n:MemoryNode) WHERE t.turn_id = 'mine' RETURN n.text"
    assert ask(target, links) == [["stored by the agent"]]
    felt = "MATCH (m:Mood)-[r:felt]->(n:MemoryNode) RETURN m.name, m.level, r.since, n.text"
    assert ask(target, felt) == [["calm", 0.5, 4, "stored by the agent"]]
    assert ask(target, "MATCH (n:_notes) RETURN n.name") == [["a name that begins as one of an index"]]
    odd = f"MATCH (m:{ODD})-[:{ODD_LINK}]->(n:MemoryNode) RETURN m.`the name`, m.`a b`, n.text"
    assert ask(target, odd) == [["x'y", 4, "stored by the agent"]]


def test_a_new_target_has_what_the_agent_wrote_to_the_one_before(lived: Following) -> None:
    new_turn(lived.source, 100, first=70)
    change(lived.source, "UPDATE memory_nodes SET summary = 'of SQLite' WHERE id = 5")
    done = migrate(lived.source, replace=True, reader_python=Path("none"))
    assert_the_agents_is_there(lived.target)
    assert value(lived.target, 5, "summary") == ["of SQLite"]
    assert nodes(lived.target) == NODES + 3 + 2 - 1
    told = done.only(BroughtAlong)
    assert (told.brought["memory_nodes"], told.brought["values"], told.brought["removed"]) == (2, 6, 1)
    assert told.left_behind == {}
    assert done.only(Published).backup
    assert not beside(lived.target, ".migrating.own.jsonl").exists()
    assert lived(thorough=True) == SyncResult(nodes=NODES + 4), "and following leaves it alone"
    assert_the_agents_is_there(lived.target)


@pytest.mark.long
def test_it_is_brought_along_again_and_again(lived: Following) -> None:
    for _ in range(2):
        migrate(lived.source, replace=True, reader_python=Path("none"))
    assert_the_agents_is_there(lived.target)
    assert nodes(lived.target) == NODES + 2 - 1


@pytest.mark.long
def test_an_id_that_sqlite_gave_out_too_stays_the_agents(lived: Following) -> None:
    assert new_turn(lived.source, 100) == [61, 62, 63]
    migrate(lived.source, replace=True, reader_python=Path("none"))
    assert_the_agents_is_there(lived.target)
    rows = ask(lived.target, "MATCH (n:MemoryNode) WHERE n.turn_id = 'turn_100' RETURN n.id ORDER BY n.id")
    assert rows == [[-2], [-1], [63]]
    mine = ask(lived.target, "MATCH (n:MemoryNode) WHERE n.turn_id = 'mine' RETURN n.id ORDER BY n.id")
    assert mine == [[61], [62]]


def test_what_left_sqlite_as_it_was_copied_is_in_the_backup_and_said_to_be(follow: Following) -> None:
    by_agent(follow.target, "MATCH (n:MemoryNode) WHERE n.id = 60 SET n.strength = 0.125")
    change(follow.source, "DELETE FROM memory_turns WHERE id > 15")
    change(follow.source, "DELETE FROM memory_edges WHERE source_id > 40")
    change(follow.source, "DELETE FROM memory_nodes WHERE id > 44")
    done = migrate(follow.source, replace=True, reader_python=Path("none"))
    told = said(done.only(BroughtAlong))
    assert "Only the backup of the target before holds:" in told
    assert "15 memories" in told
    assert sorted(read_target(follow.target).nodes) == [*range(1, 45), 60]


def test_removals_that_looks_have_noted_stay_removed_however_many_they_became(follow: Following) -> None:
    for first in (1, 6, 11):
        by_agent(follow.target, f"MATCH (n:MemoryNode) WHERE n.id >= {first} AND n.id < {first + 5} DETACH DELETE n")
        follow(thorough=True)
    done = migrate(follow.source, replace=True, reader_python=Path("none"))
    assert sorted(read_target(follow.target).nodes) == [*range(16, NODES + 1)]
    assert done.only(BroughtAlong).brought["removed"] >= 15


def test_a_target_that_lost_most_is_not_believed_and_what_comes_again_is_said(follow: Following) -> None:
    by_agent(follow.target, "MATCH (n:MemoryNode) WHERE n.id > 10 DETACH DELETE n")
    done = migrate(follow.source, replace=True, reader_python=Path("none"))
    assert len(read_target(follow.target).nodes) == NODES
    told = said(done.only(BroughtAlong))
    assert "Missing in the target before, too many to have been removed one by one, and there again:" in told
    assert "50 memories" in told


def test_an_import_whose_worker_died_after_it_is_in_the_target_once(
    lived: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = killed_once_done(monkeypatch, Task.RESTORE_TARGET_ONLY)
    done = migrate(lived.source, replace=True, reader_python=Path("none"))
    assert len(done.all(SetAside)) == len(died) == 1
    assert_the_agents_is_there(lived.target)
    assert nodes(lived.target) == NODES + 2 - 1
    assert ask(lived.target, "MATCH (t:Turn) WHERE t.turn_id = 'mine' RETURN count(*)") == [[1]]


@pytest.mark.sampled
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_run_killed_around_the_rename_leaves_one_whole_target_there(
    lived: Following, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target == lived.target:
            if where == "after":
                replace(self, target)
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            migrate(lived.source, replace=True, reader_python=Path("none"))
    assert_the_agents_is_there(lived.target)
    migrate(lived.source, replace=True, reader_python=Path("none"))
    assert_the_agents_is_there(lived.target)
    assert nodes(lived.target) == NODES + 2 - 1


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["graph.ladybug", "ladybug.lbug"])
def test_what_a_killed_program_left_in_a_log_is_brought_along_by_either_name(follow: Following, name: str) -> None:
    with answering(OURS, follow.target.with_name(name), read_only=False) as (ask_it, process):
        ask_it("CREATE (:MemoryNode {id: 61, layer: 'input', turn_id: 'mine', text: 'in the log', timestamp: 5})")
        process.kill()
    assert beside(follow.target.with_name(name), ".wal").stat().st_size, "else this would show nothing"
    migrate(follow.source, replace=True, reader_python=Path("none"))
    assert ask(follow.target, "MATCH (n:MemoryNode) WHERE n.turn_id = 'mine' RETURN n.text") == [["in the log"]]


def edit_all(ask_it: Callable[[str], Any]) -> None:
    """Edit memories until the engine has none left, or no longer can."""
    for start in range(0, Sample().nodes, 500):
        ask_it(
            f"MATCH (n:MemoryNode) WHERE n.id >= {start} AND n.id < {start + 500} "
            "SET n.strength = 0.125, n.text = concat(n.text, ' and more')"
        )


@pytest.mark.sampled
def test_a_log_that_the_pool_is_too_small_for_at_first_is_brought_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the agent leaves it whose own pool is too small for a checkpoint of what it wrote."""
    source = tmp_path / "graph.sqlite"
    write_sample(source)
    migrate(source, reader_python=Path("none"))
    with answering(OURS, target_of(source), read_only=False) as (ask_it, process):
        ask_it("CALL force_checkpoint_on_close=false")
        with pytest.raises(AssertionError, match=r"checkpoint failed.*buffer pool is full"):
            edit_all(ask_it)
        process.kill()
    monkeypatch.setattr(plan, "FILE_POOL_FACTOR", 2)
    done = migrate(source, replace=True, reader_python=Path("none"))
    assert not done.all(NotBroughtAlong)
    written = "MATCH (n:MemoryNode) WHERE n.strength = 0.125 AND n.text ENDS WITH ' and more' RETURN count(*)"
    assert ask(target_of(source), written)[0][0] > 500


def test_what_cannot_be_read_is_said_and_kept_as_a_backup(follow: Following) -> None:
    follow.target.write_bytes(follow.target.read_bytes()[:8192] + b"\xff" * 40_000)
    done = migrate(follow.source, replace=True, reader_python=Path("none"))
    assert "alone holds is not brought along, and stays in its backup" in said(done.only(NotBroughtAlong))
    assert done.only(Published).backup
    assert len(read_target(follow.target).nodes) == NODES


def test_the_agent_cannot_write_between_the_export_and_the_rename(
    lived: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nimad.migration import publish as publishing

    tried: list[str] = []
    publish = publishing.publish
    program = f"import sys, ladybug\nladybug.Database(sys.argv[1], **{ENGINE_LIMITS!r})\n"

    def trying(context: Any) -> None:
        done = subprocess.run(
            [sys.executable, "-c", program, str(lived.target)], capture_output=True, text=True, check=False
        )
        tried.append(done.stderr)
        publish(context)

    monkeypatch.setattr(publishing, "publish", trying)
    migrate(lived.source, replace=True, reader_python=Path("none"))
    assert "lock" in tried[0]
    assert_the_agents_is_there(lived.target)


@pytest.mark.long
def test_a_run_that_was_killed_after_the_import_begins_anew(lived: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    from nimad.migration import publish as publishing

    def killed(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            migrate(lived.source, replace=True, reader_python=Path("none"))
    done = migrate(lived.source, replace=True, reader_python=Path("none"))
    assert done.only(SetAside).whole
    assert_the_agents_is_there(lived.target)
    assert nodes(lived.target) == NODES + 2 - 1


@pytest.mark.long
def test_what_is_tried_again_has_what_the_agent_wrote(lived: Following) -> None:
    change(lived.source, "INSERT INTO memory_nodes (id, layer, text, embedding) VALUES (90, 'input', 'x', X'00')")
    lived()
    change(lived.source, "UPDATE memory_nodes SET embedding = NULL WHERE id = 90")
    migrate(lived.source, retry=True, reader_python=Path("none"))
    assert_the_agents_is_there(lived.target)


def test_a_target_that_the_agent_has_open_is_waited_for(lived: Following) -> None:
    program = (
        "import sys, time, ladybug\n"
        f"d = ladybug.Database(sys.argv[1], **{ENGINE_LIMITS!r})\n"
        "print('open', flush=True)\ntime.sleep(4)\nd.close()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(lived.target)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        migrate(lived.source, replace=True, reader_python=Path("none"))
    assert_the_agents_is_there(lived.target)


def test_what_is_another_agents_is_not_brought_along(lived: Following, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir(exist_ok=True)
    other = make_memory(tmp_path / "other" / "graph.sqlite", nodes=[node(1, text="of another")])
    done = migrate(other, target=lived.target, replace=True, reader_python=Path("none"))
    assert "it was made from another memory" in done.only(NotBroughtAlong).why
    assert nodes(lived.target) == 1


def test_a_target_of_unknown_origin_is_not_brought_along(lived: Following, tmp_path: Path) -> None:
    for suffix in (".state.json", ".ledger"):
        beside(lived.target, suffix).unlink()
    (tmp_path / "other").mkdir(exist_ok=True)
    other = make_memory(
        tmp_path / "other" / "graph.sqlite", nodes=[node(key, turn_id=f"o{key}") for key in range(1, 9)]
    )
    done = migrate(other, target=lived.target, replace=True, reader_python=Path("none"))
    assert "are among the 8 of" in done.only(NotBroughtAlong).why
    assert nodes(lived.target) == 8


def test_a_target_of_unknown_origin_that_is_of_this_memory_is_brought_along(lived: Following) -> None:
    for suffix in (".state.json", ".ledger"):
        beside(lived.target, suffix).unlink()
    migrate(lived.source, replace=True, reader_python=Path("none"))
    assert value(lived.target, 7, "text") == ["merged"]
    mine = "MATCH (n:MemoryNode) WHERE n.turn_id = 'mine' RETURN count(*)"
    assert ask(lived.target, mine) == [[2]]


#: Defaults as an agent may declare them, and what a row has then.
DEFAULTS = {
    '"it\'s"': "it's",
    "'it\\'s'": "it's",
    "'a\"b'": 'a"b',
    "'back\\\\slash'": "back\\slash",
    "'NULL'": "NULL",
    "''": "",
    "lower('ABC')": "abc",
    "CAST(5 AS STRING)": "5",
}


def test_a_table_of_the_agents_keeps_the_defaults_that_it_declared(follow: Following) -> None:
    columns = ", ".join(f"c{number} STRING DEFAULT {default}" for number, default in enumerate(DEFAULTS))
    by_agent(follow.target, f"CREATE NODE TABLE Day(day STRING PRIMARY KEY, {columns})", "CREATE (:Day {day: 'one'})")
    migrate(follow.source, replace=True, reader_python=Path("none"))
    by_agent(follow.target, "CREATE (:Day {day: 'two'})")
    wanted = ", ".join(f"n.c{number}" for number in range(len(DEFAULTS)))
    assert ask(follow.target, f"MATCH (n:Day) RETURN {wanted}") == [[*DEFAULTS.values()]] * 2


def test_a_null_of_the_agents_becomes_what_the_agent_reads_it_as(follow: Following) -> None:
    of_mine = "layer: 'input', turn_id: 'mine', timestamp: 5"
    by_agent(
        follow.target,
        f"CREATE (:MemoryNode {{id: 61, {of_mine}, is_ghost: NULL, strength: NULL, decay_rate: NULL}})",
        f"CREATE (:MemoryNode {{id: 62, {of_mine}, last_accessed: NULL, dismissal_count: NULL}})",
        f"CREATE (:MemoryNode {{id: 63, {of_mine}, recall_count: NULL, text: NULL}})",
        "CREATE NODE TABLE Mood(name STRING PRIMARY KEY, level INT64 DEFAULT 3)",
        "CREATE REL TABLE felt(FROM Mood TO MemoryNode, since INT64 DEFAULT 4)",
        "CREATE (:Mood {name: 'calm', level: NULL})",
        "MATCH (m:Mood), (n:MemoryNode) WHERE n.id = 61 CREATE (m)-[:felt {since: NULL}]->(n)",
    )
    migrate(follow.source, replace=True, reader_python=Path("none"))
    for key in (61, 62, 63):
        filled = value(follow.target, key, "is_ghost", "strength", "decay_rate", "last_accessed", "dismissal_count")
        assert filled == [False, 1.0, 0.01, 0, 0]
    assert value(follow.target, 63, "recall_count", "text") == [None, None], "which no reader takes for another"
    felt = "MATCH (m:Mood)-[r:felt]->(n:MemoryNode) RETURN m.level, r.since, n.id"
    assert ask(follow.target, felt) == [[None, None, 61]]


def test_a_value_that_the_new_column_cannot_hold_is_named(follow: Following) -> None:
    by_agent(
        follow.target,
        "ALTER TABLE MemoryNode ADD num INT64",
        "ALTER TABLE MemoryNode ADD size INT64",
        "MATCH (n:MemoryNode) WHERE n.id IN [3, 4] SET n.num = 5, n.size = 7",
        "CREATE (:MemoryNode {id: 61, layer: 'input', turn_id: 'mine', num: 6, size: 8})",
    )
    change(follow.source, "ALTER TABLE memory_nodes ADD COLUMN num TEXT")
    change(follow.source, "ALTER TABLE memory_nodes ADD COLUMN size REAL")
    change(follow.source, "UPDATE memory_nodes SET num = 'x', size = 0.5 WHERE id = 4")
    done = migrate(follow.source, replace=True, reader_python=Path("none"))
    told = done.only(BroughtAlong)
    assert told.left_behind == {"MemoryNode.num (INT64; it is STRING now)": 3}
    assert value(follow.target, 61, "num", "size") == [None, 8.0]
    assert value(follow.target, 3, "num", "size") == [None, 7.0]
    assert value(follow.target, 4, "num") == ["x"]


def with_embeddings(target: Path, floats: int) -> None:
    """As an agent does that embeds memories anew."""
    by_agent(
        target,
        "ALTER TABLE MemoryNode DROP embedding",
        f"ALTER TABLE MemoryNode ADD embedding FLOAT[{floats}]",
        f"MATCH (n:MemoryNode) WHERE n.id <= 20 SET n.embedding = CAST({[0.5] * floats} AS FLOAT[{floats}])",
    )


@pytest.mark.long
def test_embeddings_that_the_agent_made_are_there_where_sqlite_has_none(follow: Following) -> None:
    change(follow.source, "UPDATE memory_nodes SET embedding = NULL")
    with_embeddings(follow.target, 8)
    done = migrate(follow.source, replace=True, reader_python=Path("none"))
    assert done.only(BroughtAlong).left_behind == {}
    count = "MATCH (n:MemoryNode) WHERE n.embedding IS NOT NULL RETURN count(*), min(size(n.embedding))"
    assert ask(follow.target, count) == [[20, 8]]
    assert value(follow.target, 1, "embedding") == [[0.5] * 8]
    new_turn(follow.source, 100, first=70)
    assert follow(thorough=True).nodes == NODES + 3
    assert ask(follow.target, count) == [[20, 8]]


def test_embeddings_of_another_length_than_sqlites_are_counted_in_the_backup(follow: Following) -> None:
    with_embeddings(follow.target, 8)
    by_agent(follow.target, "MATCH (n:MemoryNode) WHERE n.id = 7 SET n.text = 'merged'")
    done = migrate(follow.source, replace=True, reader_python=Path("none"))
    told = done.only(BroughtAlong)
    assert told.left_behind == {"MemoryNode.embedding (FLOAT[8]; it is FLOAT[4] now)": 20}
    assert told.brought == {"values": 1}
    assert value(follow.target, 1, "embedding") == [[1.0, 1.0, 2.0, 3.0]]


def test_a_table_that_numbers_its_rows_goes_on_numbering_them(follow: Following) -> None:
    by_agent(
        follow.target,
        "CREATE NODE TABLE Note(id SERIAL PRIMARY KEY, name STRING)",
        *(f"CREATE (:Note {{name: '{name}'}})" for name in "abc"),
        "MATCH (n:Note) WHERE n.name = 'a' DELETE n",
        "CREATE REL TABLE about(FROM Note TO MemoryNode)",
        "MATCH (a:Note), (n:MemoryNode) WHERE a.name = 'c' AND n.id = 3 CREATE (a)-[:about]->(n)",
    )
    done = migrate(follow.source, replace=True, reader_python=Path("none"))
    assert done.only(BroughtAlong).left_behind == {}
    by_agent(follow.target, "CREATE (:Note {name: 'd'})")
    assert ask(follow.target, "MATCH (n:Note) RETURN n.id, n.name ORDER BY n.id") == [[1, "b"], [2, "c"], [3, "d"]]
    assert ask(follow.target, "MATCH (a:Note)-[:about]->(n:MemoryNode) RETURN a.name, n.id") == [["c", 3]]


def test_a_table_whose_key_cannot_be_carried_is_named_with_its_relationships(follow: Following) -> None:
    by_agent(
        follow.target,
        "CREATE NODE TABLE Day(day DATE PRIMARY KEY, mood STRING)",
        "CREATE (:Day {day: date('2020-01-01'), mood: 'calm'})",
        "CREATE (:Day {day: date('2020-01-02'), mood: 'glad'})",
        "CREATE REL TABLE seen(FROM Day TO MemoryNode, FROM InsightNode TO MemoryNode)",
        "CREATE (:InsightNode {id: 'i'})",
        "MATCH (a:Day), (n:MemoryNode) WHERE a.mood = 'calm' AND n.id = 3 CREATE (a)-[:seen]->(n)",
        "MATCH (a:InsightNode), (n:MemoryNode) WHERE n.id = 4 CREATE (a)-[:seen]->(n)",
    )
    done = migrate(follow.source, replace=True, reader_python=Path("none"))
    assert done.only(BroughtAlong).left_behind == {"Day": 2, "seen": 1}
    assert "Only the backup of the target before holds: 2 of Day, 1 of seen" in said(done.only(BroughtAlong))
    assert ask(follow.target, "MATCH (a:InsightNode)-[:seen]->(n:MemoryNode) RETURN a.id, n.id") == [["i", 4]]


def test_what_the_agent_added_to_our_relationships_is_there(follow: Following) -> None:
    by_agent(
        follow.target,
        "ALTER TABLE has_input ADD score DOUBLE DEFAULT 0.5",
        "MATCH (t:Turn)-[r:has_input]->(:MemoryNode) WHERE t.id = 1 SET r.score = 0.75",
        "CREATE (:Turn {id: 1700000000005, turn_id: 'mine', timestamp: 5})",
        "MATCH (t:Turn), (n:MemoryNode) WHERE t.turn_id = 'mine' AND n.id = 9 "
        "CREATE (t)-[:has_input {score: 0.25}]->(n)",
        "ALTER TABLE relates_to ADD FROM InsightNode TO MemoryNode",
        "CREATE (:InsightNode {id: 'i'})",
        "MATCH (a:InsightNode), (n:MemoryNode) WHERE n.id = 3 CREATE (a)-[:relates_to {relation: 'about'}]->(n)",
        "CREATE NODE TABLE _Mood(name STRING PRIMARY KEY)",
        "CREATE (:_Mood {name: 'calm'})",
    )
    for _ in range(2):
        done = migrate(follow.source, replace=True, reader_python=Path("none"))
        told = done.only(BroughtAlong)
        tables = {"InsightNode": 1, "_Mood": 1, "memory_edges": 1, "memory_turns": 1}
        assert told.brought == {**tables, "links": 1, "values": 1}
        assert told.left_behind == {}
        scores = "MATCH (t:Turn)-[r:has_input]->(n:MemoryNode) WHERE r.score <> 0.5 RETURN n.id, r.score ORDER BY n.id"
        assert ask(follow.target, scores) == [[1, 0.75], [9, 0.25]]
        about = "MATCH (a:InsightNode)-[r:relates_to]->(n:MemoryNode) RETURN a.id, r.relation, n.id"
        assert ask(follow.target, about) == [["i", "about", 3]]
        assert ask(follow.target, "MATCH (n:_Mood) RETURN n.name") == [["calm"]]
    assert follow(thorough=True) == SyncResult(nodes=NODES)


def test_what_the_agent_declared_is_there_before_it_holds_anything(follow: Following) -> None:
    by_agent(
        follow.target,
        "CREATE NODE TABLE Mood(name STRING PRIMARY KEY)",
        "CREATE REL TABLE felt(FROM Mood TO MemoryNode)",
        "ALTER TABLE MemoryNode ADD mood STRING DEFAULT 'calm'",
        "ALTER TABLE relates_to ADD FROM InsightNode TO MemoryNode",
    )
    migrate(follow.source, replace=True, reader_python=Path("none"))
    by_agent(
        follow.target,
        "CREATE (:Mood {name: 'glad'})",
        "CREATE (:InsightNode {id: 'i'})",
        "MATCH (a:Mood), (n:MemoryNode) WHERE n.id = 3 CREATE (a)-[:felt]->(n)",
        "MATCH (a:InsightNode), (n:MemoryNode) WHERE n.id = 3 CREATE (a)-[:relates_to]->(n)",
    )
    assert value(follow.target, 3, "mood") == ["calm"]
