"""nimad from Python, as its docstrings promise it, and the two commands that go with it: `search` and `sample`."""

import json
import os
import re
import shutil
import threading
from pathlib import Path

import pytest
from support.commands import children
from support.commands import nimad as command
from support.memories import Run, assert_same, make_memory, migrate, node, vector

import nimad
from nimad import Event, NimadError, Outcome, Result, Settings
from nimad.errors import ExitCode, StoppedError
from nimad.events import run as e
from nimad.sample import Sample, write_sample


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "graph.sqlite"
    write_sample(path, Sample(nodes=60, dimension=8))
    return path


@pytest.fixture
def memory(sample: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sample, tmp_path))


@pytest.fixture(scope="module")
def ran(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that others look at: 60 nodes in batches of 15, the edges and turns in one each."""
    source = Path(shutil.copy(sample, tmp_path_factory.mktemp("ran")))
    return migrate(source, batch_size=15, fixed_batch=True)


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# The call


def test_the_result_has_the_figures_of_the_run(ran: Run) -> None:
    result = ran.result
    assert isinstance(result, Result)
    assert result.outcome is Outcome.COMPLETE
    assert Path(result.target).is_absolute()
    assert (result.total_nodes, result.migrated, result.edges, result.turns) == (60, 60, 39, 36)
    assert (result.quarantined, result.quarantined_parts, result.failed_batches, result.retries) == (0, 0, 0, 0)
    assert result.batches == 4 + 1 + 1
    assert 0 < result.batch_s < result.elapsed_s < 60
    assert {"loading memory_nodes", "counting", "verifying", "publishing"} <= set(result.phases_s)
    assert sum(result.phases_s.values()) <= result.elapsed_s
    assert (result.exit_code, result.success_rate) == (ExitCode.COMPLETE, 100.0)
    with pytest.raises(AttributeError):
        result.migrated = 61  # type: ignore[misc]


def test_the_events_come_in_order_and_the_last_holds_the_result(ran: Run) -> None:
    names = [type(event).__name__ for event in ran.events]
    assert names == [
        *("Analyzing", "Analyzed", "Planned", "EngineChosen", "Started"),
        *("BatchLoaded", "BatchLoaded", "BatchLoaded", "BatchLoaded", "TableLoaded"),
        *("BatchLoaded", "TableLoaded"),
        *("BatchLoaded", "TableLoaded"),
        *("Verifying", "Verified", "NotIndexed", "Published", "Finished"),
    ]
    assert [event.done for event in ran.all(e.BatchLoaded)] == [15, 30, 45, 60, 39, 36]
    assert dict(ran.only(e.Verified).compared) == {"memory_nodes": 60, "memory_edges": 39, "memory_turns": 36}
    assert ran.only(e.Finished).result == ran.result
    for event in ran.events:
        assert json.loads(json.dumps(event.to_json()))["event"] == type(event).__name__


def test_everything_arrived_and_only_what_belongs_is_left(ran: Run) -> None:
    source = ran.target.with_name("graph.sqlite")
    assert_same(source, ran.target)
    # No log: lines are the command's business.
    beside = {f"graph.ladybug.{each}" for each in ("ledger", "runs.jsonl", "state.json")}
    assert files_of(source.parent) == {"graph.sqlite", "graph.ladybug", "ladybug.lbug", *beside}


def test_the_call_of_the_docstring(memory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`nimad.migrate(nimad.Settings(source="~/…"))`, and twice is once."""
    monkeypatch.setenv("HOME", str(tmp_path))
    first = nimad.migrate(Settings(source=Path("~/graph.sqlite"), nodes_only=True))
    assert (first.outcome, first.target) == (Outcome.COMPLETE, str(memory.with_name("graph.ladybug")))
    heard: list[Event] = []
    second = nimad.migrate(Settings(source=Path("~/graph.sqlite"), nodes_only=True), heard.append)
    assert (second.outcome, second.exit_code) == (Outcome.ALREADY_COMPLETE, 0)
    assert type(heard[-1]) is e.NothingToDo


def test_an_error_is_one_line_with_an_exit_code(tmp_path: Path) -> None:
    with pytest.raises(NimadError, match=r"^there is no memory at [^\n]+$") as caught:
        nimad.migrate(Settings(source=tmp_path / "graph.sqlite"))
    assert caught.value.exit_code is ExitCode.USAGE


# Stopping


def test_a_stop_keeps_what_is_counted_and_the_next_call_goes_on(memory: Path, tmp_path: Path) -> None:
    stop, heard = threading.Event(), list[Event]()

    def listen(event: Event) -> None:
        heard.append(event)
        if isinstance(event, e.BatchLoaded) and event.number == 2:
            stop.set()

    with pytest.raises(StoppedError, match="nodes are kept") as caught:
        nimad.migrate(Settings(source=memory, batch_size=15, fixed_batch=True), listen, stop)
    assert caught.value.exit_code == 75
    assert type(heard[-1]) is e.BatchLoaded
    assert "graph.ladybug" not in files_of(tmp_path)
    state = json.loads((tmp_path / "graph.ladybug.state.json").read_text())
    assert state["phase"] == "interrupted"
    assert children(os.getpid()) == []

    second = migrate(memory, batch_size=15, fixed_batch=True)
    assert second.only(e.Started).found["MemoryNode"] == 30
    assert [event.done for event in second.all(e.BatchLoaded) if event.table == "memory_nodes"] == [45, 60]
    assert_same(memory, second.target)


def test_a_stop_that_came_before_the_start_writes_nothing(memory: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError) as caught:
        nimad.migrate(Settings(source=memory), stop=stop)
    assert caught.value.exit_code is ExitCode.INTERRUPTED
    assert files_of(tmp_path) == {"graph.sqlite"}


# Listeners


class ListenerError(Exception):
    """What only a listener raises."""


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (e.Analyzing, ListenerError("my display is gone")),
        (e.BatchLoaded, ListenerError("my display is gone")),
        (e.BatchLoaded, BrokenPipeError(32, "Broken pipe")),
        (e.Published, ListenerError("my display is gone")),
    ],
    ids=["Analyzing", "BatchLoaded", "BatchLoaded, an OSError", "Published"],
)
def test_an_error_of_the_listener_comes_back_and_harms_nothing(
    memory: Path, tmp_path: Path, kind: type[Event], error: Exception
) -> None:
    def listen(event: Event) -> None:
        if isinstance(event, kind):
            raise error

    with pytest.raises(type(error)) as caught:
        nimad.migrate(Settings(source=memory, nodes_only=True), listen)
    assert caught.value is error
    assert children(os.getpid()) == []
    assert "graph.ladybug.lock" not in files_of(tmp_path)

    run = migrate(memory, nodes_only=True)
    assert run.result.outcome is (Outcome.ALREADY_COMPLETE if kind is e.Published else Outcome.COMPLETE)
    assert_same(memory, tmp_path / "graph.ladybug", nodes_only=True)


