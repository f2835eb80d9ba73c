"""The record of a target's runs: what each did, batch by batch, whatever ends it and whatever is done to the file."""

import stat
import threading
from pathlib import Path

import pytest
from support.memories import edge, make_memory, migrate, node, turn

import nimad
from nimad.errors import ExitCode, StoppedError, UsageError
from nimad.events import run as e
from nimad.state import run_history
from nimad.state.paths import Files
from nimad.state.run_history import RunHistory
from nimad.state.run_history_reader import Migration, choose_migration, read_history

NODES = 40
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0"


def memory(folder: Path, nodes: int = NODES) -> Path:
    return make_memory(
        folder / "graph.sqlite",
        nodes=[node(number, text=f"telescope number {number}", layer="output") for number in range(1, nodes + 1)],
        edges=[edge(1, 1, 2)],
        turns=[turn(1, 1)],
    )


def runs_of(source: Path) -> Path:
    return Files(source.with_name("graph.ladybug")).runs


def only(source: Path) -> Migration:
    (found,) = read_history(runs_of(source))
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory that a run was stopped in after its second batch, and that another one went on with."""
    source = memory(tmp_path_factory.mktemp("record"))
    stop = threading.Event()

    def listen(event: e.Event) -> None:
        if isinstance(event, e.BatchLoaded) and event.number == 2:
            stop.set()

    settings = nimad.Settings(source=source, batch_size=10, fixed_batch=True)
    with pytest.raises(StoppedError):
        nimad.migrate(settings, listen, stop)
    nimad.migrate(settings)
    return source


@pytest.mark.long
def test_a_run_that_goes_on_has_a_section_of_its_own(source: Path) -> None:
    migration = only(source)
    first, second = migration.sections
    assert [(batch.table, batch.offset, batch.rows) for batch in first.batches] == [
        ("memory_nodes", 0, 10),
        ("memory_nodes", 10, 10),
    ]
    assert [batch.offset for batch in second.batches if batch.table == "memory_nodes"] == [20, 30]
    assert first.end is not None
    assert (first.end["outcome"], first.end["exit_code"]) == ("interrupted", ExitCode.INTERRUPTED)
    assert "20 of 40 nodes are kept" in first.end["message"]
    assert (second.head["goes_on"], migration.is_published) == (True, True)
    assert first.run != second.run == migration.run


def test_a_batch_has_its_size_its_time_its_tries_and_its_memory(source: Path) -> None:
    plan = only(source).last("Planned")["plan"]
    for batch in only(source).sections[0].batches:
        assert batch.bytes > batch.rows
        assert (batch.attempts, batch.batches, batch.of) == (1, 1, NODES)
        assert 0 < batch.seconds <= batch.at_s
        assert batch.rate == batch.rows / batch.seconds
        assert 20 * 2**20 < batch.peak_rss < plan["worker_bytes"] < plan["memory_available"]


def test_the_end_has_what_the_run_came_to(source: Path) -> None:
    result = only(source).last("Finished")["result"]
    assert (result["migrated"], result["edges"], result["turns"]) == (NODES, 1, 1)
    assert result["phases_s"].keys() >= {"verifying", "publishing"}
    assert result["peaks"]["verifying"] > 20 * 2**20
    assert only(source).last("Verified")["compared"]["memory_nodes"] == NODES


def test_it_is_for_the_owner_alone_and_holds_no_text_of_a_memory(source: Path) -> None:
    path = runs_of(source)
    assert stat.filemode(path.stat().st_mode) == "-rw-------"
    assert b"telescope" not in path.read_bytes()


@pytest.mark.long
def test_a_new_target_begins_a_migration_of_its_own_and_one_is_chosen_by_its_name(tmp_path: Path) -> None:
    source = memory(tmp_path, nodes=3)
    migrate(source)
    migrate(source, replace=True)
    migrate(source)  # nothing to do, nothing to tell
    path = runs_of(source)
    found = read_history(path)
    assert len(found) == 2
    assert choose_migration(found, None, path) == found[1]
    assert choose_migration(found, found[0].run[:10], path) == found[0]
    with pytest.raises(UsageError, match=f"no run 'zz'; it has {found[0].run[:8]}, {found[1].run[:8]}$"):
        choose_migration(found, "zz", path)
    with pytest.raises(UsageError, match=r"2 runs in .* begin with ''"):
        choose_migration(found, "", path)


def test_a_dry_run_leaves_none(tmp_path: Path) -> None:
    source = memory(tmp_path, nodes=3)
    migrate(source, dry_run=True)
    assert not runs_of(source).exists()


def test_what_somebody_wrote_into_it_is_passed_over(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    deep = b"[" * 100_000 + b"]" * 100_000
    strange = [
        b"\x00\xff\n",
        b"[]\n7\nnull\n",
        deep + b"\n",
        b'{"begins": 7, "format": 1, "at": 1}\n{"event": "Batch"}\n',
        b'{"begins": "x", "format": 99, "at": 1}\n{"event": "Finished"}\n',
        b'{"begins": "x", "format": 1, "at": "soon"}\n',
    ]
    odd = b'{"t": "late", "event": "Batch", "table": "memory_nodes", "rows": -1}\n{"t": 1e999, "event": ["x"]}\n'
    path.write_bytes(b"".join(strange) + runs_of(source).read_bytes() + odd + b'{"t": 3, "event": "Bat')
    (found,) = read_history(path)
    assert [len(section.batches) for section in found.sections] == [len(s.batches) for s in only(source).sections]


def test_a_torn_line_costs_the_next_run_nothing(tmp_path: Path) -> None:
    source = memory(tmp_path, nodes=3)
    runs_of(source).write_bytes(b'{"begins": "torn", "format": 1, "at": 1}\n{"t": 1, "event": "Star')
    migrate(source)
    torn, whole = read_history(runs_of(source))
    assert (torn.run, torn.sections[0].lines, whole.is_published) == ("torn", [], True)


@pytest.mark.parametrize("runs", ["/dev/full", "/nowhere/graph.ladybug.runs.jsonl"])
def test_a_record_that_cannot_be_written_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: str
) -> None:
    monkeypatch.setattr(Files, "runs", Path(runs))
    heard: list[e.Event] = []
    settings = nimad.Settings(source=tmp_path / "graph.sqlite")
    with RunHistory(settings, Files(tmp_path / "graph.ladybug"), heard.append) as written:
        for event in (e.Analyzing("x"), e.Started("log", "staging", {}, 0), loaded(1, 1, 1), e.Published("x", 1, None)):
            written.hear(event)
    assert [type(event) for event in heard] == [e.Analyzing, e.Started, e.BatchLoaded, e.Published]


def told(tmp_path: Path, events: list[e.Event]) -> Path:
    """The record of a run that said this."""
    files = Files(tmp_path / "graph.ladybug")
    with RunHistory(nimad.Settings(source=tmp_path / "graph.sqlite"), files, lambda _: None) as written:
        for event in (e.Analyzing("x", "r" * 32), e.Started("log", "staging", {}, 0), *events):
            written.hear(event)
    return files.runs


def loaded(number: int, rows: int, of: int) -> e.BatchLoaded:
    return e.BatchLoaded("memory_nodes", number, 1, rows, number * rows, of, 0.0, 0.5, 100, 1_000 * number)


def test_many_small_batches_share_lines_and_nothing_is_left_out(tmp_path: Path) -> None:
    failed = e.BatchFailed(1, 4, "x" * 5_000, 1.0, 0)
    batches = [loaded(number, 1, 10_000) for number in range(1, 10_001)]
    ((section,),) = [
        found.sections for found in read_history(told(tmp_path, [*batches[:5_000], failed, *batches[5_000:]]))
    ]
    assert len(section.batches) <= 2 * run_history.LINES_PER_TABLE
    assert sum(batch.rows for batch in section.batches) == sum(batch.batches for batch in section.batches) == 10_000
    assert [batch.offset for batch in section.batches if batch.attempts == 2] == [5_000]
    assert section.batches[-1].peak_rss == 10_000_000
    assert len(section.all("BatchFailed")[0]["message"]) == run_history.TEXT_CHARS


def test_neither_a_section_nor_the_file_grows_without_end(tmp_path: Path) -> None:
    failures = [e.BatchFailed(1, 4, "x" * 300, 1.0, number) for number in range(3_000)]
    for _ in range(6):
        path = told(tmp_path, [*failures, e.Published("target", 1, None)])
    assert path.stat().st_size < run_history.LARGEST_BYTES + run_history.SECTION_BYTES + 10_000
    found = read_history(path)
    assert 1 < len(found) < 6
    assert all(each.is_published for each in found)


def test_tries_stand_with_the_batch_that_took_them(tmp_path: Path) -> None:
    failed = e.BatchFailed(1, 4, "gone", 0.0, 0)
    (found,) = read_history(told(tmp_path, [loaded(1, 3, 9), failed, failed, loaded(2, 3, 9), loaded(3, 3, 9)]))
    assert [batch.attempts for batch in found.sections[0].batches] == [1, 3, 1]
