"""The agent goes on living while its memory is migrated: it adds, updates and deletes rows all the while.

Run as a program, this file is that agent: ``python test_late_writer.py SOURCE SEED HABIT`` writes until it reads
``end`` on stdin, and pauses at ``pause``.
"""

import json
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.arrival import assert_arrived
from support.memories import DEFAULTS, Run, assert_same, edge, make_memory, migrate, node, read_target, turn, vector
from support.torture import assert_all_there, assert_nothing_left, last_ids, small_memory, target_of

import nimad
from nimad.errors import ExitCode
from nimad.events.run import BatchLoaded, Event, LateArrivals, TableLoaded, Verified, Verifying
from nimad.migration import verify

DIMENSION = 16
#: Seconds between two transactions of the agent.
THROTTLE_S = 0.002
#: Seconds that an agent which opens the file anew for each transaction waits for a lock.
OPENING_TIMEOUT_S = 1.0


# The agent


class Agent:
    """Writes as NIMA does, on one connection or on a new one each time.

    One that stays waits for no lock at all: had a reader ever to be waited for, it would fail. One that opens anew
    each time may meet any other program's recovery of the log, so it waits a little, as every program does; and so does
    one that relinks, beside which another one forgets.
    """

    def __init__(self, path: Path, seed: int, habit: str) -> None:
        self._path, self._random = path, random.Random(seed)
        self._opens_each_time, self._relinks = habit == "opening", habit == "relinking"
        self._timeout_s = 0.0 if habit == "staying" else OPENING_TIMEOUT_S
        self._connection: sqlite3.Connection | None = None
        self.done: Counter[str] = Counter()

    def write(self) -> None:
        connection = self._connection or sqlite3.connect(self._path, isolation_level=None, timeout=self._timeout_s)
        self._connection = connection
        deeds: Sequence[Callable[[sqlite3.Connection], None]] = (
            self.remember,
            self.recall,
            self.rewrite,
            self.forget,
            self.link,
        )
        deed = self.relink if self._relinks else self._random.choices(deeds, (4, 6, 3, 1, 2))[0]
        try:
            connection.execute("BEGIN IMMEDIATE")
            deed(connection)
            connection.execute("COMMIT")
            self.done[deed.__name__] += 1
        except sqlite3.OperationalError as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self.done[f"{error}"] += 1
        if self._opens_each_time:
            connection.close()
            self._connection = None

    def remember(self, connection: sqlite3.Connection) -> None:
        """A new turn with three new nodes and two edges between them."""
        name = f"late_{self._random.getrandbits(48):012x}"
        ids = [self._new_node(connection, name, layer) for layer in ("input", "contemplation", "output")]
        for start, end in pairwise(ids):
            connection.execute(
                "INSERT INTO memory_edges (source_id, target_id, relation, weight) VALUES (?, ?, 'triggered', 0.5)",
                (start, end),
            )
        connection.execute(
            "INSERT INTO memory_turns (turn_id, input_node_id, contemplation_node_id, output_node_id, timestamp)"
            " VALUES (?, ?, ?, ?, 1)",
            (name, *ids),
        )

    def _new_node(self, connection: sqlite3.Connection, name: str, layer: str) -> int:
        text = "late memory " * self._random.randrange(1, 200)
        row = connection.execute(
            "INSERT INTO memory_nodes (timestamp, layer, text, turn_id, embedding) VALUES (1, ?, ?, ?, ?) RETURNING id",
            (layer, text, name, self._embedding()),
        ).fetchall()[0]
        return int(row[0])

    def _embedding(self) -> bytes:
        return struct.pack(f"<{DIMENSION}f", *(self._random.random() for _ in range(DIMENSION)))

    def _some(self, connection: sqlite3.Connection, table: str) -> int:
        last = connection.execute(f"SELECT max(id) FROM {table}").fetchall()[0][0]
        query = f"SELECT id FROM {table} WHERE id >= ? ORDER BY id LIMIT 1"
        return int(connection.execute(query, (self._random.randrange(1, last + 1),)).fetchall()[0][0])

    def recall(self, connection: sqlite3.Connection) -> None:
        for _ in range(5):
            connection.execute(
                "UPDATE memory_nodes SET strength = ?, last_accessed = ?, is_ghost = ?, dismissal_count = ?"
                " WHERE id = ?",
                (
                    self._random.random(),
                    self._random.getrandbits(40),
                    self._random.randrange(2),
                    self._random.randrange(9),
                    self._some(connection, "memory_nodes"),
                ),
            )

    def rewrite(self, connection: sqlite3.Connection) -> None:
        text = self._random.choice(["", None, "rewritten 🖊 ", "x" * 20_000])
        embedding = self._random.choice([None, self._embedding()])
        connection.execute(
            "UPDATE memory_nodes SET text = ?, embedding = ? WHERE id = ?",
            (text, embedding, self._some(connection, "memory_nodes")),
        )
        connection.execute(
            "UPDATE memory_edges SET weight = ?, relation = ? WHERE id = ?",
            (self._random.random(), self._random.choice(["", None, "became"]), self._some(connection, "memory_edges")),
        )
        connection.execute(
            "UPDATE memory_turns SET affect_json = ? WHERE id = ?",
            (self._random.choice([None, "{}"]), self._some(connection, "memory_turns")),
        )

    def forget(self, connection: sqlite3.Connection) -> None:
        """A node goes with all that hangs on it."""
        gone = self._some(connection, "memory_nodes")
        connection.execute("DELETE FROM memory_edges WHERE source_id = ? OR target_id = ?", (gone, gone))
        for end in ("input_node_id", "contemplation_node_id", "output_node_id"):
            connection.execute(f"UPDATE memory_turns SET {end} = NULL WHERE {end} = ?", (gone,))
        connection.execute("DELETE FROM memory_nodes WHERE id = ?", (gone,))

    def link(self, connection: sqlite3.Connection) -> None:
        """Other ends for an edge and a turn, among memories that are old enough to be migrated."""
        old = connection.execute("SELECT id FROM memory_nodes ORDER BY id LIMIT 100").fetchall()
        one, other = (self._random.choice(old)[0] for _ in range(2))
        connection.execute(
            "UPDATE memory_edges SET source_id = ?, target_id = ? WHERE id = ?",
            (one, other, self._some(connection, "memory_edges")),
        )
        connection.execute(
            "UPDATE memory_turns SET output_node_id = ? WHERE id = ?", (one, self._some(connection, "memory_turns"))
        )

    def relink(self, connection: sqlite3.Connection) -> None:
        """Draw a link of about half of the turns, and take away that of the others."""
        connection.execute("UPDATE memory_turns SET output_node_id = iif(random() % 2, 3, NULL)")


