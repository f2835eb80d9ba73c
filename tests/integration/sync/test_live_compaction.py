"""The agent's own writes fill its target with holes: it is copied without them, and nothing of it is lost."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.environments import OURS, answering
from support.following import Following, agent, ask, new_turn
from support.memories import ENGINE_LIMITS, assert_same, make_memory, migrate, node, vector
from support.torture import beside, state_of
from test_bring_along import ODD, ODD_LINK

from nimad.events.run import Compacted, NotCompacted
from nimad.sync import follower, live_compaction
from nimad.worker.protocol import Task

NODES = 300


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Following:
    """A target in which the agent's turns left many holes."""
    monkeypatch.setattr(live_compaction, "SMALL_FILE", 2**18)
    monkeypatch.setattr(live_compaction, "QUIET_S", 0.0)
    source = make_memory(
        tmp_path / "graph.sqlite",
        nodes=[
            node(key, turn_id=f"t{key}", text=f"memory {key} " * 300, embedding=vector(*[key] * 64))
            for key in range(1, NODES + 1)
        ],
    )
    migrate(source, reader_python=Path("none"))
    follow = Following(source)
    with agent(follow.target) as connection:
        connection.execute(f"CREATE NODE TABLE {ODD}(`the name` STRING PRIMARY KEY, `a b` INT64)")
        connection.execute(f"CREATE REL TABLE {ODD_LINK}(FROM {ODD} TO MemoryNode)")
        connection.execute(f"CREATE (:{ODD} {{`the name`: 'one', `a b`: 4}})")
        connection.execute(f"MATCH (m:{ODD}), (n:MemoryNode) WHERE n.id = 5 CREATE (m)-[:{ODD_LINK}]->(n)")
    for number in range(6):
        with agent(follow.target) as connection:
            connection.execute(
                "CREATE (:MemoryNode {id: $id, layer: 'input', turn_id: 'mine', text: $text, timestamp: 5})",
                {"id": 1_000 + number, "text": "of the agent " * 200},
            )
            connection.execute("MATCH (n:MemoryNode) WHERE n.id = 5 SET n.strength = 0.75")
            connection.execute("CREATE (:InsightNode {id: $id, content: 'x', confidence: 0.5})", {"id": f"i{number}"})
    return follow


def lived_in(target: Path) -> list[Any]:
    return [
        ask(target, "MATCH (n:MemoryNode) WHERE n.turn_id = 'mine' RETURN n.id, n.text ORDER BY n.id"),
        ask(target, "MATCH (n:MemoryNode {id: 5}) RETURN n.strength, n.is_ghost"),
        ask(target, "MATCH (n:InsightNode) RETURN n.id, n.confidence ORDER BY n.id"),
        ask(target, f"MATCH (m:{ODD})-[:{ODD_LINK}]->(n:MemoryNode) RETURN m.`the name`, m.`a b`, n.id"),
        ask(target, "MATCH (n:MemoryNode) RETURN count(n.embedding)"),
    ]


def test_holes_go_and_what_the_agent_wrote_stays(follow: Following) -> None:
    before, size = lived_in(follow.target), follow.target.stat().st_size
    new_turn(follow.source, 100)
    assert follow().added == 3
    (told,) = follow.all(Compacted)
    assert follow.target.stat().st_size < 0.7 * size
    assert told.after == follow.target.stat().st_blocks * 512  # type: ignore[attr-defined]
    assert lived_in(follow.target)[:-1] == before[:-1]
    assert follow.target.with_name("ladybug.lbug").resolve() == follow.target
    assert follow(thorough=True).left_alone == ""
    new_turn(follow.source, 101)
    assert follow().added == 3, "the ledger is of the copy"
    assert len(follow.all(Compacted)) == 1
    with agent(follow.target) as connection:
        connection.execute("MATCH (n) WHERE label(n) = 'InsightNode' OR n.turn_id = 'mine' DETACH DELETE n")
        connection.execute("MATCH (n:MemoryNode) WHERE n.id = 5 SET n.strength = 1.0")


