"""A published target that is kept up to date loses nothing that is nowhere else, whoever wrote it."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.commands import nimad as command
from support.following import NODES, Following, agent, ask, new_turn
from support.memories import ENGINE_LIMITS, assert_same, change, make_memory, migrate, node, read_target
from support.torture import beside, state_of, target_of
from test_following_kills import children

import nimad
from nimad.errors import DifferenceError
from nimad.events.run import NothingToDo
from nimad.events.sync import CaughtUp as Arrived
from nimad.sample import write_sample
from nimad.state.paths import set_logs_aside
from nimad.supervisor import plan
from nimad.supervisor.outcome import FailureKind, WorkerResult
from nimad.sync.follower import Follower
from nimad.sync.result import SyncResult
from nimad.sync.round import RoundResult, SyncRound
from nimad.worker.protocol import Job, Late, Task

#: What nima-core writes to the target alone, and leaves in the log when it is killed.
KILLED_AGENT = f"""
import ladybug, os, sys
database = ladybug.Database(sys.argv[1], **{ENGINE_LIMITS!r})
connection = ladybug.Connection(database)
for key in range(500, 504):
    connection.execute(
        "CREATE (:MemoryNode {{id: $id, layer: 'input', turn_id: $turn, text: $text}})",
        {{"id": key, "turn": f"a{{key}}", "text": "agent only " * 30}},
    )
os._exit(0)
"""


def written_by_killed_agent(target: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED_AGENT, str(target)], check=True)


def of_agent(target: Path) -> list[int]:
    rows = ask(target, "MATCH (n:MemoryNode) WHERE n.id >= 500 RETURN n.id ORDER BY n.id")
    return [row[0] for row in rows]


@pytest.mark.long
def test_what_the_agent_left_in_a_log_is_not_forgotten_by_a_pass(follow: Following) -> None:
    change(follow.source, "INSERT INTO memory_nodes (id, timestamp, text) VALUES (70, 'noon', 'x')")
    follow()
    written_by_killed_agent(follow.target)
    for number in (100, 101):
        new_turn(follow.source, number)
        assert follow().added == 3
    change(follow.source, "UPDATE memory_nodes SET timestamp = 5 WHERE id = 70")
    migrate(follow.source, retry=True, reader_python=Path("none"))
    assert of_agent(follow.target) == [500, 501, 502, 503]


def torn(log: Path) -> bytes:
    """Tear a log so that no engine replays it; return what is there then."""
    log.write_bytes(log.read_bytes()[:-40] + b"garbage" * 30)
    return log.read_bytes()


def test_a_torn_log_of_the_agent_is_left_where_it_is(follow: Following) -> None:
    written_by_killed_agent(follow.target)
    log = beside(follow.target, ".wal")
    there = torn(log)
    new_turn(follow.source, 100)
    for options in ({}, {"thorough": True}, {"last": True}):
        why = follow(**options).left_alone
        assert str(log) in why
        assert "let the program that wrote it open and close the target, or move the log away yourself" in why
    assert log.read_bytes() == there
    assert not list(follow.target.parent.glob("graph.ladybug.wal.*"))


@pytest.mark.long
def test_a_log_of_ours_to_which_another_program_wrote_is_left_where_it_is(follow: Following) -> None:
    new_turn(follow.source, 100)
    follow()
    written_by_killed_agent(follow.target)
    log = beside(follow.target, ".wal")
    there = torn(log)
    new_turn(follow.source, 101)
    assert str(log) in follow().left_alone
    assert log.read_bytes() == there
    log.unlink()
    assert follow(thorough=True).added == 6
    assert_same(follow.source, follow.target)


def test_a_log_that_takes_workers_down_is_left_where_it_is_unless_it_is_ours(
    follow: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_by_killed_agent(follow.target)
    new_turn(follow.source, 100)
    monkeypatch.setattr("nimad.sync.round.TARGET_DELAYS_S", (0.0, 0.0, 0.0))
    there = beside(follow.target, ".wal").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(
            SyncRound, "_try", lambda *_: WorkerResult(FailureKind.CRASHED, message="it was killed by SIGSEGV")
        )
        assert "move the log away yourself" in follow().left_alone
    assert beside(follow.target, ".wal").read_bytes() == there
    assert follow().added == 3
    assert of_agent(follow.target) == [500, 501, 502, 503]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Late]:
    """What each look was asked for."""
    seen: list[Late] = []
    run = SyncRound.run

    def noting(self: SyncRound, late: Late) -> RoundResult:
        seen.append(late)
        return run(self, late)

    monkeypatch.setattr(SyncRound, "run", noting)
    return seen


def test_the_ledger_is_believed_after_somebody_wrote_to_the_target(follow: Following, looks: list[Late]) -> None:
    follow()
    with agent(follow.target) as connection:
        connection.execute("MATCH (n:MemoryNode) WHERE n.id = 5 SET n.text = 'older'")
    follow()
    follow()
    new_turn(follow.source, 100)
    follow()
    assert [(late.thorough, late.distrust) for late in looks] == [(False, False)] * 4
    assert ask(follow.target, "MATCH (n:MemoryNode {id: 5}) RETURN n.text") == [["older"]]


def tear_as_a_disk_does(log: Path) -> None:
    """Tear a log that no program wrote to since."""
    status = log.stat()
    log.write_bytes(log.read_bytes()[:-700] + b"garbage" * 100)
    os.utime(log, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_the_ledger_is_doubted_after_a_log_was_set_aside_and_a_kill(
    follow: Following, looks: list[Late], monkeypatch: pytest.MonkeyPatch
) -> None:
    new_turn(follow.source, 100)
    follow()
    tear_as_a_disk_does(beside(follow.target, ".wal"))

    def killed(path: Path) -> None:
        set_logs_aside(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nimad.sync.round.set_logs_aside", killed)
        new_turn(follow.source, 101)
        with pytest.raises(KeyboardInterrupt):
            follow()
    assert not beside(follow.target, ".wal").exists()
    assert state_of(follow.target)["distrust"]
    assert Following(follow.source)().added == 6
    assert looks[-1].distrust
    assert not state_of(follow.target)["distrust"]
    assert_same(follow.source, follow.target)


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens between a merge and the look for it, one at each."""
    happens: list[Callable[[], object]] = []
    do = SyncRound._do

    def interrupted(self: SyncRound, job: Job) -> Any:
        if job.task is Task.CONFIRM and happens:
            happens.pop(0)()
        return do(self, job)

    monkeypatch.setattr(SyncRound, "_do", interrupted)
    return happens


