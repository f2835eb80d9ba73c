"""A run that was stopped goes on by itself, from what is counted, and only with the source it began with."""

import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.memories import assert_same, change, migrate
from support.torture import (
    Life,
    assert_nothing_left,
    beside,
    copy_of,
    exporting,
    interrupted,
    opened,
    run_to_the_end,
    small_memory,
    staging_of,
    state_of,
    target_of,
)

from nimad.errors import CannotWriteError, DifferenceError, ExitCode
from nimad.events.run import BatchLoaded, Compacted, Started, TableLoaded, Verified, Verifying
from nimad.sample import Sample, write_sample

#: Seconds that a stopped run may take to end: the grace for the batch, then for the worker, then some.
STOPS_WITHIN_S = 9.0


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_memory(tmp_path_factory.mktemp("memory") / "graph.sqlite", nodes=300, dimension=8)


@pytest.fixture
def source(tmp_path: Path, memory: Path) -> Path:
    return Path(shutil.copy(memory, tmp_path / "graph.sqlite"))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, memory: Path) -> Path:
    source = Path(shutil.copy(memory, tmp_path_factory.mktemp("begun") / "graph.sqlite"))
    interrupted(source, BatchLoaded, nth=2, batch_size=100, fixed_batch=True)
    return source


@pytest.fixture
def halfway(tmp_path: Path, begun: Path) -> Path:
    """A memory whose migration was stopped after its second batch of 100 nodes."""
    return copy_of(begun, tmp_path)


def events_of(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


# Stopping


@pytest.mark.sampled
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_keeps_what_is_counted(source: Path, number: signal.Signals) -> None:
    target = target_of(source)
    with Life(source, "--fixed-batch", "50") as life:
        life.wait_for("Batch 2/")
        asked = time.monotonic()
        life.send(number)
        assert life.wait() == ExitCode.INTERRUPTED
    assert time.monotonic() - asked < STOPS_WITHIN_S
    assert f"Go on with: {sys.executable} -P -m nimad migrate --source {source} --fixed-batch 50\n" in life.said
    assert "nodes are kept" in life.said
    assert "Traceback" not in life.said
    assert state_of(target)["phase"] == "interrupted"
    assert not target.exists()
    assert not beside(target, ".lock").exists()
    assert life.workers() == []
    if number == signal.SIGINT:
        run_to_the_end(source)
        assert_same(source, target)
        assert_nothing_left(target)


@pytest.mark.long
def test_a_stop_is_told_as_json_too(source: Path) -> None:
    with Life(source, "--fixed-batch", "50", "--json") as life:
        life.wait_for("BatchLoaded")
        life.send(signal.SIGHUP)
        assert life.wait() == ExitCode.INTERRUPTED
    failed = [event for event in events_of(life.said) if event["event"] == "Failed"]
    assert [event["exit_code"] for event in failed] == [ExitCode.INTERRUPTED]
    assert "Go on with" in failed[0]["message"]


@pytest.mark.long
def test_a_stop_while_verifying_publishes_nothing(source: Path) -> None:
    interrupted(source, Verifying)
    assert not target_of(source).exists()
    assert state_of(target_of(source))["phase"] == "interrupted"
    assert migrate(source).all(BatchLoaded)[0].table == "memory_turns"  # nodes and edges are counted and done
    assert_same(source, target_of(source))


# Going on


@pytest.mark.long
def test_a_second_run_loads_no_counted_row_again(halfway: Path) -> None:
    run = migrate(halfway, batch_size=100, fixed_batch=True)
    found = run.only(Started).found["MemoryNode"]
    assert found >= 100
    nodes = [event for event in run.all(BatchLoaded) if event.table == "memory_nodes"]
    assert found + sum(event.rows for event in nodes) == 300
    assert [event.done for event in nodes] == [*range(found + 100, 300, 100), 300]
    assert_same(halfway, run.target)


@pytest.mark.long
def test_what_lies_beside_the_staging_file_may_be_gone_or_torn(halfway: Path) -> None:
    """The target is counted; the state file and the ledger are for people and for telling damage from change."""
    state, ledger = (beside(target_of(halfway), suffix) for suffix in (".state.json", ".migrating.ledger"))
    state.write_text("{ torn")
    ledger.write_bytes(ledger.read_bytes()[:-5])
    interrupted(halfway, BatchLoaded)
    state.unlink()
    ledger.unlink()
    run = migrate(halfway)
    assert run.only(Started).found["MemoryNode"] >= 100
    assert_same(halfway, run.target)


@pytest.mark.long
def test_a_start_offset_on_an_interrupted_run_completes_everything(halfway: Path) -> None:
    said = run_to_the_end(halfway, "--start-offset", "200")
    assert f"Going on with {staging_of(halfway)}: " in said
    assert "Batch 1/1 (100.0% complete" in said
    assert_same(halfway, target_of(halfway))


def test_rows_that_left_or_changed_between_two_runs_are_followed(halfway: Path) -> None:
    change(halfway, "DELETE FROM memory_edges WHERE source_id = 5 OR target_id = 5")
    change(halfway, "UPDATE memory_turns SET input_node_id = NULL WHERE input_node_id = 5")
    change(halfway, "UPDATE memory_turns SET contemplation_node_id = NULL WHERE contemplation_node_id = 5")
    change(halfway, "UPDATE memory_turns SET output_node_id = NULL WHERE output_node_id = 5")
    change(halfway, "DELETE FROM memory_nodes WHERE id = 5")
    change(halfway, "UPDATE memory_nodes SET text = 'rewritten', embedding = NULL WHERE id = 6")
    change(halfway, "INSERT INTO memory_nodes (text, layer) VALUES ('new', 'input')")
    run = migrate(halfway)
    assert run.result.exit_code == ExitCode.COMPLETE
    assert_same(halfway, run.target)


def test_running_again_after_the_end_does_nothing(source: Path) -> None:
    run = migrate(source)
    before = run.target.stat()
    assert migrate(source).result.outcome == "already complete"
    after = run.target.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)
    assert_nothing_left(run.target)


