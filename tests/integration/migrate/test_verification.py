"""Verification sees every kind of damage, names it by table, id and column, and publishes nothing.

What an earlier run left and is damaged now is started over, once; what this very run wrote is not.
"""

import re
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from support.memories import Run, assert_same, change, edge, make_memory, migrate, node, turn, vector
from support.torture import (
    Life,
    assert_nothing_left,
    beside,
    copy_of,
    interrupted,
    left_behind,
    opened,
    run_to_the_end,
    small_memory,
    staging_of,
    state_of,
    target_of,
)

import nimad
from nimad.errors import DifferenceError, ExitCode, RefusedError
from nimad.events.run import BatchLoaded, Event, SetAside, Verified, Verifying, WrittenAgain
from nimad.migration.repair import REBUILDS

DAMAGE_ALL = "MATCH (n:MemoryNode) SET n.text = 'damaged'"
#: Rows that are none of the source's, which nothing mends.
FOREIGN = "UNWIND range(101, 140) AS key CREATE (:MemoryNode {id: key})"


def memory(folder: Path) -> Path:
    return make_memory(
        folder / "graph.sqlite",
        nodes=[node(number, embedding=vector(number, 0.5, -0.0), strength=0.25) for number in range(1, 41)],
        edges=[edge(number, number, number + 1) for number in range(1, 40)],
        turns=[turn(number, number, number + 1, number + 2) for number in range(1, 31)],
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A memory that no run has seen yet."""
    return memory(tmp_path)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = memory(tmp_path_factory.mktemp("loaded"))
    interrupted(source, Verifying)
    return source


@pytest.fixture
def left(tmp_path: Path, loaded: Path) -> Path:
    """A memory whose staging file holds everything, but was not verified yet by the run that left it."""
    return copy_of(loaded, tmp_path)


def damage(source: Path, *statements: str) -> None:
    with opened(staging_of(source)) as ask:
        for statement in statements:
            ask(statement)


def migrate_spoilt(source: Path, spoil: Callable[[], object], events: list[Event] | None = None) -> Run:
    """Run, and have something happen between the last batch and each comparison."""
    heard: list[Event] = [] if events is None else events

    def listen(event: Event) -> None:
        heard.append(event)
        if isinstance(event, Verifying):
            spoil()

    return Run(nimad.migrate(nimad.Settings(source=source), listen), heard)


def assert_refused(source: Path, spoil: Callable[[], object], *named: str) -> None:
    """Verification names these places, each and no other; nothing is published, and nothing started over."""
    events: list[Event] = []
    with pytest.raises(DifferenceError) as caught:
        migrate_spoilt(source, spoil, events)
    assert not any(isinstance(event, SetAside) for event in events)
    assert caught.value.exit_code == ExitCode.DIFFERENCE
    assert "--restart" in str(caught.value)
    found = re.search(r"in (\d+) places \((.*?)\);", str(caught.value))
    assert found, caught.value
    assert set(found[2].split("; ")) == set(named)
    assert found[1] == str(len(named))
    assert not target_of(source).exists()
    assert state_of(target_of(source))["phase"] == "failed"


#: Damage in groups of at most as many places as a message names: statements, and what has to be named.
DAMAGE: Mapping[str, Mapping[str, Sequence[str]]] = {
    "values": {
        "MATCH (n:MemoryNode {id: 1}) SET n.text = 'memory 1 '": ["memory_nodes id 1: text"],
        "MATCH (n:MemoryNode {id: 2}) SET n.summary = ''": ["memory_nodes id 2: summary"],
        "MATCH (n:MemoryNode {id: 3}) SET n.timestamp = n.timestamp + 1": ["memory_nodes id 3: timestamp"],
        "MATCH (n:MemoryNode {id: 4}) SET n.strength = 0.25000000000000006": ["memory_nodes id 4: strength"],
        "MATCH (n:MemoryNode {id: 5}) SET n.is_ghost = true": ["memory_nodes id 5: is_ghost"],
    },
    "values that went": {
        "MATCH (n:MemoryNode {id: 6}) SET n.text = NULL": ["memory_nodes id 6: text"],
        "MATCH (n:MemoryNode {id: 7}) SET n.embedding = NULL": ["memory_nodes id 7: embedding"],
        "MATCH (n:MemoryNode {id: 8}) SET n.embedding = CAST([8, 0.5, 0.0] AS FLOAT[3])": [
            "memory_nodes id 8: embedding"  # one zero has lost its sign
        ],
        "MATCH (t:Turn {id: 3}) SET t.affect_json = '{}'": ["memory_turns id 3: affect_json"],
        "MATCH (t:Turn {id: 4}) SET t.turn_id = NULL": ["memory_turns id 4: turn_id"],
    },
    "edges": {
        "MATCH ()-[r:relates_to {edge_id: 5}]->() SET r.weight = 0.5000000000000001": ["memory_edges id 5: weight"],
        "MATCH ()-[r:relates_to {edge_id: 6}]->() SET r.relation = NULL": ["memory_edges id 6: relation"],
        "MATCH (a:MemoryNode)-[r:relates_to {edge_id: 7}]->(b:MemoryNode) "
        "CREATE (b)-[:relates_to {edge_id: 7, relation: r.relation, "
        "weight: r.weight, created_at: r.created_at}]->(a) DELETE r": [
            "memory_edges id 7: source_id",
            "memory_edges id 7: target_id",
        ],
    },
    "an edge twice": {
        "MATCH (a:MemoryNode)-[r:relates_to {edge_id: 5}]->(b:MemoryNode) "
        "CREATE (a)-[:relates_to {edge_id: 5, relation: r.relation, "
        "weight: r.weight, created_at: r.created_at}]->(b)": ["memory_edges id 5: the row is there more than once"],
    },
    "links": {
        "MATCH (t:Turn {id: 3}), (n:MemoryNode {id: 9}) CREATE (t)-[:has_input]->(n)": ["memory_turns id 3: has_input"],
        "MATCH (t:Turn {id: 4})-[:has_output]->(n:MemoryNode) CREATE (t)-[:has_output]->(n)": [
            "memory_turns id 4: has_output"
        ],
        "MATCH (t:Turn {id: 5})-[r:has_contemplation]->(:MemoryNode), (n:MemoryNode {id: 9}) "
        "CREATE (t)-[:has_contemplation]->(n) DELETE r": ["memory_turns id 5: has_contemplation"],
    },
    "foreign rows": {
        "CREATE (:MemoryNode {id: 41, text: 'foreign'})": ["memory_nodes id 41: not a row of the source"],
        "CREATE (:MemoryNode {id: -1, text: 'foreign'})": ["memory_nodes id -1: not a row of the source"],
        "CREATE (:Turn {id: 31, turn_id: 'foreign'})": ["memory_turns id 31: not a row of the source"],
        "MATCH (a:MemoryNode {id: 1}), (b:MemoryNode {id: 2}) CREATE (a)-[:relates_to {edge_id: 40}]->(b)": [
            "memory_edges id 40: not a row of the source"
        ],
    },
}


#: What is mended by writing it again; the rest contradicts itself.
VALUES = ("values", "values that went", "edges", "links")


@pytest.mark.sampled
@pytest.mark.parametrize("kind", VALUES)
def test_values_that_differ_are_named_and_written_again(source: Path, kind: str) -> None:
    run = migrate_spoilt(source, lambda: damage(source, *DAMAGE[kind]))
    places = {place for places in DAMAGE[kind].values() for place in places}
    again = run.only(WrittenAgain)
    assert (again.values, set(again.examples)) == (len(places), places)
    assert run.result.exit_code == ExitCode.COMPLETE
    assert_same(source, run.target)
    assert_nothing_left(run.target)


@pytest.mark.sampled
@pytest.mark.parametrize("kind", sorted(DAMAGE.keys() - set(VALUES)))
def test_damage_is_named(source: Path, kind: str) -> None:
    assert_refused(
        source, lambda: damage(source, *DAMAGE[kind]), *(place for places in DAMAGE[kind].values() for place in places)
    )


#: `nimad`, but the file named last is damaged between the last batch and the comparison.
DAMAGING = f"""
import sys, ladybug
from nimad.cli import migrate
from nimad.cli.main import main
from nimad.events.run import Verifying

staging = sys.argv.pop()

class Damaging(migrate.PeopleListener):
    def __call__(self, event):
        super().__call__(event)
        if isinstance(event, Verifying):
            with ladybug.Database(staging, buffer_pool_size=1 << 27, max_db_size=1 << 34) as database:
                with ladybug.Connection(database) as connection:
                    connection.execute("{FOREIGN}")

migrate.PeopleListener = Damaging
main()
"""


def test_damage_is_one_line_on_the_console(source: Path) -> None:
    with Life(source, "migrate", "--source", str(source), str(staging_of(source)), script=DAMAGING) as life:
        assert life.wait() == ExitCode.DIFFERENCE, life.said
    assert (
        "memory_nodes id 105: not a row of the source; and 35 more); nothing was published. Begin again with --restart"
        in life.said
    )
    assert "Traceback" not in life.said
    assert "Go on with" not in life.said
    assert run_to_the_end(source, "--restart")
    assert_same(source, target_of(source))
    assert_nothing_left(target_of(source))


def test_an_edge_without_an_id_is_no_row_of_the_source(source: Path) -> None:
    nameless = "MATCH (a:MemoryNode {id: 1}), (b:MemoryNode {id: 2}) CREATE (a)-[:relates_to {weight: 1.0}]->(b)"
    with pytest.raises(DifferenceError, match="memory_edges"):
        migrate_spoilt(source, lambda: damage(source, nameless))
    assert not target_of(source).exists()


def test_a_foreign_row_is_seen_although_the_source_lost_its_last_rows(source: Path) -> None:
    def spoil() -> None:
        damage(source, "CREATE (:MemoryNode {id: 41, text: 'foreign'})")
        change(source, "DELETE FROM memory_edges WHERE id = 39")
        change(source, "DELETE FROM memory_nodes WHERE id = 40")

    assert_refused(source, spoil, "memory_nodes id 41: not a row of the source")


@pytest.mark.long
def test_damage_beside_a_change_is_told_from_it(source: Path) -> None:
    def spoil() -> None:
        damage(source, "MATCH (n:MemoryNode {id: 7}) SET n.text = 'damaged'")
        change(source, "UPDATE memory_nodes SET strength = 0.1 WHERE id = 8")

    run = migrate_spoilt(source, spoil)
    assert run.only(WrittenAgain).examples == ["memory_nodes id 7: text"]
    assert_same(source, run.target)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "statements",
    [
        [
            "MATCH (n:MemoryNode) WHERE n.id = 7 OR n.id > 35 DETACH DELETE n",
            "MATCH ()-[r:relates_to {edge_id: 15}]->() DELETE r",
            "MATCH (t:Turn {id: 3}) DETACH DELETE t",
            "MATCH (:Turn {id: 4})-[r:has_output]->() DELETE r",
        ],
        ["MATCH (n:MemoryNode) DETACH DELETE n"],
        ["MATCH (:Turn)-[r:has_input]->() DELETE r", "DROP TABLE relates_to"],
    ],
    ids=["some", "all nodes", "tables"],
)
def test_rows_that_are_missing_are_loaded_again(left: Path, statements: Sequence[str]) -> None:
    damage(left, *statements)
    run = migrate(left)
    assert run.result.exit_code == ExitCode.COMPLETE
    assert run.only(Verified).compared == {"memory_nodes": 40, "memory_edges": 39, "memory_turns": 30}
    assert run.only(Verified).refreshed == run.only(Verified).removed == 0
    assert_same(left, run.target)
    assert_nothing_left(run.target)


def test_a_row_swapped_for_a_foreign_one_is_both_missing_and_foreign(source: Path) -> None:
    """The count is right, and still a row is missing: verification finds it, not the count."""
    swap = "MATCH (n:MemoryNode {id: 7}) DETACH DELETE n", "CREATE (:MemoryNode {id: 41, text: 'foreign'})"
    with pytest.raises(DifferenceError, match="memory_nodes id 41: not a row of the source"):
        migrate_spoilt(source, lambda: damage(source, *swap))


@pytest.mark.long
def test_without_a_ledger_damage_is_mended_because_nothing_tells_it_from_a_change(left: Path) -> None:
    damage(left, "MATCH (n:MemoryNode {id: 7}) SET n.text = 'damaged'")
    beside(target_of(left), ".migrating.ledger").unlink()
    run = migrate(left)
    assert run.only(Verified).refreshed == 1
    assert_same(left, run.target)
    assert_nothing_left(run.target)


@pytest.mark.long
def test_verification_in_small_chunks_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = small_memory(tmp_path / "graph.sqlite", nodes=60, dimension=4)
    monkeypatch.setattr("nimad.supervisor.plan.CHUNK_ROWS", 7)
    statement = "MATCH (n:MemoryNode {id: 50}) SET n.text = 'damaged'"
    run = migrate_spoilt(source, lambda: damage(source, statement))
    assert run.only(WrittenAgain).examples == ["memory_nodes id 50: text"]
    assert_same(source, run.target)


@pytest.mark.long
@pytest.mark.parametrize("options", [(), pytest.param(("--nodes-only",), marks=pytest.mark.long)])
def test_a_kill_while_rows_are_brought_up_to_date_is_no_damage(tmp_path: Path, options: tuple[str, ...]) -> None:
    """The ledger knows the new rows already, the target not yet: that must not look like damage."""
    source = small_memory(tmp_path / "graph.sqlite", nodes=500, dimension=64)
    target = target_of(source)
    interrupted(source, Verifying, nodes_only=bool(options))
    change(source, "UPDATE memory_nodes SET strength = 0.125, text = text || ' and more'")
    ledger = beside(target, ".migrating.ledger")
    before = ledger.stat().st_size
    with Life(source, *options) as life:
        life.wait_for("Verifying")
        life.wait_until(lambda: ledger.stat().st_size > before, "rows to be noted")
        life.send(signal.SIGKILL)
        life.wait()
    run_to_the_end(source, *options)
    assert_same(source, target, nodes_only=bool(options))
    assert_nothing_left(target)


# Damage to what an earlier run left


def kept(source: Path) -> list[Path]:
    """Unfinished targets that were set aside, under their names with the date."""
    return [source.parent / name for name in left_behind(target_of(source)) if re.search(r"\.\d{8}-\d{6}", name)]


def assert_damaged(path: Path) -> None:
    """The file is the one that `DAMAGE_ALL` was done to, as it was."""
    with opened(path) as ask:
        assert ask("MATCH (n:MemoryNode) WHERE n.text = 'damaged' RETURN count(*)") == [[40]]


@pytest.mark.long
def test_what_an_earlier_run_left_damaged_is_kept_and_begun_anew(left: Path) -> None:
    damage(left, DAMAGE_ALL)
    said = run_to_the_end(left)
    assert_same(left, target_of(left))
    (aside,) = kept(left)
    assert left_behind(target_of(left)) == [aside.name]
    assert_damaged(aside)
    log = left.with_name("migration.log").read_text()
    for text in (log, " ".join(said.split())):
        assert "[WARN] The unfinished target cannot be used (left by an earlier run, it differs from the source" in text
        assert "in 40 places (memory_nodes id 1: text; memory_nodes id 2: text; " in text
        assert "starting over" in text
    assert f"kept as {aside}, starting over" in log


@pytest.mark.long
def test_a_file_that_this_run_only_went_on_with_is_begun_anew_too(source: Path) -> None:
    interrupted(source, BatchLoaded, batch_size=20, fixed_batch=True)
    damage(source, "MATCH (n:MemoryNode {id: 3}) SET n.text = 'damaged'")
    events: list[Event] = []
    run = migrate(source, events=events)
    assert run.result.exit_code == ExitCode.COMPLETE
    assert run.only(SetAside).whole
    assert "(memory_nodes id 3: text)" in run.only(SetAside).message
    kinds = [type(event) for event in run.events]
    assert BatchLoaded in kinds[: kinds.index(Verifying)], "the rest was to be loaded into the old file first"
    assert_same(source, run.target)
    assert [str(path) for path in kept(source)] == run.only(SetAside).files


@pytest.mark.long
def test_a_second_difference_is_written_again(left: Path) -> None:
    run = migrate_spoilt(left, lambda: damage(left, DAMAGE_ALL))
    assert len(run.all(SetAside)) == 1
    assert run.only(WrittenAgain).values == 40
    assert_same(left, run.target)
    (aside,) = kept(left)
    assert_damaged(aside)


def test_what_was_begun_anew_because_it_did_not_open_is_of_this_runs_own_making(left: Path) -> None:
    staging_of(left).write_text("Dear diary,\n" * 1_000)
    events: list[Event] = []
    with pytest.raises(DifferenceError, match=r"differs from the source in 40 places .* Begin again with --restart"):
        migrate_spoilt(left, lambda: damage(left, FOREIGN), events)
    assert sum(isinstance(event, SetAside) for event in events) == 1
    assert not target_of(left).exists()
    assert state_of(target_of(left))["phase"] == "failed"


@pytest.mark.long
def test_damage_in_run_after_run_is_begun_anew_twice_and_no_more(left: Path) -> None:
    """A disk that fails each time is not to be filled with what it spoils."""
    for _ in range(REBUILDS):
        damage(left, DAMAGE_ALL)
        interrupted(left, Verifying, nth=2)  # the first comparison found it; the second is of the new file
    damage(left, DAMAGE_ALL)
    with pytest.raises(RefusedError, match=f"although it was started over {REBUILDS} times") as caught:
        migrate(left)
    assert caught.value.exit_code == ExitCode.INTERRUPTED
    assert "it differs from the source in 40 places" in str(caught.value)
    assert "check the disk (dmesg), then start over with --restart" in str(caught.value)
    assert not target_of(left).exists()
    assert len(kept(left)) == REBUILDS
    for path in (*kept(left), staging_of(left)):
        assert_damaged(path)
    run = migrate(left, restart=True)
    assert_same(left, run.target)
    assert len(kept(left)) == REBUILDS