def live(path: Path, seed: int, habit: str) -> None:
    """Write until told to end; say what was done."""
    agent = Agent(path, seed, habit)
    writing, ended = threading.Event(), threading.Event()
    pausing = threading.Lock()
    writing.set()

    def listen() -> None:
        for line in sys.stdin:
            if line.strip() == "pause":
                writing.clear()
                with pausing:  # the transaction that is under way is over
                    print("paused", flush=True)
            else:
                break
        ended.set()
        writing.set()

    threading.Thread(target=listen, daemon=True).start()
    print("writing", flush=True)
    while not ended.is_set():
        writing.wait()
        with pausing:
            if writing.is_set() and not ended.is_set():
                agent.write()
        time.sleep(THROTTLE_S)
    print(json.dumps(agent.done), flush=True)


# The tests' side of it


@dataclass
class Writer:
    """The agent as a process."""

    process: "subprocess.Popen[str]"

    def pause(self) -> None:
        self._say("pause")
        assert self._hear() == "paused"

    def end(self) -> dict[str, int]:
        self._say("end")
        done: dict[str, int] = json.loads(self._hear())
        self.process.wait()
        return done

    def _say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def _hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def writing(source: Path, habit: str) -> Iterator[Writer]:
    command = [sys.executable, __file__, str(source), "7", habit]
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}  # `support`, which pytest finds by itself
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | path
    ) as process:
        writer = Writer(process)
        try:
            assert writer._hear() == "writing"
            yield writer
        finally:
            process.kill()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return small_memory(tmp_path / "graph.sqlite", nodes=400, dimension=DIMENSION)