def test_another_thread_may_call(memory: Path, tmp_path: Path) -> None:
    """Two memories at once, each in a thread; events come in the thread that called."""
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(memory, other)
    results: dict[str, Result] = {}
    heard_in: dict[str, set[int]] = {}

    def work(source: Path) -> None:
        threads = heard_in.setdefault(str(source), set())
        results[str(source)] = nimad.migrate(Settings(source=source), lambda _: threads.add(threading.get_ident()))

    sources = [memory, other / "graph.sqlite"]
    threads = [threading.Thread(target=work, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for source, thread in zip(sources, threads, strict=True):
        assert results[str(source)].outcome is Outcome.COMPLETE
        assert heard_in[str(source)] == {thread.ident}
        assert_same(source, source.with_name("graph.ladybug"))


# Asking


def lines_of(out: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.splitlines()]


def test_search_finds_text_newest_first(ran: Run, tmp_path: Path) -> None:
    found = command(tmp_path, "search", "Entry 1", "--target", ran.target, "--json", "--limit", "3")
    assert (found.code, found.err) == (0, "")
    hits = lines_of(found.out)
    assert len(hits) == 3
    for hit in hits:
        assert set(hit) == {"id", "layer", "who", "text", "summary"}
        assert re.match(r"Entry 1\d* of ", str(hit["text"]))
    plain = command(tmp_path, "search", "Entry 1", "--target", ran.target, "--limit", "3")
    assert [int(line.split()[0]) for line in plain.out.splitlines()] == [hit["id"] for hit in hits]
    assert len(plain.out.splitlines()) == 3


def test_search_like_finds_the_nearest_in_meaning(ran: Run, tmp_path: Path) -> None:
    found = command(tmp_path, "search", "--like", "5", "--target", ran.target, "--json")
    assert found.code == 0
    hits = lines_of(found.out)
    assert len(hits) == 5
    nearness = [float(str(hit["nearness"])) for hit in hits]
    assert nearness == sorted(nearness, reverse=True)
    assert 0 < nearness[0] <= 1
    assert 5 not in [hit["id"] for hit in hits]


def test_search_takes_any_text_and_may_find_nothing(ran: Run, tmp_path: Path) -> None:
    for text in ("Nobody wrote this", "' OR 1=1 //\\"):
        found = command(tmp_path, "search", text, "--target", ran.target, "--json")
        assert (found.code, found.out, found.err) == (0, "", "")


def test_search_shows_no_sign_that_a_terminal_would_obey(tmp_path: Path) -> None:
    hostile = make_memory(tmp_path / "graph.sqlite", nodes=[node(1, text="telescope \x1b]0;owned\x07", who="\x1b[2J")])
    found = command(tmp_path, "search", "telescope", "--target", migrate(hostile, verify="none").target)
    assert found.code == 0
    assert "telescope ?]0;owned?" in found.out
    assert "\x1b" not in found.out


def test_search_shows_why_a_memory_was_found(ran: Run, tmp_path: Path) -> None:
    (hit,) = lines_of(command(tmp_path, "search", "Entry", "--target", ran.target, "--json", "--limit", "1").out)
    word = str(hit["text"]).split()[-1]  # far from the beginning
    found = command(tmp_path, "search", word, "--target", ran.target, "--limit", "5")
    assert found.code == 0
    for line in found.out.splitlines():
        assert word in line


def test_search_says_why_nothing_can_be_near(tmp_path: Path) -> None:
    memory = make_memory(tmp_path / "graph.sqlite", nodes=[node(1, embedding=vector(1, 0)), node(2)])
    target = migrate(memory).target
    for key, why in {"2": "memory 2 has no embedding", "3": "there is no memory 3 in it"}.items():
        found = command(tmp_path, "search", "--like", key, "--target", target)
        assert (found.code, found.out) == (ExitCode.USAGE, "")
        assert why in found.err
    both = command(tmp_path, "search", "words", "--like", "1", "--target", target)
    assert both.code == ExitCode.USAGE


def test_a_complete_target_still_tells_of_its_quarantine(tmp_path: Path) -> None:
    memory = make_memory(tmp_path / "graph.sqlite", nodes=[node(1), node(2, timestamp="soon")])
    assert migrate(memory).result.exit_code == ExitCode.QUARANTINED
    again = migrate(memory)
    assert again.result.outcome is Outcome.ALREADY_COMPLETE
    assert again.result.exit_code == ExitCode.QUARANTINED
    assert "1 value set aside, listed in" in again.only(e.NothingToDo).why


def test_a_dry_run_says_what_would_keep_a_real_one_from_beginning(tmp_path: Path) -> None:
    memory = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)])
    assert migrate(memory, dry_run=True).only(e.DryRun).facts["obstacles"] == []
    migrate(memory)
    (there,) = migrate(memory, dry_run=True).only(e.DryRun).facts["obstacles"]
    assert "is there already" in there
    (nowhere,) = migrate(memory, dry_run=True, target=tmp_path / "no" / "x").only(e.DryRun).facts["obstacles"]
    assert "mkdir -p" in nowhere