@pytest.mark.long
def test_a_busy_agent_is_not_kept_from_its_target(follow: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_compaction, "QUIET_S", 20.0)
    monkeypatch.setattr(live_compaction, "PRESSING", 1_000.0)
    for number in range(100, 103):
        new_turn(follow.source, number)
        assert follow().added == 3
        assert 19 < (follow.due_s or 0) <= 20
    assert follow.all(Compacted) == []
    monkeypatch.setattr(live_compaction, "PRESSING", 1.5)
    new_turn(follow.source, 103)
    assert follow().added == 3
    assert len(follow.all(Compacted)) == 1


@pytest.mark.sampled
@pytest.mark.parametrize("last_resort", [1_000.0, 1.0])
def test_a_copy_gives_way_to_a_turn_but_as_a_last_resort(
    follow: Following, monkeypatch: pytest.MonkeyPatch, last_resort: float
) -> None:
    monkeypatch.setattr(live_compaction, "LAST_RESORT", last_resort)
    monkeypatch.setattr(live_compaction, "LAST_RESORT_BYTES", 0)
    inode, do = follow.target.stat().st_ino, live_compaction.LiveCompaction._do

    def beside_a_turn(self: Any, files: Any, workers: Any, job: Any, **options: Any) -> Any:
        if job.task is Task.COMPACT:
            new_turn(follow.source, 101)
        return do(self, files, workers, job, **options)

    with monkeypatch.context() as patch:
        patch.setattr(live_compaction.LiveCompaction, "_do", beside_a_turn)
        new_turn(follow.source, 100)
        assert follow().added == 3
    assert len(follow.all(Compacted)) == (last_resort == 1.0)
    assert (follow.target.stat().st_ino == inode) is (last_resort != 1.0)
    assert not beside(follow.target, ".migrating.compact").exists()
    assert list(follow.target.parent.glob(".nimad-*")) == [], "the rows lay there in plain"
    assert follow().added == 3
    assert follow.due_s is None or follow.due_s > 0.5, "not at once again"


@pytest.mark.long
def test_a_migration_that_is_typed_again_copies_only_what_has_grown_much(
    follow: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_compaction, "QUIET_S", 20.0)
    for beyond, copies in ((1_000.0, 0), (1.5, 1)):
        monkeypatch.setattr(follower, "IN_PASSING", beyond)
        new_turn(follow.source, 100 + copies)
        again = migrate(follow.source, reader_python=Path("none"))
        assert len(again.all(Compacted)) == copies


@pytest.mark.long
def test_the_copy_is_open_to_whom_the_target_was(follow: Following) -> None:
    follow.target.chmod(0o660)
    new_turn(follow.source, 100)
    follow()
    assert len(follow.all(Compacted)) == 1
    assert follow.target.stat().st_mode & 0o777 == 0o660


@pytest.mark.sampled
@pytest.mark.parametrize("how", ["a link to it", "a second name"])
def test_a_file_that_others_reach_by_another_name_is_not_copied(follow: Following, tmp_path: Path, how: str) -> None:
    elsewhere = tmp_path / "ssd.ladybug"
    if how == "a link to it":
        follow.target.rename(elsewhere)
        follow.target.symlink_to(elsewhere)
    else:
        elsewhere.hardlink_to(follow.target)
    inode = elsewhere.stat().st_ino
    new_turn(follow.source, 100)
    follow()
    assert (follow.all(Compacted), follow.due_s) == ([], None)
    assert (elsewhere.stat().st_ino, follow.target.stat().st_ino) == (inode, inode)