def assert_never_in_its_way(done: dict[str, int]) -> None:
    assert set(done) == {"remember", "recall", "rewrite", "forget", "link"}, done


@pytest.mark.sampled
@pytest.mark.parametrize("habit", ["staying", "opening"])
def test_everything_an_agent_did_before_verification_arrives(source: Path, habit: str) -> None:
    bounds = {}
    heard: list[Event] = []
    with writing(source, habit) as writer:

        def listen(event: Event) -> None:
            heard.append(event)
            if type(event).__name__ == "Analyzed":
                bounds.update(last_ids(source))  # a little later than the run's own: rows between are late arrivals
            if isinstance(event, Verifying):
                writer.pause()

        result = nimad.migrate(nimad.Settings(source=source, batch_size=80, fixed_batch=True), listen)
        done = writer.end()
    assert_never_in_its_way(done)
    run = Run(result, heard)
    assert result.exit_code == ExitCode.COMPLETE, run.quarantine[:3]
    assert sum(done.values()) > 50, "the agent was too lazy to prove anything"
    assert run.all(Verified)[0].refreshed > 0
    assert run.all(LateArrivals)[0].rows > 0
    assert_all_there(source, run.target, bounds_of(run))
    assert_nothing_left(run.target)


def bounds_of(run: Run) -> dict[str, int]:
    """The highest ids of the target: nothing may be missing below, and nothing is there from above the run's bound."""
    there = read_target(run.target)
    tables = {"memory_nodes": there.nodes, "memory_edges": there.edges, "memory_turns": there.turns}
    return {table: max(rows) for table, rows in tables.items()}


#: Keeps every state that a node has ever been in.
HISTORY = (
    "CREATE TABLE history AS SELECT * FROM memory_nodes WHERE 0",
    "CREATE TRIGGER updated BEFORE UPDATE ON memory_nodes BEGIN "
    "INSERT INTO history SELECT * FROM memory_nodes WHERE id = OLD.id; END",
    "CREATE TRIGGER deleted BEFORE DELETE ON memory_nodes BEGIN "
    "INSERT INTO history SELECT * FROM memory_nodes WHERE id = OLD.id; END",
)


@pytest.mark.long
def test_an_agent_that_never_pauses_is_migrated_as_it_was_at_some_moment(source: Path) -> None:
    with closing(sqlite3.connect(source)) as connection:
        for statement in HISTORY:
            connection.execute(statement)
        connection.commit()
    first = {"memory_nodes": set(nodes_of(source))}
    with writing(source, "staying") as writer:
        run = migrate(source, batch_size=100)
        assert_never_in_its_way(writer.end())
    there = read_target(run.target).nodes
    now, states = nodes_of(source), history_of(source)
    for node_id in first["memory_nodes"] - set(there):
        assert node_id not in now, f"node {node_id} is lost"
    for node_id, row in there.items():
        got = {name: row[name] for name in ("text", "strength", "last_accessed", "is_ghost", "embedding")}
        assert got in [now.get(node_id), *states.get(node_id, [])], f"node {node_id} never was like that: {got}"