def test_what_comes_during_a_run_is_brought_by_it(follow: Following, between: list[Callable[[], object]]) -> None:
    new_turn(follow.source, 100)
    between.append(lambda: change(follow.source, "UPDATE memory_nodes SET text = 'later' WHERE id = 62"))
    between.append(lambda: new_turn(follow.source, 101))
    (arrived,) = migrate(follow.source, reader_python=Path("none")).all(Arrived)
    assert (arrived.added, arrived.changed) == (6, 1)
    assert_same(follow.source, follow.target)


def test_many_small_losses_are_a_large_one(follow: Following) -> None:
    for round_ in range(3):
        change(follow.source, f"DELETE FROM memory_nodes WHERE id > {NODES - 4 * (round_ + 1)}")
        done = follow(thorough=True)
        assert bool(done.left_alone) == (round_ == 2)
    assert "has lost 4 of the 52 rows of memory_nodes" in done.left_alone
    assert "after 8 that were removed before; nothing was removed" in done.left_alone
    assert "--replace" in done.left_alone
    assert "has lost 4 of the 52" in Following(follow.source)(thorough=True).left_alone
    assert len(read_target(follow.target).nodes) == NODES - 8


def test_a_table_is_never_emptied(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(key) for key in range(1, 6)])
    migrate(source, reader_python=Path("none"))
    change(source, "DELETE FROM memory_nodes")
    assert "has lost 5 of the 5 rows" in Following(source)(thorough=True).left_alone


@pytest.mark.long
def test_a_target_that_a_run_put_in_place_is_followed_by_its_own_columns(follow: Following) -> None:
    new_turn(follow.source, 100)
    assert follow().added == 3
    assert migrate(follow.source, replace=True, nodes_only=True, reader_python=Path("none")).result
    new_turn(follow.source, 101)
    done = follow()
    assert (done.added, done.edges, done.left_alone) == (3, 0, "")
    assert ask(follow.target, "MATCH (n:MemoryNode) RETURN count(n)") == [[NODES + 6]]