# Another source


@pytest.mark.long
def test_another_source_is_refused_as_often_as_it_is_tried(halfway: Path) -> None:
    other = small_memory(halfway.with_name("other.sqlite"), nodes=50, dimension=8, seed=2)
    target = target_of(halfway)
    for _ in range(2):
        with Life(other, "--target", str(target)) as life:
            assert life.wait() == ExitCode.CANNOT_WRITE, life.said
        assert f"was begun from another source: {other} is not {halfway}: " in life.said
        assert "--restart" in life.said
    assert_same(halfway, migrate(halfway, target=target).target)


@pytest.mark.long
def test_another_memory_in_its_place_is_refused_as_often_as_it_is_tried(halfway: Path) -> None:
    shutil.copy(halfway, halfway.with_name("copy"))
    change(halfway.with_name("copy"), "UPDATE memory_nodes SET text = 'another ' || id")
    halfway.with_name("copy").replace(halfway)
    for _ in range(2):
        with pytest.raises(CannotWriteError, match="are other memories"):
            migrate(halfway)
    assert staging_of(halfway).exists()
    assert not target_of(halfway).exists()
    assert_same(halfway, migrate(halfway, restart=True).target)
    assert_nothing_left(target_of(halfway))


@pytest.mark.long
def test_a_changed_schema_is_refused(halfway: Path) -> None:
    change(halfway, "ALTER TABLE memory_nodes ADD COLUMN mood TEXT DEFAULT 'calm'")
    with Life(halfway) as life:
        assert life.wait() in (ExitCode.CANNOT_WRITE, ExitCode.INTERRUPTED), life.said
    assert "MemoryNode.mood is missing, the source asks for STRING" in life.said
    assert "--restart" in life.said
    assert "Go on with" not in life.said, "the command would be refused again"
    assert not target_of(halfway).exists()
    run_to_the_end(halfway, "--restart")
    assert_same(halfway, target_of(halfway))


# One run at a time


