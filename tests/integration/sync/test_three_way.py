"""Both sides live on after publishing: what either wrote last is there afterwards, and nothing else is touched."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.following import NODES, Following, agent, ask, new_turn, written_by_agent
from support.memories import assert_same, change, read_target
from support.torture import beside

from nimad.sync.result import SyncResult
from nimad.sync.round import SyncRound
from nimad.worker.protocol import Job, Task


def by_agent(target: Path, *statements: str) -> None:
    with agent(target) as connection:
        for statement in statements:
            connection.execute(statement)


def value(target: Path, key: int, *names: str) -> list[Any]:
    wanted = ", ".join(f"n.{name}" for name in names)
    return ask(target, f"MATCH (n:MemoryNode {{id: {key}}}) RETURN {wanted}")[0]


def conflicts(target: Path) -> list[dict[str, Any]]:
    file = beside(target, ".conflicts.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_what_the_agent_wrote_is_not_undone(follow: Following) -> None:
    by_agent(
        follow.target,
        "MATCH (n:MemoryNode) WHERE n.id IN [5, 9] SET n.is_ghost = true, n.dismissal_count = 1, n.strength = 0.25",
        "MATCH (n:MemoryNode) WHERE n.id = 11 SET n.text = 'merged', n.themes = 'x'",
    )
    for _ in range(2):
        assert follow(thorough=True) == SyncResult(nodes=NODES)
    new_turn(follow.source, 100)
    assert follow(thorough=True).changed == 0
    assert value(follow.target, 5, "is_ghost", "dismissal_count", "strength") == [True, 1, 0.25]
    assert value(follow.target, 11, "text", "themes") == ["merged", "x"]


def test_each_side_keeps_the_columns_that_it_alone_changed(follow: Following) -> None:
    by_agent(follow.target, "MATCH (n:MemoryNode) WHERE n.id = 5 SET n.text = 'of the agent', n.is_ghost = true")
    change(follow.source, "UPDATE memory_nodes SET summary = 'of SQLite', who = NULL WHERE id = 5")
    assert follow(thorough=True).changed == 1
    assert value(follow.target, 5, "text", "is_ghost", "summary", "who") == ["of the agent", True, "of SQLite", None]
    assert conflicts(follow.target) == []


def test_a_text_that_both_changed_is_the_targets_and_the_other_is_recorded(follow: Following) -> None:
    by_agent(follow.target, "MATCH (n:MemoryNode) WHERE n.id = 5 SET n.text = 'of the agent'")
    change(follow.source, "UPDATE memory_nodes SET text = 'of SQLite' WHERE id = 5")
    follow(thorough=True)
    follow(thorough=True)
    assert value(follow.target, 5, "text") == ["of the agent"]
    (entry,) = conflicts(follow.target)
    assert (entry["table"], entry["id"], entry["part"]) == ("memory_nodes", 5, "text")
    assert entry["row"] == {"text": "of SQLite"}
    assert beside(follow.target, ".conflicts.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.sampled
@pytest.mark.parametrize(("here", "there", "winner"), [(9_000, 8_000, 0.75), (8_000, 9_000, 0.5), (9_000, 9_000, 0.5)])
def test_of_two_recalls_the_later_one_wins(follow: Following, here: int, there: int, winner: float) -> None:
    by_agent(
        follow.target, f"MATCH (n:MemoryNode) WHERE n.id = 5 SET n.strength = 0.5 + 0.0, n.last_accessed = {there}"
    )
    by_agent(follow.target, "MATCH (n:MemoryNode) WHERE n.id = 5 SET n.strength = 0.5001")
    change(follow.source, f"UPDATE memory_nodes SET strength = 0.75, last_accessed = {here} WHERE id = 5")
    follow()
    assert value(follow.target, 5, "strength", "last_accessed") == [
        winner if here > there else 0.5001,
        max(here, there),
    ]


def test_the_figures_of_a_recall_go_together(follow: Following) -> None:
    """SQLite's recall left the strength at what it was, and is the later one all the same."""
    by_agent(follow.target, "MATCH (n:MemoryNode) WHERE n.id = 5 SET n.strength = 0.125, n.decay_rate = 0.75")
    change(follow.source, "UPDATE memory_nodes SET strength = 0.5, last_accessed = 9000 WHERE id = 5")
    follow(thorough=True)
    assert value(follow.target, 5, "strength", "last_accessed") == [0.5, 9_000]
    assert ("strength", {"strength": 0.125}) in [(each["part"], each["row"]) for each in conflicts(follow.target)]