def test_rows_that_the_target_does_not_keep_are_named_with_what_to_do(
    follow: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    do = SyncRound._do

    def forgetful(self: SyncRound, job: Job) -> Any:
        facts = do(self, job)
        return {**facts, "missing": {"memory_nodes": [61]}} if job.task is Task.CONFIRM else facts

    monkeypatch.setattr(SyncRound, "_do", forgetful)
    new_turn(follow.source, 100)
    with pytest.raises(DifferenceError, match=r"does not keep 1 rows .memory_nodes id 61.*--replace"):
        follow()


# Logs that the target lost


def test_a_log_that_the_agent_renamed_is_brought_again(follow: Following) -> None:
    new_turn(follow.source, 100)
    follow()
    log = beside(follow.target, ".wal")
    log.rename(beside(follow.target, ".wal.bak_1700000000"))
    with agent(follow.target) as connection:
        connection.execute("CREATE (:MemoryNode {id: 500, layer: 'input', turn_id: 'mine', text: 'own'})")
    assert follow().added == 3
    assert of_agent(follow.target) == [500]


def interrupt_checkpoint(follow: Following) -> None:
    """Leave a target as a program does that is killed in the middle of a checkpoint: it opens for writing only."""
    new_turn(follow.source, 100)
    follow()
    beside(follow.target, ".wal").rename(beside(follow.target, ".wal.checkpoint"))
    for name in ("intent", "apply"):
        beside(follow.target, f".checkpoint.{name}.lock").touch()
    with pytest.raises(RuntimeError, match="recovery is pending"):
        ask(follow.target, "RETURN 1")


def test_a_checkpoint_that_was_killed_is_recovered_by_the_follower(follow: Following) -> None:
    interrupt_checkpoint(follow)
    new_turn(follow.source, 101)
    assert follow(thorough=True) == SyncResult(added=3, edges=2, turns=1, nodes=NODES + 6)
    assert ask(follow.target, "MATCH (n:MemoryNode) RETURN count(*)") == [[NODES + 6]]


def test_a_checkpoint_that_was_killed_is_recovered_before_a_rollback(follow: Following) -> None:
    interrupt_checkpoint(follow)
    for words in (("verify",), ("health",), ("rollback",)):
        done = command(follow.source.parent, *words, "--source", follow.source, "--target", follow.target)
        assert f"a program was killed in the middle of a checkpoint of {follow.target}; recover it with: " in (
            done.out + done.err
        )
    both = ("--source", follow.source, "--target", follow.target)
    assert command(follow.source.parent, "rollback", "--apply", *both).code == 0
    assert not follow.target.exists()


def test_a_checkpoint_that_was_killed_is_recovered_by_the_same_command_again(follow: Following) -> None:
    interrupt_checkpoint(follow)
    new_turn(follow.source, 101)
    done = migrate(follow.source, reader_python=Path("none"))
    assert done.result.exit_code == 0
    assert ask(follow.target, "MATCH (n:MemoryNode) RETURN count(*)") == [[NODES + 6]]


@pytest.mark.sampled
@pytest.mark.parametrize("factor", [plan.FILE_POOL_FACTOR, 2], ids=["as planned", "too small at first"])
def test_a_changed_memory_and_a_new_one_are_brought_in_one_go_to_a_target_of_usual_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: int
) -> None:
    """Where the pool is too small for the checkpoint, that is ended with a larger one."""
    monkeypatch.setattr(plan, "FILE_POOL_FACTOR", factor)
    source = tmp_path / "graph.sqlite"
    write_sample(source)
    migrate(source, reader_python=Path("none"))
    change(source, "INSERT INTO memory_nodes (timestamp, layer, text) VALUES (1767225600000, 'input', 'new')")
    change(source, "UPDATE memory_nodes SET text = 'changed' WHERE id = 17")
    done = migrate(source, reader_python=Path("none"))
    assert (done.result.exit_code, done.only(NothingToDo).late) == (0, 0)
    assert "9771 memories" in done.only(NothingToDo).why
    assert not beside(target_of(source), ".shadow").exists()
    assert_same(source, target_of(source))