def test_a_second_run_is_kept_out_and_told_by_whom(source: Path) -> None:
    with Life(source, "--fixed-batch", "40") as first:
        first.wait_for("Batch 1/")
        with Life(source) as second:
            assert second.wait() == ExitCode.INTERRUPTED
        assert f"another nimad (PID {first.pid}) is already working on this target" in second.said
        assert first.wait() == ExitCode.COMPLETE, first.said
    assert_same(source, target_of(source))


@pytest.mark.long
def test_a_lock_left_by_a_killed_run_is_no_obstacle(source: Path) -> None:
    with Life(source, "--fixed-batch", "50") as life:
        life.wait_for("Batch 1/")
        life.kill()
    assert beside(target_of(source), ".lock").exists()
    migrate(source)
    assert_nothing_left(target_of(source))


# How much is compared


def test_without_verification_the_counts_still_hold(source: Path) -> None:
    run = migrate(source, verify="none")
    assert [event.level for event in run.all(Verifying)] == ["none"]  # so that the log says that nothing was compared
    assert run.all(Verified) == []
    assert_same(source, run.target)


@pytest.mark.long
def test_counts_find_a_row_too_many(source: Path) -> None:
    interrupted(source, Verifying)
    with opened(staging_of(source)) as ask:
        ask("CREATE (:MemoryNode {id: 999999, text: 'foreign'})")
    with pytest.raises(DifferenceError, match="memory_nodes has 300 rows, of which 301 are in the target"):
        migrate(source, verify="counts")
    assert not target_of(source).exists()


# Compaction


@pytest.fixture(scope="module")
def bloated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory whose file, made in batches of 100, is far larger than it need be; loaded, but not yet compacted."""
    source = tmp_path_factory.mktemp("bloated") / "graph.sqlite"
    write_sample(source, Sample(nodes=1_000, dimension=384, full_text_index=False))
    interrupted(source, TableLoaded, nth=3, batch_size=100, fixed_batch=True)
    return source


@pytest.mark.long
def test_a_bloated_file_is_compacted(bloated: Path, tmp_path: Path) -> None:
    source = copy_of(bloated, tmp_path)
    before = staging_of(source).stat().st_size
    assert before > 16 * 1024**2
    run = migrate(source)
    compacted = run.only(Compacted)
    assert compacted.after * 1.25 < compacted.before
    assert run.target.stat().st_size == compacted.after
    assert_same(source, run.target)
    assert_nothing_left(run.target)


@pytest.mark.long
def test_a_kill_during_compaction_is_survived(bloated: Path, tmp_path: Path) -> None:
    source = copy_of(bloated, tmp_path)
    target = target_of(source)
    copy = beside(target, ".migrating.compact")
    for begun in (lambda: exporting(target), copy.exists):
        with Life(source) as life:
            life.wait_until(begun, "the compaction")
            life.kill()
        assert not target.exists()
    assert "Compacted" in run_to_the_end(source)
    assert_same(source, target)
    assert_nothing_left(target)


@pytest.mark.long
def test_nothing_of_a_killed_compaction_stays_when_no_other_follows(bloated: Path, tmp_path: Path) -> None:
    source = copy_of(bloated, tmp_path)
    target = target_of(source)
    with Life(source) as life:
        life.wait_until(lambda: exporting(target), "the export")
        life.kill()
    for name in ("apply", "intent"):  # a kill while the copy is written leaves these too
        beside(target, f".migrating.compact.checkpoint.{name}.lock").touch()
    said = run_to_the_end(source, "--restart")
    assert "Compacted" not in said
    assert_same(source, target)
    assert_nothing_left(target)


@pytest.mark.long
def test_a_worker_killed_while_compacting_costs_only_the_compaction(bloated: Path, tmp_path: Path) -> None:
    source = copy_of(bloated, tmp_path)
    target = target_of(source)
    with Life(source) as life:
        life.wait_until(lambda: exporting(target), "the export")
        life.kill_worker(0)
        assert life.wait() == ExitCode.COMPLETE, life.said
    assert_same(source, target)
    assert_nothing_left(target)