@pytest.mark.long
def test_a_log_that_a_program_left_by_the_other_name_keeps_the_copy_away(
    follow: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came after the look began, and before the target was locked."""
    link = follow.target.with_name("ladybug.lbug")
    compact = live_compaction.LiveCompaction.compact

    def after_a_crash(self: Any, files: Any, launch: Any, **options: Any) -> bool:
        with answering(OURS, link, read_only=False) as (ask, process):
            ask("MATCH (n:MemoryNode) WHERE n.id = 6 SET n.strength = 0.125")
            process.kill()
        return compact(self, files, launch, **options)

    monkeypatch.setattr(live_compaction.LiveCompaction, "compact", after_a_crash)
    inode = follow.target.stat().st_ino
    new_turn(follow.source, 100)
    follow()
    assert (follow.all(Compacted), follow.target.stat().st_ino) == ([], inode)


@pytest.mark.long
def test_a_target_whose_least_size_nobody_noted_is_looked_at(follow: Following) -> None:
    state = state_of(follow.target)
    del state["compact"]
    beside(follow.target, ".state.json").write_text(json.dumps(state))
    new_turn(follow.source, 100)
    follow()
    assert state_of(follow.target)["compact"]["nodes"] > NODES


def test_what_the_agent_took_out_stays_out_where_a_run_was_killed_before_the_rename(
    follow: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    with agent(follow.target) as connection:
        connection.execute("MATCH (n:MemoryNode) WHERE n.id = 7 DETACH DELETE n")
    new_turn(follow.source, 100)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            follow(thorough=True)
    Following(follow.source)(thorough=True)
    assert ask(follow.target, "MATCH (n:MemoryNode) WHERE n.id = 7 RETURN n.id") == []


def test_a_copy_that_differs_is_thrown_away(follow: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    do = live_compaction.LiveCompaction._do

    def differing(self: Any, files: Any, workers: Any, job: Any, **options: Any) -> Any:
        answer = do(self, files, workers, job, **options)
        if job.task is Task.COMPARE_TARGETS:
            answer.facts["differs"] = "rows of MemoryNode"  # type: ignore[index]
        return answer

    monkeypatch.setattr(live_compaction.LiveCompaction, "_do", differing)
    inode = follow.target.stat().st_ino
    new_turn(follow.source, 100)
    assert follow().added == 3
    assert "rows of MemoryNode differ" in follow.all(NotCompacted)[0].why  # type: ignore[attr-defined]
    assert follow.target.stat().st_ino == inode
    assert not beside(follow.target, ".migrating.compact").exists()


def test_a_target_that_the_agent_has_open_is_not_copied(follow: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    new_turn(follow.source, 100)
    program = (
        "import sys, ladybug\n"
        f"d = ladybug.Database(sys.argv[1], **{ENGINE_LIMITS!r})\n"
        "print('open', flush=True)\nsys.stdin.readline()\nd.close()\n"
    )
    copied = live_compaction.LiveCompaction.compact
    done: list[bool] = []

    def beside_the_agent(self: Any, files: Any, launch: Any) -> bool:
        command = [sys.executable, "-c", program, str(follow.target)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            done.append(copied(self, files, launch))
            other.communicate(b"\n")
        return done[-1]

    monkeypatch.setattr(live_compaction.LiveCompaction, "compact", beside_the_agent)
    assert follow().added == 3
    assert done == [False]


def test_a_kill_before_the_rename_leaves_the_target_as_it_was(
    follow: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lived_in(follow.target)
    new_turn(follow.source, 100)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            follow()
    assert lived_in(follow.target)[:-1] == before[:-1]
    again = Following(follow.source)
    assert again(thorough=True).left_alone == ""
    assert len(again.all(Compacted)) == 1
    assert lived_in(follow.target)[:-1] == before[:-1]
    assert state_of(follow.target)["compact"]["bytes"] < 10**7


def test_a_file_without_holes_is_left_alone(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(key) for key in range(1, 40)])
    migrate(source, reader_python=Path("none"))
    follow = Following(source)
    new_turn(source, 100)
    follow(last=True)
    assert follow.all(Compacted) == []
    assert_same(source, follow.target)