def test_ending_a_checkpoint_takes_no_try_away(follow: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that is full leaves a checkpoint half-way, which the next worker finds pending, time and again."""
    monkeypatch.setattr("nimad.sync.round.TARGET_DELAYS_S", (0.0, 0.0, 0.0))
    pending, full = WorkerResult(FailureKind.RECOVERY_PENDING), WorkerResult(FailureKind.POOL_FULL)
    ends, really = [pending, full, pending, full, pending], SyncRound._try

    def tried(self: SyncRound, job: Job) -> WorkerResult:
        return ends.pop(0) if job.task is Task.SYNC and ends else really(self, job)

    monkeypatch.setattr(SyncRound, "_try", tried)
    new_turn(follow.source, 100)
    assert (follow().added, ends) == (3, [])


def test_a_file_that_got_the_inode_of_our_log_is_not_the_log(follow: Following) -> None:
    """The agent takes the log in and a memory out, and what is written beside the target next has the log's inode."""
    new_turn(follow.source, 100)
    follow()
    with agent(follow.target) as connection:
        connection.execute("MATCH (n:MemoryNode) WHERE n.id = 61 DETACH DELETE n")
    later = beside(follow.target, ".later")
    later.write_text("made after the log was gone")
    state = state_of(follow.target)
    state["log"][".wal"]["inode"] = later.stat().st_ino
    beside(follow.target, ".state.json").write_text(json.dumps(state))
    assert follow(thorough=True).added == 0
    assert ask(follow.target, "MATCH (n:MemoryNode) WHERE n.id = 61 RETURN n.id") == []


def test_a_target_that_is_older_than_it_was_is_brought_forward(follow: Following) -> None:
    with agent(follow.target) as connection:
        connection.execute("CREATE (:MemoryNode {id: 500, layer: 'input', turn_id: 'mine', text: 'own'})")
    old, status = follow.target.read_bytes(), follow.target.stat()
    new_turn(follow.source, 100)
    follow(last=True)
    follow.target.write_bytes(old)
    os.utime(follow.target, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert follow().added == 3
    assert of_agent(follow.target) == [500]


def test_what_the_agent_wrote_under_a_clock_that_was_set_back_is_no_older_copy(follow: Following) -> None:
    """A Pi has no clock of its own, and begins at the time at which it was switched off, or before."""
    new_turn(follow.source, 100)
    follow(last=True)
    with agent(follow.target) as connection:
        connection.execute("MATCH (n:MemoryNode) WHERE n.id = 7 DETACH DELETE n")
        connection.execute("MATCH (n:MemoryNode) WHERE n.id = 6 SET n.is_ghost = true")
    noted = state_of(follow.target)
    noted["file"]["modified_ns"] += 3_600 * 10**9
    beside(follow.target, ".state.json").write_text(json.dumps(noted))
    change(follow.source, "UPDATE memory_nodes SET is_ghost = 1 WHERE id = 6")
    change(follow.source, "UPDATE memory_nodes SET is_ghost = 0 WHERE id = 6")
    new_turn(follow.source, 101)
    assert follow(thorough=True).added == 3
    assert ask(follow.target, "MATCH (n:MemoryNode) WHERE n.id = 7 RETURN n.id") == []
    assert ask(follow.target, "MATCH (n:MemoryNode) WHERE n.id = 6 RETURN n.is_ghost") == [[True]]


def test_the_worker_that_waits_for_the_end_of_a_burst_is_that_of_the_look_or_ends(source: Path) -> None:
    others = children()  # of tests before, in this process
    follower = Follower(nimad.Settings(source=source, reader_python=Path("none")), threading.Event(), lambda _: None)
    follower.get_ready()
    assert not (children() - others), "nothing tells yet which engine it is to have"
    follower.catch_up()
    follower.get_ready()
    (waits,) = children() - others
    new_turn(source, 100)
    assert follower.catch_up().added == 3
    assert not (children() - others)
    follower.get_ready()
    assert children() - others
    follower.rest()
    assert not (children() - others)
    follower.get_ready()
    target_of(source).rename(source.parent / "away")
    assert follower.catch_up().left_alone
    assert not (children() - others)
    assert not Path(f"/proc/{waits}").exists()
