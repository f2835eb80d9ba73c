"""Values that take down whoever loads them end in quarantine, and so do rows of which no single value does.

The workers are real, with the real engine; `bad_worker.py` makes them die of rows whose text says how.
"""

import json
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import bad_worker
from support.memories import Hurried, Memory, change, edge, make_memory, migrate, node, read_source, read_target, turn

import nimad
from nimad.cli.main import cli
from nimad.errors import ExitCode, RefusedError, StoppedError
from nimad.events.run import BatchFailed, BatchRecovered, Event, Isolated, Isolating
from nimad.events.sync import LeftAlone
from nimad.migration import batch_retry, bisect
from nimad.report.messages.run_messages import lines
from nimad.source.ranges import Range
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import survey
from nimad.supervisor import timeout, worker_process
from nimad.supervisor.outcome import FailureKind
from nimad.worker.protocol import Job, Task

#: What the quarantine says of each way to die.
REASONS = {
    "segv": "the worker was ended by SIGSEGV",
    "bus": "the worker was ended by SIGBUS",
    "ill": "the worker was ended by SIGILL",
    "fpe": "the worker was ended by SIGFPE",
    "abort": "the worker was ended by SIGABRT",
    "kill": "the worker was ended by SIGKILL",
    "term": "the worker was ended by SIGUSR1",
    "exit": "the worker ended with status 3 and no answer",
    "silent": "the worker ended with status 0 and no answer",
    "half": "the worker ended with status 0 and half an answer",
    "error": "Runtime exception: something nobody has a rule for",
    "conversion": "Conversion exception: Cast failed. This value cannot be.",
    "memory": "MemoryError",
}
LAST = 60


@pytest.fixture(autouse=True)
def bad_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "WORKER", ("-P", bad_worker.__file__))


def memory(tmp_path: Path, poison: dict[int, str]) -> Path:
    """Nodes 1 to 60, some of them poisoned, with edges among the first thirty and turns among the last."""
    return make_memory(
        tmp_path / "graph.sqlite",
        nodes=[node(key, text=f"poison:{poison[key]} {key}" if key in poison else f"memory {key}") for key in ids()],
        edges=[edge(key, key, key + 1) for key in range(1, 30)],
        turns=[turn(key, 30 + key, None, 31 + key) for key in range(1, 29)],
    )


def ids() -> range:
    return range(1, LAST + 1)


def assert_all_but_texts(source: Path, target: Path, poison: set[int]) -> Memory:
    """Fail unless every row is there, and of the poisoned nodes just the text is not."""
    here, there = read_source(source), read_target(target)
    assert {key: row["text"] for key, row in there.nodes.items()} == {
        key: None if key in poison else row["text"] for key, row in here.nodes.items()
    }
    assert {key: row["summary"] for key, row in there.nodes.items()} == {
        key: row["summary"] for key, row in here.nodes.items()
    }
    assert (set(there.edges), set(there.turns)) == (set(here.edges), set(here.turns))
    assert there.links == here.links
    return there


def assert_all_but(source: Path, target: Path, poison: set[int]) -> Memory:
    """Fail unless exactly the poisoned nodes are missing, and of edges and links those that hang on them."""
    here, there = read_source(source), read_target(target)
    assert set(there.nodes) == set(here.nodes) - poison
    assert all(there.nodes[key]["text"] == here.nodes[key]["text"] for key in there.nodes)
    whole = {key for key, row in here.edges.items() if not {row["source_id"], row["target_id"]} & poison}
    assert set(there.edges) == whole
    assert set(there.turns) == set(here.turns)
    for kind, pairs in here.links.items():
        assert there.links[kind] == [pair for pair in pairs if pair[1] not in poison]
    return there


@pytest.mark.long
def test_a_full_set_of_poisons_ends_in_quarantine_and_every_other_row_in_the_target(tmp_path: Path) -> None:
    poison = dict(zip(range(20, LAST), REASONS, strict=False))
    assert len(poison) == len(REASONS)
    source = memory(tmp_path, poison)
    run = migrate(source, clock=Hurried())

    assert_all_but_texts(source, run.target, set(poison))
    isolated = {entry["id"]: entry for entry in run.quarantine if entry["table"] == "memory_nodes"}
    assert {key: entry["reason"] for key, entry in isolated.items()} == {k: REASONS[way] for k, way in poison.items()}
    for key, entry in isolated.items():
        assert entry["part"] == "text"
        assert entry["attempts"] > 4
        assert entry["engine"].startswith("ladybug 0.22")
        assert entry["row"]["text"] == f"poison:{poison[key]} {key}"
    assert {event.id for event in run.all(Isolated)} == set(poison)
    assert run.result.exit_code == ExitCode.QUARANTINED
    assert run.result.migrated == LAST
    assert run.result.failed_batches == 1