@pytest.mark.long
def test_turns_whose_links_go_on_changing_do_not_hold_a_run_up_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each look about half of them lack a link that SQLite has by then, and a node is gone, so all is looked at.

    A node goes with each look and not with time: of a slow run, which waits for a processor, a tenth of them would be
    gone, and that no run passes over.
    """
    nodes, turns = range(1, 3_001), range(1, 41)
    source = make_memory(
        tmp_path / "graph.sqlite",
        nodes=[node(number) for number in nodes],
        turns=[turn(number, 1, 2, None) for number in turns],
    )
    look = verify._ask

    def forget_and_look(*told: Any) -> dict[str, Any]:
        with agent(source) as connection:
            connection.execute("DELETE FROM memory_nodes WHERE id = (SELECT max(id) FROM memory_nodes)")
        return look(*told)

    monkeypatch.setattr(verify, "_ask", forget_and_look)
    with writing(source, "relinking") as writer:
        run = migrate(source)
        assert set(writer.end()) == {"relink"}
    verified = run.only(Verified)
    assert verified.refreshed > len(turns)
    assert verified.removed > 1
    assert run.result.exit_code == ExitCode.COMPLETE
    there = read_target(run.target)
    assert sorted(there.turns) == list(turns)
    assert len(there.links["has_input"]) == len(turns)
    assert {node_id for _, node_id in there.links["has_output"]} == {3}


COLUMNS = "id, text, strength, last_accessed, is_ghost, embedding"


def nodes_of(source: Path) -> dict[int, dict[str, Any]]:
    return {key: rows[0] for key, rows in _states(source, "memory_nodes").items()}


def history_of(source: Path) -> dict[int, list[dict[str, Any]]]:
    return _states(source, "history")


def _states(source: Path, table: str) -> dict[int, list[dict[str, Any]]]:
    """What rows were, as the target has them: with the agent's defaults for NULL."""
    states: dict[int, list[dict[str, Any]]] = {}
    with closing(sqlite3.connect(source)) as connection:
        for key, text, strength, accessed, ghost, embedding in connection.execute(f"SELECT {COLUMNS} FROM {table}"):
            row = {"text": text, "strength": strength, "last_accessed": accessed, "embedding": embedding}
            row["is_ghost"] = None if ghost is None else bool(ghost)
            filled = {name: DEFAULTS.get(name) if value is None else value for name, value in row.items()}
            states.setdefault(key, []).append(filled)
    return states


