"""Counted, not claimed: a batch that a worker reported as loaded, and that is gone, is found missing and done again.

The loss is made for real: between two workers, the staging file is put back to what it was a batch earlier. That is
what a COPY looks like whose checkpoint never reached the disk.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.memories import assert_same, edge, make_memory, node, turn

import nimad
from nimad.errors import StoppedError
from nimad.events.run import BatchLoaded, BatchLost, Event, TableLoaded


def memory(tmp_path: Path) -> Path:
    return make_memory(
        tmp_path / "graph.sqlite",
        nodes=[node(number) for number in range(1, 401)],
        edges=[edge(number, number, number + 1) for number in range(1, 101)],
        turns=[turn(number, number, None, number + 1) for number in range(1, 101)],
    )


def put_back(source: Path, when: Callable[[Event], bool]) -> tuple[list[Event], Callable[[Event], None]]:
    """A listener that undoes the batch at whose event `when` says so, once, after keeping a copy before each."""
    staging = source.with_name("graph.ladybug.migrating")
    earlier = source.with_name("earlier")
    heard: list[Event] = []

    def listen(event: Event) -> None:
        heard.append(event)
        if not isinstance(event, BatchLoaded):
            return
        if when(event):
            shutil.copy(earlier, staging)
        shutil.copy(staging, earlier)

    return heard, listen


def lost(heard: list[Event]) -> list[BatchLost]:
    return [event for event in heard if isinstance(event, BatchLost)]


@pytest.mark.sampled
@pytest.mark.parametrize("verify", ["full", "none"])
def test_a_batch_that_vanished_is_loaded_again(tmp_path: Path, verify: str) -> None:
    source = memory(tmp_path)
    heard, listen = put_back(source, lambda e: isinstance(e, BatchLoaded) and e.number == 3 and "nodes" in e.table)

    settings = nimad.Settings(source=source, batch_size=100, fixed_batch=True, verify=nimad.Verify(verify))
    result = nimad.migrate(settings, listen)

    assert [(event.expected, event.counted) for event in lost(heard)] == [(100, 0)]
    assert result.migrated == 400
    assert result.retries == 1
    assert_same(source, Path(result.target))


def last_lost(source: Path, table: str, batch_size: int) -> list[str]:
    """Migrate with the last batch of a table undone, and return of which tables rows were missed."""
    gone: list[str] = []

    def last_of_its_table(event: Event) -> bool:
        is_last = isinstance(event, BatchLoaded) and event.table == table and event.done == event.of and not gone
        if is_last:
            gone.append(table)
        return is_last

    heard, listen = put_back(source, last_of_its_table)
    settings = nimad.Settings(source=source, batch_size=batch_size, fixed_batch=True, verify=nimad.Verify.NONE)
    result = nimad.migrate(settings, listen)
    assert_same(source, Path(result.target))
    assert result.quarantined == 0
    return [event.table for event in lost(heard)]


@pytest.mark.long
@pytest.mark.sampled
@pytest.mark.parametrize("table", ["memory_nodes", "memory_edges", "memory_turns"])
def test_the_last_batch_of_a_table_is_missed_too(tmp_path: Path, table: str) -> None:
    """So few nodes in a batch that edges and turns need two each, and none go along with the last nodes."""
    source = make_memory(
        tmp_path / "graph.sqlite",
        nodes=[node(number) for number in range(1, 41)],
        edges=[edge(number, 1 + number % 40, 1 + (number + 7) % 40) for number in range(1, 101)],
        turns=[turn(number, 1 + number % 40, None, 1 + (number + 3) % 40) for number in range(1, 101)],
    )
    assert last_lost(source, table, batch_size=5) == [table]


@pytest.mark.long
def test_what_went_along_with_the_last_nodes_is_missed_with_them(tmp_path: Path) -> None:
    assert last_lost(memory(tmp_path), "memory_nodes", batch_size=100) == [
        "memory_nodes",
        "memory_edges",
        "memory_turns",
    ]


@pytest.mark.long
def test_what_goes_along_is_brought_anew_where_the_nodes_before_were_lost(tmp_path: Path) -> None:
    """The third of four batches is gone when the last one comes, so edges find no nodes for some of their ends."""
    source = make_memory(
        tmp_path / "graph.sqlite",
        nodes=[node(number) for number in range(1, 401)],
        edges=[edge(number, number, number + 1) for number in range(201, 301)],
        turns=[turn(number, number, None, number + 1) for number in range(201, 301)],
    )
    heard, listen = put_back(source, lambda e: isinstance(e, BatchLoaded) and e.number == 3 and "nodes" in e.table)
    settings = nimad.Settings(source=source, batch_size=100, fixed_batch=True, verify=nimad.Verify.NONE)
    result = nimad.migrate(settings, listen)
    assert [event.table for event in lost(heard)] == ["memory_nodes"]
    assert [event.rows for event in heard if isinstance(event, BatchLoaded) and "edges" in event.table] == [100]
    assert_same(source, Path(result.target))
    assert result.quarantined == 0


@pytest.mark.long
def test_batches_that_keep_vanishing_end_the_run(tmp_path: Path) -> None:
    """A disk that forgets is not worked around for ever."""
    source = memory(tmp_path)
    staging, empty = source.with_name("graph.ladybug.migrating"), source.with_name("empty")
    heard: list[Event] = []

    def listen(event: Event) -> None:
        heard.append(event)
        if isinstance(event, (BatchLost, BatchLoaded, TableLoaded)):
            shutil.copy(staging, empty) if not empty.exists() else shutil.copy(empty, staging)

    settings = nimad.Settings(source=source, batch_size=50, fixed_batch=True)
    with pytest.raises(StoppedError, match="keep vanishing"):
        nimad.migrate(settings, listen)
    assert not source.with_name("graph.ladybug").exists()