def test_a_row_of_which_no_value_is_to_blame_goes_to_quarantine_whole(tmp_path: Path) -> None:
    """Here what kills is the name of its turn, by which a memory is known, so that it does not arrive without."""
    source = memory(tmp_path, {})
    change(source, "UPDATE memory_nodes SET turn_id = 'poison:segv' WHERE id = 40")
    run = migrate(source, clock=Hurried())
    assert_all_but(source, run.target, {40})
    (entry,) = [entry for entry in run.quarantine if entry["table"] == "memory_nodes"]
    assert (entry["id"], entry["part"], entry["reason"]) == (40, "row", REASONS["segv"])
    assert run.result.migrated == LAST - 1


@pytest.mark.long
def test_several_values_of_one_row_are_set_aside_together(tmp_path: Path) -> None:
    source = memory(tmp_path, {40: "segv"})
    change(source, "UPDATE memory_nodes SET who = 'poison:abort' WHERE id = 40")
    run = migrate(source, clock=Hurried())
    there = read_target(run.target).nodes[40]
    assert (there["text"], there["who"], there["layer"]) == (None, None, read_source(source).nodes[40]["layer"])
    assert {entry["part"] for entry in run.quarantine} == {"text", "who"}


@pytest.mark.long
def test_a_row_that_hangs_is_given_its_time_and_then_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeout, "FLOOR_S", 4.0)
    monkeypatch.setattr(timeout, "TRIAL_FLOOR_S", 4.0)
    monkeypatch.setattr(batch_retry, "BATCH_DELAYS_S", (0.0, 1.0))
    monkeypatch.setattr(bisect, "CONFIRM_S", (1.0,))
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1), node(2, text="poison:hang")])
    run = migrate(source, clock=Hurried())
    assert [(entry["id"], entry["reason"]) for entry in run.quarantine] == [
        (2, "the worker did not end within 4 s and was ended")
    ]
    assert {key: row["text"] is None for key, row in read_target(run.target).nodes.items()} == {1: False, 2: True}
    assert "in hang" in run.all(BatchFailed)[0].stack, "where it hung is in the log"


def test_a_worker_that_hangs_and_heeds_no_signal_is_ended_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "ABORT_GRACE_S", 1.0)
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1, text="poison:stubborn")])
    memory = survey(SourceFile(source), nodes_only=False)
    job = Job(
        task=Task.TRIAL_LOAD,
        source=str(source),
        target=str(tmp_path / "trial"),
        schema=memory.schema,
        table="memory_nodes",
        range=Range("memory_nodes", None, 1, 1, 100),
        pool_bytes=64 * 2**20,
        address_space_bytes=2**34,
    )
    with worker_process.WorkerPool(threading.Event()) as workers:
        began = time.monotonic()
        answer = workers.do(job, limit_s=3.0, last=True)
    assert answer.kind is FailureKind.HUNG
    assert 4.0 <= time.monotonic() - began < 30.0


@pytest.mark.long
@pytest.mark.parametrize("table", ["memory_edges", "memory_turns"])
def test_poisoned_edges_and_turns_are_isolated_too(tmp_path: Path, table: str) -> None:
    source = memory(tmp_path, {})
    column = "relation" if table == "memory_edges" else "turn_id"
    change(source, f"UPDATE {table} SET {column} = 'poison:segv' || ' ' || id WHERE id = 11")
    run = migrate(source, clock=Hurried())
    part = "relation" if table == "memory_edges" else "row"
    assert [(entry["table"], entry["id"], entry["part"]) for entry in run.quarantine] == [(table, 11, part)]
    there = read_target(run.target)
    assert (there.edges[11]["relation"] is None) is (table == "memory_edges")
    assert (len(there.edges), 11 in there.turns) == (29, table == "memory_edges")


def test_each_try_is_told_as_the_guide_has_it(tmp_path: Path) -> None:
    clock = Hurried()
    run = migrate(memory(tmp_path, {40: "segv"}), clock=clock)
    said = [text for event in run.events for _, text in lines(event)]
    for number, delay in ((1, 1), (2, 5), (3, 15)):
        assert f"Batch failed (attempt {number}/4): the worker was ended by SIGSEGV. Retrying in {delay}s..." in said
    assert "Batch failed after 4 attempts: the worker was ended by SIGSEGV (at offset 0)" in said
    assert "Looking for what stops this batch among 60 nodes..." in said
    assert clock.waited[:3] == [1.0, 5.0, 15.0]


@pytest.mark.long
def test_a_row_that_was_set_aside_stays_so_after_an_interruption_until_it_changes(tmp_path: Path) -> None:
    source = memory(tmp_path, {40: "segv", 41: "kill"})
    heard: list[Event] = []
    stop = threading.Event()

    def stop_once_isolated(event: Event) -> None:
        heard.append(event)
        if sum(isinstance(each, Isolated) for each in heard) == 2:
            stop.set()

    with pytest.raises(StoppedError):
        nimad.migrate(nimad.Settings(source=source), stop_once_isolated, stop, Hurried())

    change(source, "UPDATE memory_nodes SET text = 'cured' WHERE id = 41")
    run = migrate(source, clock=Hurried())
    assert run.all(Isolating) == [], "nothing is looked for twice"
    assert_all_but_texts(source, run.target, {40})
    assert [entry["id"] for entry in run.quarantine if entry["table"] == "memory_nodes"] == [40]