# One change at a time


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Twelve nodes in a chain of edges, and four turns; node 6 is missing, so edges and a turn dangle when told to."""
    ids = [number for number in range(1, 14) if number != 6]
    return make_memory(
        tmp_path / "graph.sqlite",
        nodes=[node(number, embedding=vector(number, 0.5), strength=1.0) for number in ids],
        edges=[edge(number, ids[number - 1], ids[number]) for number in range(1, 12)],
        turns=[turn(1, 1, 2, 3), turn(2, 4, 5), turn(3, 7, 8, 9), turn(4, None, 10)],
    )


@contextmanager
def agent(source: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        yield connection


def changed_while_running(
    source: Path, at: type[Event], *statements: str, values: Sequence[Any] = (), **settings: Any
) -> Run:
    """A run during which the agent says some SQL, at the first event of a kind."""
    heard: list[Event] = []

    def listen(event: Event) -> None:
        if isinstance(event, at) and not any(isinstance(each, at) for each in heard):
            with agent(source) as connection:
                for statement in statements:
                    connection.execute(statement, values if "?" in statement else ())
        heard.append(event)

    return Run(nimad.migrate(nimad.Settings(source=source, **settings), listen), heard)


def refreshed(run: Run) -> tuple[int, int]:
    verified = run.only(Verified)
    return verified.refreshed, verified.removed


@pytest.mark.long
def test_a_recall_of_every_memory_is_brought_up_to_date(tmp_path: Path) -> None:
    source = small_memory(tmp_path / "graph.sqlite", nodes=700, dimension=32)
    run = changed_while_running(
        source, Verifying, "UPDATE memory_nodes SET strength = strength * 0.99, last_accessed = 77, is_ghost = 1"
    )
    assert run.all(Verified)[0].refreshed == 700
    assert_same(source, run.target)


def test_rows_that_changed_are_brought_up_to_date(small: Path) -> None:
    run = changed_while_running(
        small,
        Verifying,
        "UPDATE memory_nodes SET text = 'other' || char(0) || ' 🖊', embedding = ?, themes = '[]' WHERE id = 3",
        "UPDATE memory_nodes SET text = NULL, embedding = NULL, timestamp = NULL, is_ghost = NULL WHERE id = 4",
        "UPDATE memory_edges SET source_id = 13, weight = 0.75, relation = NULL WHERE id = 2",
        "UPDATE memory_edges SET target_id = 13 WHERE id = 3",
        "UPDATE memory_turns SET input_node_id = 11, output_node_id = NULL WHERE id = 1",
        "UPDATE memory_turns SET output_node_id = 12, affect_json = '{}' WHERE id = 4",
        values=[vector(9.5, -0.0)],
    )
    assert refreshed(run) == (6, 0)
    assert run.result.exit_code == ExitCode.COMPLETE
    assert_same(small, run.target)


@pytest.mark.long
def test_rows_that_were_deleted_are_taken_out(small: Path) -> None:
    run = changed_while_running(
        small,
        Verifying,
        "DELETE FROM memory_nodes WHERE id = 13",
        "DELETE FROM memory_edges WHERE id = 11 OR id = 1",
        "DELETE FROM memory_turns WHERE id = 4",
    )
    assert refreshed(run) == (0, 4)
    assert run.result.exit_code == ExitCode.COMPLETE
    assert run.result.total_nodes == run.result.migrated == 11
    assert_same(small, run.target)


def test_a_deleted_node_whose_edges_and_links_stay_is_accounted_for(small: Path) -> None:
    run = changed_while_running(small, Verifying, "DELETE FROM memory_nodes WHERE id = 3")
    assert run.result.exit_code == ExitCode.QUARANTINED
    told = {(entry["table"], entry["id"], entry["part"]) for entry in run.quarantine}
    assert told == {("memory_edges", 2, "row"), ("memory_edges", 3, "row"), ("memory_turns", 1, "has_output")}
    assert_all_there(small, run.target)


@pytest.mark.long
def test_rows_inserted_below_the_bound_are_loaded(small: Path) -> None:
    run = changed_while_running(
        small,
        Verifying,
        "INSERT INTO memory_nodes (id, text, layer) VALUES (6, 'late', 'input'), (0, 'zero', 'input')",
        "INSERT INTO memory_nodes (id, text, layer) VALUES (-7, 'below', 'input')",
        "INSERT INTO memory_edges (id, source_id, target_id, weight) VALUES (-1, 6, -7, 1.0)",
        "INSERT INTO memory_turns (id, turn_id, input_node_id) VALUES (0, 'new', 6)",
    )
    assert run.result.exit_code == ExitCode.COMPLETE
    assert_same(small, run.target)


@pytest.mark.long
def test_a_node_that_edges_and_turns_waited_for_is_loaded_with_them(small: Path) -> None:
    """Node 6 comes late, node 2 is corrected; until then what hangs on them dangles. So does a corrected edge."""
    with agent(small) as connection:
        connection.execute("UPDATE memory_edges SET target_id = 6 WHERE id = 5")
        connection.execute("UPDATE memory_turns SET output_node_id = 6 WHERE id = 2")
        connection.execute("UPDATE memory_nodes SET text = CAST(x'ff' AS TEXT) WHERE id = 2")
        connection.execute("UPDATE memory_edges SET weight = 'heavy' WHERE id = 8")
    run = changed_while_running(
        small,
        Verifying,
        "INSERT INTO memory_nodes (id, text, layer) VALUES (6, 'late', 'input')",
        "UPDATE memory_nodes SET text = 'corrected' WHERE id = 2",
        "UPDATE memory_edges SET weight = 1.5 WHERE id = 8",
    )
    assert run.result.exit_code == ExitCode.COMPLETE, run.quarantine
    assert run.quarantine == []
    assert_same(small, run.target)


def test_values_that_became_unrepresentable_go_to_quarantine_alone(small: Path) -> None:
    run = changed_while_running(
        small,
        Verifying,
        "UPDATE memory_nodes SET text = CAST(x'ff' AS TEXT) WHERE id = 13",
        "UPDATE memory_nodes SET embedding = x'0102' WHERE id = 12",
        "UPDATE memory_edges SET weight = 'heavy' WHERE id = 3",
        "UPDATE memory_turns SET timestamp = 'noon' WHERE id = 4",
    )
    assert run.result.exit_code == ExitCode.QUARANTINED
    told = {(entry["table"], entry["id"], entry["part"]) for entry in run.quarantine}
    assert told == {
        ("memory_nodes", 13, "text"),
        ("memory_nodes", 12, "embedding"),
        ("memory_edges", 3, "weight"),
        ("memory_turns", 4, "timestamp"),
    }
    there = assert_arrived(small, run.target)
    assert (there.nodes[13]["text"], there.nodes[12]["embedding"]) == ("\ufffd", None)
    assert (there.edges[3]["weight"], there.turns[4]["timestamp"]) == (None, None)


def test_changes_between_two_batches_arrive(small: Path) -> None:
    run = changed_while_running(
        small,
        BatchLoaded,
        "UPDATE memory_nodes SET text = 'loaded before' WHERE id = 1",
        "UPDATE memory_nodes SET text = 'loaded after' WHERE id = 13",
        "DELETE FROM memory_edges WHERE id IN (1, 11)",
        "INSERT INTO memory_nodes (id, text, layer) VALUES (0, 'below', 'input'), (6, 'between', 'input')",
        "INSERT INTO memory_edges (id, source_id, target_id) VALUES (0, 0, 6)",
        batch_size=4,
        fixed_batch=True,
    )
    assert run.result.exit_code == ExitCode.COMPLETE
    assert_same(small, run.target)


def test_rows_above_the_bound_are_late_arrivals(small: Path) -> None:
    """Turn 2 is old, its answer is late: the link cannot be drawn, and that is not passed over in silence."""
    bounds = last_ids(small)
    run = changed_while_running(
        small,
        BatchLoaded,
        "INSERT INTO memory_nodes (id, text, layer) VALUES (20, 'late', 'input'), (21, 'answer', 'output')",
        "INSERT INTO memory_edges (source_id, target_id) VALUES (20, 21)",
        "UPDATE memory_turns SET output_node_id = 21 WHERE id = 2",
    )
    assert run.only(LateArrivals).rows == 2
    assert [(entry["id"], entry["part"]) for entry in run.quarantine] == [(2, "has_output")]
    assert run.result.exit_code == ExitCode.QUARANTINED
    assert_all_there(small, run.target, bounds)


def test_counts_allow_for_every_moment_of_the_run(small: Path) -> None:
    """One row leaves before it is loaded and another after: the target's count is neither the first nor the last."""
    heard: list[Event] = []

    def listen(event: Event) -> None:
        heard.append(event)
        with agent(small) as connection:
            if isinstance(event, BatchLoaded) and len([e for e in heard if isinstance(e, BatchLoaded)]) == 1:
                connection.execute("DELETE FROM memory_edges WHERE source_id = 13 OR target_id = 13")
                connection.execute("DELETE FROM memory_nodes WHERE id = 13")
            if isinstance(event, TableLoaded) and event.table == "memory_nodes":
                connection.execute("DELETE FROM memory_nodes WHERE id = 1")

    settings = nimad.Settings(source=small, batch_size=4, fixed_batch=True, verify="counts")  # type: ignore[arg-type]
    result = nimad.migrate(settings, listen)
    assert result.migrated == 11


def test_a_source_that_is_swapped_for_another_during_the_run_is_noticed(small: Path, tmp_path: Path) -> None:
    other = small_memory(tmp_path / "other.sqlite", nodes=40, dimension=2, seed=3)

    def listen(event: Event) -> None:
        if isinstance(event, Verifying):
            shutil.copy(other, tmp_path / "swap")
            (tmp_path / "swap").replace(small)

    with pytest.raises(nimad.NimadError, match="replaced"):
        nimad.migrate(nimad.Settings(source=small), listen)
    assert not target_of(small).exists()


if __name__ == "__main__":
    live(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