def test_a_mark_is_not_taken_away_by_the_other_side(follow: Following) -> None:
    by_agent(follow.target, "MATCH (n:MemoryNode) WHERE n.id = 5 SET n.is_ghost = true, n.dismissal_count = 1")
    change(follow.source, "UPDATE memory_nodes SET dismissal_count = 4 WHERE id = 5")
    change(follow.source, "UPDATE memory_nodes SET is_ghost = 1 WHERE id = 6")
    follow(thorough=True)
    assert value(follow.target, 5, "is_ghost", "dismissal_count") == [True, 4]
    assert value(follow.target, 6, "is_ghost") == [True]


def test_a_null_in_a_mark_is_nobodys_word_and_hides_no_memory(follow: Following) -> None:
    by_agent(
        follow.target, "MATCH (n:MemoryNode) WHERE n.id = 5 SET n.is_ghost = NULL, n.strength = NULL, n.who = NULL"
    )
    change(follow.source, "UPDATE memory_nodes SET summary = 'of SQLite' WHERE id = 5")
    change(follow.source, "UPDATE memory_nodes SET is_ghost = NULL WHERE id = 6")
    follow(thorough=True)
    assert value(follow.target, 5, "is_ghost", "strength", "who") == [False, 0.5, None]
    assert value(follow.target, 6, "is_ghost") == [False]


def test_what_left_sqlite_stays_where_the_agent_changed_it(follow: Following) -> None:
    by_agent(follow.target, "MATCH (n:MemoryNode) WHERE n.id = 60 SET n.recall_count = 3")
    by_agent(
        follow.target,
        "MATCH (a:MemoryNode), (b:MemoryNode) WHERE a.id = 57 AND b.id = 54 "
        "CREATE (a)-[:relates_to {relation: 'own', weight: 1.0}]->(b)",
    )
    change(follow.source, "DELETE FROM memory_edges")
    change(follow.source, "DELETE FROM memory_nodes WHERE id IN (57, 59, 60)")
    change(follow.source, "DELETE FROM memory_turns WHERE id IN (19, 20)")
    done = follow(thorough=True)
    if done.left_alone:  # the edges are all of a table
        change(follow.source, "INSERT INTO memory_edges (id, source_id, target_id) VALUES (1, 1, 2)")
    follow(thorough=True)
    there = read_target(follow.target).nodes
    assert {57, 60} <= there.keys()


def test_what_the_agent_took_out_is_not_brought_back_unless_sqlite_changes_it(follow: Following) -> None:
    by_agent(follow.target, "MATCH (n:MemoryNode) WHERE n.id IN [5, 6] DETACH DELETE n")
    for _ in range(2):
        assert follow(thorough=True) == SyncResult(nodes=NODES)
    assert not {5, 6} & read_target(follow.target).nodes.keys()
    change(follow.source, "UPDATE memory_nodes SET text = 'again' WHERE id = 6")
    assert follow(thorough=True).added == 1
    assert value(follow.target, 6, "text") == ["again"]
    assert 5 not in read_target(follow.target).nodes


def test_a_turn_on_both_sides_is_one_and_whole_and_the_agents_marks_stay(follow: Following) -> None:
    ids = new_turn(follow.source, 100)
    written_by_agent(follow.target, 100, [key + 50 for key in ids])
    by_agent(
        follow.target, "MATCH (n:MemoryNode) WHERE n.turn_id = 'turn_100' SET n.strength = 0.125, n.is_ghost = true"
    )
    follow()
    rows = ask(
        follow.target, "MATCH (n:MemoryNode) WHERE n.turn_id = 'turn_100' RETURN size(n.text), n.strength, n.is_ghost"
    )
    assert len(rows) == 3
    assert all(size > 400 and strength == 0.125 and ghost for size, strength, ghost in rows)


def test_a_cut_of_two_thousand_characters_with_dots_is_made_whole(follow: Following) -> None:
    ids = new_turn(follow.source, 100, text="word " * 1_000)
    by_agent(
        follow.target,
        *(
            f"CREATE (:MemoryNode {{id: {key + 7}, layer: '{layer}', turn_id: 'turn_100', timestamp: 1700000000000, "
            f"text: '{('word ' * 1_000)[:1997]}...'}})"
            for key, layer in zip(ids, ("input", "contemplation", "output"), strict=True)
        ),
    )
    follow()
    sizes = ask(follow.target, "MATCH (n:MemoryNode) WHERE n.turn_id = 'turn_100' RETURN size(n.text)")
    assert sizes == [[5_000]] * 3