@pytest.mark.long
def test_a_value_that_was_set_aside_stays_so_while_the_agent_goes_on(tmp_path: Path) -> None:
    source = memory(tmp_path, {40: "segv"})
    target = migrate(source, clock=Hurried()).target
    change(source, "UPDATE memory_edges SET weight = 0.25 WHERE id = 3")
    change(source, "UPDATE memory_nodes SET strength = 0.25 WHERE id = 40")
    again = migrate(source, clock=Hurried())
    assert again.all(LeftAlone) == []
    assert read_target(target).edges[3]["weight"] == 0.25
    assert read_target(target).nodes[40]["text"] is None
    change(source, "UPDATE memory_nodes SET text = 'cured' WHERE id = 40")
    assert migrate(source, clock=Hurried()).quarantine == []
    assert read_target(target).nodes[40]["text"] == "cured"


@pytest.mark.long
def test_a_row_that_turns_to_poison_while_the_run_goes_on_is_taken_out(tmp_path: Path) -> None:
    """It was copied in health; then the agent changed it, and bringing it up to date takes the worker down."""
    source = memory(tmp_path, {})
    heard: list[Event] = []

    def poison_after_loading(event: Event) -> None:
        heard.append(event)
        if type(event).__name__ == "Verifying":
            change(source, "UPDATE memory_edges SET relation = 'poison:abort' WHERE id = 5")

    result = nimad.migrate(nimad.Settings(source=source), poison_after_loading, clock=Hurried())
    assert result.quarantined_ids == {"memory_edges relation": ["5"]}
    assert read_target(Path(result.target)).edges[5]["relation"] is None


@pytest.mark.long
def test_strict_stops_at_a_batch_that_cannot_be_loaded(tmp_path: Path) -> None:
    source = memory(tmp_path, {40: "segv"})
    with pytest.raises(RefusedError, match="stopped by --strict: memory_nodes id 40 takes down every worker"):
        migrate(source, clock=Hurried(), strict=True)
    assert not source.with_name("graph.ladybug").exists()


@pytest.mark.long
def test_when_nothing_can_be_loaded_it_is_the_machine_and_not_every_row(tmp_path: Path) -> None:
    source = memory(tmp_path, dict.fromkeys(ids(), "kill"))
    events: list[Event] = []
    with pytest.raises(StoppedError, match=r"fail at every size .* it is this machine and not a row"):
        migrate(source, clock=Hurried(), events=events)
    assert [event for event in events if isinstance(event, Isolated)] == []


@pytest.mark.long
def test_a_memory_of_one_poisoned_row_is_told_from_a_machine_that_fails(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1, text="poison:segv")])
    run = migrate(source, clock=Hurried())
    assert [entry["id"] for entry in run.quarantine] == [1]
    assert read_target(run.target).nodes[1]["text"] is None


@pytest.mark.long
def test_a_crash_that_was_chance_costs_one_try(tmp_path: Path) -> None:
    """Between the tries the poison is taken out of the row, as if it had never been in it."""
    source = memory(tmp_path, {40: "abort"})
    heard: list[Event] = []

    def cure(event: Event) -> None:
        heard.append(event)
        if isinstance(event, BatchFailed):
            change(source, "UPDATE memory_nodes SET text = 'fine' WHERE id = 40")

    result = nimad.migrate(nimad.Settings(source=source), cure, clock=Hurried())
    assert [event.attempt for event in heard if isinstance(event, BatchRecovered)] == [2]
    assert (result.exit_code, result.retries) == (ExitCode.COMPLETE, 1)


# The command `nimad quarantine`


@pytest.mark.long
def test_the_quarantine_is_listed_shown_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = memory(tmp_path, {40: "segv"})
    target = migrate(source, clock=Hurried()).target
    options = ["--target", str(target)]

    listed = CliRunner().invoke(cli, ["quarantine", "list", *options])
    assert listed.exit_code == 0
    assert "memory_nodes        40  text       the worker was ended by SIGSEGV" in listed.output
    shown = json.loads(CliRunner().invoke(cli, ["quarantine", "show", "40", "--json", *options]).output)
    assert shown["row"]["text"] == "poison:segv 40"

    monkeypatch.setattr(worker_process, "WORKER", ("-P", "-m", "nimad.worker"))  # as after an upgrade of the engine
    again = CliRunner().invoke(cli, ["quarantine", "retry", "--source", str(source), *options])
    assert again.exit_code == 0, again.output
    assert_all_but(source, target, set())
    assert len(list(tmp_path.glob("graph.ladybug.backup-*"))) >= 1
    assert "Nothing is in quarantine" in CliRunner().invoke(cli, ["quarantine", "list", *options]).output
