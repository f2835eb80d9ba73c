"""What never comes back as it was written is set aside by value or row, and the rest is published."""

from pathlib import Path

import pytest
from support import forgetful_worker
from support.arrival import parts
from support.commands import nimad
from support.memories import assert_same, edge, make_memory, migrate, node, read_target, turn
from support.torture import target_of

from nimad.errors import ExitCode, RefusedError
from nimad.events.run import Refused, WrittenAgain
from nimad.supervisor import worker_process

REASON = "it comes back as another value, each time that it is written"


@pytest.fixture(autouse=True)
def forgetful_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "WORKER", ("-P", forgetful_worker.__file__))


def test_a_value_that_comes_back_otherwise_once_is_written_again(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1), node(2, text=f"forget once: {tmp_path}/once")])
    run = migrate(source)
    again = run.only(WrittenAgain)
    assert (again.values, again.examples) == (1, ["memory_nodes id 2: text"])
    assert_same(source, run.target)
    assert run.result.exit_code == ExitCode.COMPLETE


@pytest.mark.long
def test_a_value_that_never_comes_back_is_set_aside_alone(tmp_path: Path) -> None:
    source = make_memory(
        tmp_path / "graph.sqlite",
        nodes=[node(1), node(2, text="forget: me"), node(3, summary="forget: this", who="Ada")],
        edges=[edge(1, 1, 2), edge(2, 2, 3, relation="forget: that")],
        turns=[turn(1, 2, 3, affect_json="forget: it")],
    )
    run = migrate(source)
    expected = {
        ("memory_nodes", 2, "text"),
        ("memory_nodes", 3, "summary"),
        ("memory_edges", 2, "relation"),
        ("memory_turns", 1, "affect_json"),
    }
    assert parts(run.target) == {place: f"{place[2]}: {REASON}" for place in expected}
    assert {(event.table, event.id, event.part) for event in run.all(Refused)} == expected
    there = read_target(run.target)
    assert (there.nodes[2]["text"], there.nodes[3]["summary"], there.nodes[3]["who"]) == (None, None, "Ada")
    assert (sorted(there.edges), there.links["has_input"]) == ([1, 2], [(1, 2)])
    assert run.result.exit_code == ExitCode.QUARANTINED
    (entry,) = (entry for entry in run.quarantine if entry["id"] == 3)
    assert (entry["attempts"], entry["row"]["summary"]) == (2, "forget: this")
    assert nimad(tmp_path, "verify", "--source", source).code == ExitCode.QUARANTINED, "and no difference"


@pytest.mark.long
def test_a_row_that_never_comes_back_is_set_aside_whole(tmp_path: Path) -> None:
    source = make_memory(
        tmp_path / "graph.sqlite",
        nodes=[node(1), node(2, timestamp=forgetful_worker.FORGOTTEN), node(3)],
        edges=[edge(1, 1, 2), edge(2, 1, 3)],
    )
    run = migrate(source)
    there = read_target(run.target)
    assert (sorted(there.nodes), sorted(there.edges)) == ([1, 3], [2])
    assert ("memory_nodes", 2, "row") in parts(run.target)
    assert ("memory_edges", 1, "row") in parts(run.target)
    assert run.result.exit_code == ExitCode.QUARANTINED


@pytest.mark.long
def test_strict_stops_at_it(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1), node(2, text="forget: me")])
    with pytest.raises(RefusedError, match=r"stopped by --strict: memory_nodes id 2: text: it comes back as another"):
        migrate(source, strict=True)
    assert not target_of(source).exists()