#: Of a text what SQLite and the target have, and whether the target gets SQLite's.
WORDS = "word " * 1_000
CUTS = {
    "SQLite's is the longer cut by the length of the sign": (WORDS[:2_000], WORDS[:1_997] + "...", True),
    "SQLite's is the shorter cut": (WORDS[:1_500] + "...", WORDS[:1_997] + "...", False),
    "SQLite's is the shorter cut by the length of the sign": (WORDS[:1_997] + "...", WORDS[:2_000], False),
}


@pytest.mark.sampled
@pytest.mark.parametrize("cut", list(CUTS)[::-1])
def test_two_cuts_of_one_text_are_settled_by_the_first_look(follow: Following, cut: str) -> None:
    here, there, taken = CUTS[cut]
    ids = new_turn(follow.source, 100, text=here)
    layers = zip(ids, ("input", "contemplation", "output"), strict=True)
    by_agent(
        follow.target,
        *(
            f"CREATE (:MemoryNode {{id: {key + 7}, layer: '{layer}', turn_id: 'turn_100', timestamp: 1700000000000, "
            f"text: '{there}'}})"
            for key, layer in layers
        ),
    )
    for moment in (10_000, 20_000, 30_000):
        follow(thorough=True)
        texts = ask(follow.target, "MATCH (n:MemoryNode) WHERE n.turn_id = 'turn_100' RETURN n.text")
        assert texts == [[here if taken else there]] * 3
        recorded = [(entry["part"], entry["row"]["text"]) for entry in conflicts(follow.target)]
        assert recorded == ([] if taken else [("text", here)] * 3), "once, and not again by each look"
        change(follow.source, f"UPDATE memory_nodes SET last_accessed = {moment} WHERE turn_id = 'turn_100'")
    beside(follow.target, ".ledger").unlink()
    follow(thorough=True)
    assert len(conflicts(follow.target)) == len(recorded)


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> Callable[[Following], None]:
    """A look that is killed once it wrote, before another process looks for what it wrote."""
    do = SyncRound._do

    def killed(catching: SyncRound, job: Job) -> Any:
        if job.task is Task.CONFIRM:
            raise _KilledError
        return do(catching, job)

    def look(follow: Following) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(SyncRound, "_do", killed)
            with pytest.raises(_KilledError):
                follow(thorough=True)

    return look


class _KilledError(Exception):
    pass


@pytest.mark.sampled
@pytest.mark.parametrize("then", ["second", "memory 5"])
def test_a_value_that_a_killed_look_brought_is_not_taken_for_the_agents(
    follow: Following, unseen: Callable[[Following], None], then: str
) -> None:
    change(follow.source, "UPDATE memory_nodes SET text = 'first', strength = 0.25 WHERE id = 5")
    change(follow.source, "UPDATE memory_turns SET output_node_id = 9 WHERE id = 2")
    change(follow.source, "UPDATE memory_edges SET target_id = 9, relation = 'first' WHERE id = 1")
    unseen(follow)
    assert value(follow.target, 5, "text") == ["first"]
    change(follow.source, "UPDATE memory_nodes SET text = ?, strength = 0.5 WHERE id = 5", then)
    change(follow.source, "UPDATE memory_turns SET output_node_id = 12 WHERE id = 2")
    change(follow.source, "UPDATE memory_edges SET target_id = 12, relation = 'second' WHERE id = 1")
    follow(thorough=True)
    assert value(follow.target, 5, "text", "strength") == [then, 0.5]
    assert conflicts(follow.target) == []
    assert_same(follow.source, follow.target)


def test_a_memory_that_a_killed_look_added_still_changes_with_sqlites(
    follow: Following, unseen: Callable[[Following], None]
) -> None:
    (key, *_) = new_turn(follow.source, 100)
    unseen(follow)
    by_agent(follow.target, f"MATCH (n:MemoryNode) WHERE n.id = {key + 1} SET n.text = 'of the agent'")
    change(follow.source, f"UPDATE memory_nodes SET text = 'second' WHERE id IN ({key}, {key + 1})")
    follow(thorough=True)
    assert value(follow.target, key, "text") == ["second"]
    assert value(follow.target, key + 1, "text") == ["of the agent"]