def test_search_leaves_the_target_as_it_is(ran: Run, tmp_path: Path) -> None:
    before = files_of(ran.target.parent), ran.target.read_bytes()
    assert command(tmp_path, "search", "Entry", "--target", ran.target).code == 0
    assert (files_of(ran.target.parent), ran.target.read_bytes()) == before


def test_sample_says_what_it_wrote(tmp_path: Path) -> None:
    done = command(
        tmp_path, "sample", "new.sqlite", "--nodes", "30", "--dimension", "4", "--seed", "7", "--shape", "3.0"
    )
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"Wrote new\.sqlite: 30 nodes, 19 edges, 18 turns, \d+ MB\n", done.out)
    again = command(
        tmp_path, "sample", "same.sqlite", "--nodes", "30", "--dimension", "4", "--seed", "7", "--shape", "3.0"
    )
    assert again.code == 0
    assert (tmp_path / "new.sqlite").read_bytes() == (tmp_path / "same.sqlite").read_bytes()


def test_the_package_offers_what_it_lists_and_nothing_else() -> None:
    assert {"Event", "NimadError", "Outcome", "Result", "Settings", "Verify", "migrate"} <= set(nimad.__all__)
    for name in nimad.__all__:
        assert getattr(nimad, name) is not None
    with pytest.raises(AttributeError, match="migrate_everything"):
        _ = nimad.migrate_everything
