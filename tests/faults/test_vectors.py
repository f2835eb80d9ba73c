"""The vector index: made where it can be, and where it cannot the target is just what it was without trying."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import ladybug
import pytest
from support import index_worker
from support.memories import ENGINE_LIMITS, Run, assert_same, edge, make_memory, migrate, node, read_target, vector
from support.torture import assert_nothing_left, state_of

import nimad
from nimad.config import Settings
from nimad.errors import EngineError, RefusedError, UsageError
from nimad.events.run import Event, Indexed, NotIndexed, SetAside
from nimad.migration.late_vector_index import index
from nimad.supervisor import worker_process


@pytest.fixture
def source(tmp_path: Path) -> Path:
    nodes = [node(key, text=f"memory {key}", embedding=vector(key, 1, 0.5, -key)) for key in range(1, 41)]
    return make_memory(tmp_path / "graph.sqlite", nodes=nodes, edges=[edge(key, key, 41 - key) for key in range(1, 30)])


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "WORKER", ("-P", index_worker.__file__))


def extension(folder: Path, name: str, content: bytes = b"no library") -> Path:
    """A file where the engine of the tests would have installed an extension."""
    path = folder / "0.22.0" / "linux" / "vector" / f"{name}.lbug_extension"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def has_stand_in(target: Path) -> bool:
    database = ladybug.Database(str(target), read_only=True, **ENGINE_LIMITS)
    connection = ladybug.Connection(database)
    names = {row[0] for row in connection.execute("CALL show_tables() RETURN name").get_all()}
    connection.close()
    database.close()
    return "StandIn" in names


def why_not(run: Run) -> str:
    assert run.result.exit_code == 0
    assert_nothing_left(run.target)
    assert not has_stand_in(run.target)
    return run.only(NotIndexed).why


# In a migration


@pytest.mark.long
def test_without_the_extension_the_run_says_that_exact_search_works(source: Path) -> None:
    assert why_not(migrate(source)) == "the VECTOR extension of LadybugDB 0.22.0 is not installed"
    log = subprocess.run(
        [sys.executable, "-m", "nimad", "migrate", "--source", source, "--replace"], capture_output=True, check=True
    ).stdout.decode()
    assert "Exact search by embedding works without; make one later with: " in log
    assert f" index --target {source.with_name('graph.ladybug')}\n" in log


def test_it_can_be_left_out(source: Path) -> None:
    run = migrate(source, vector_index="off")
    assert (run.all(NotIndexed), run.all(Indexed)) == ([], [])


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere/0.22.0/libvector.lbug_extension", "there is no "),
        ("0.20.0/libvector.lbug_extension", "does not say that it is made for LadybugDB 0.22"),
        ("0.22.0/libvector.lbug_extension", "Failed to load library"),
    ],
    ids=["missing", "of another release", "no library"],
)
def test_an_extension_that_cannot_be_used_is_named_and_nothing_else_happens(
    source: Path, tmp_path: Path, place: str, words: str
) -> None:
    path = tmp_path / "extensions" / place
    if "nowhere" not in place:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"no library")
    run = migrate(source, vector_extension=path)
    assert words in why_not(run)
    assert str(path) in why_not(run)
    assert_same(source, run.target)


CRASHING = """
#include <signal.h>
#include <unistd.h>
__attribute__((constructor)) static void load(void) { kill(getpid(), SIGSEGV); }
"""


def test_a_library_that_takes_the_process_down_as_it_is_loaded(source: Path, tmp_path: Path) -> None:
    """As one of another release does."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc, which makes the library")
    path = extension(tmp_path, "crashing")
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-o", path, "-"], input=CRASHING.encode(), check=True)
    run = migrate(source, vector_extension=path)
    assert "SIGSEGV" in why_not(run)
    assert_same(source, run.target)


@pytest.mark.usefixtures("stand_in")
def test_the_file_with_the_index_is_what_is_published(source: Path, tmp_path: Path) -> None:
    run = migrate(source, vector_extension=extension(tmp_path, "works"))
    assert run.only(Indexed)
    assert has_stand_in(run.target)
    assert_nothing_left(run.target)
    assert_same(source, run.target)


@pytest.mark.sampled
@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("what", "words"),
    [("crashes", "SIGSEGV"), ("loses", "with it the file holds"), ("changes", "the rows are not the same with it")],
)
def test_what_the_extension_spoils_is_thrown_away(source: Path, tmp_path: Path, what: str, words: str) -> None:
    run = migrate(source, vector_extension=extension(tmp_path, what))
    assert words in why_not(run)
    assert_same(source, run.target)


# Later


@pytest.mark.usefixtures("stand_in")
def test_an_index_is_made_later_and_the_file_without_it_is_kept(source: Path, tmp_path: Path) -> None:
    target = migrate(source).target
    before = target.read_bytes()
    backup = index(Settings(source=source, vector_extension=extension(tmp_path, "works")))
    assert has_stand_in(target)
    assert backup.read_bytes() == before
    assert read_target(target) == read_target(backup)
    assert_nothing_left(target)
    assert state_of(target)["file"]["inode"] == target.stat().st_ino
    assert "is complete" in migrate(source).events[-1].to_json()["why"]


@pytest.mark.sampled
@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("what", ["crashes", "loses"])
def test_a_target_that_cannot_get_an_index_stays_as_it_was(source: Path, tmp_path: Path, what: str) -> None:
    target = migrate(source).target
    before = target.read_bytes(), target.stat().st_ino
    with pytest.raises(EngineError, match=r"no vector index|not the same"):
        index(Settings(source=source, vector_extension=extension(tmp_path, what)))
    assert (target.read_bytes(), target.stat().st_ino) == before
    assert sorted(path.name for path in target.parent.glob("graph.ladybug*")) == [
        "graph.ladybug",
        "graph.ladybug.ledger",
        "graph.ladybug.runs.jsonl",
        "graph.ladybug.state.json",
    ]


def test_without_the_extension_the_command_says_how_to_get_it(source: Path, tmp_path: Path) -> None:
    target = migrate(source).target
    with pytest.raises(EngineError, match=r"is not installed.*INSTALL VECTOR") as caught:
        index(Settings(source=source))
    assert caught.value.exit_code == 69
    assert_nothing_left(target)
    # A module of that name in the folder where it is pasted is somebody else's.
    (tmp_path / "ladybug.py").write_text("raise SystemExit(7)")
    line = str(caught.value).partition("download it: ")[2].replace("INSTALL VECTOR", "RETURN 1")
    assert subprocess.run(["sh", "-c", line], cwd=tmp_path, check=False).returncode == 0


def test_a_target_that_another_program_has_open_is_left_alone(source: Path, tmp_path: Path) -> None:
    target = migrate(source).target
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import ladybug, sys; d = ladybug.Database(sys.argv[1], buffer_pool_size=1 << 27, max_db_size=1 << 34); "
            "print(1, flush=True); input()",
            target,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout
        holder.stdout.readline()
        with pytest.raises(RefusedError, match=rf"is open in another program \(PID {holder.pid}\)"):
            index(Settings(source=source, vector_extension=extension(tmp_path, "works")))
        holder.kill()


def test_there_has_to_be_a_target(source: Path) -> None:
    with pytest.raises(UsageError, match="there is no"):
        index(Settings(source=source))


def test_an_installed_extension_of_another_release_is_not_tried(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    installed = home / ".lbdb/extension/0.20.0/linux_amd64/vector"
    installed.mkdir(parents=True)
    (installed / "libvector.lbug_extension").write_bytes(b"")
    monkeypatch.setenv("HOME", os.fspath(home))
    assert "is not installed" in why_not(migrate(source))


@pytest.mark.usefixtures("stand_in")
def test_an_index_is_not_made_by_another_name_of_the_target(source: Path, tmp_path: Path) -> None:
    """But for those that are ours: they mean the target."""
    target = migrate(source).target
    link, other = target.with_name("ladybug.lbug"), target.with_name("somebody's")
    other.symlink_to(link.name)
    works = extension(tmp_path, "works")
    with pytest.raises(UsageError, match=f"{other} is another name of {target}"):
        index(Settings(source=source, target=other, vector_extension=works))
    assert not has_stand_in(target)
    index(Settings(source=source, target=link, vector_extension=works))
    assert has_stand_in(target)
    assert link.is_symlink()


@pytest.mark.usefixtures("stand_in")
def test_an_index_is_not_made_while_a_log_stands_by_another_name(source: Path, tmp_path: Path) -> None:
    target = migrate(source, also=["ladybug.lbug"]).target
    target.with_name("ladybug.lbug.wal").write_bytes(b"what came last")
    with pytest.raises(RefusedError, match=r"by the name \S+ladybug\.lbug and did not close it"):
        index(Settings(source=source, vector_extension=extension(tmp_path, "works")))


def test_an_index_is_not_made_of_a_file_that_was_not_closed(source: Path, tmp_path: Path) -> None:
    target = migrate(source).target
    target.with_name(f"{target.name}.wal").write_bytes(b"what came last")
    with pytest.raises(RefusedError, match="was not closed by the program that wrote to it; let that open and close"):
        index(Settings(source=source, vector_extension=extension(tmp_path, "works")))


@pytest.mark.usefixtures("stand_in")
def test_a_file_of_another_storage_version_is_not_converted(source: Path, tmp_path: Path) -> None:
    target = migrate(source).target
    state = target.with_name("graph.ladybug.state.json")
    state.write_text(state.read_text().replace('"storage_version": 49', '"storage_version": 40'))
    before = target.read_bytes()
    with pytest.raises(EngineError, match=r"has storage version 40, and ladybug 0\.22\.0 would make it 49"):
        index(Settings(source=source, vector_extension=extension(tmp_path, "works")))
    assert target.read_bytes() == before


@pytest.mark.long
@pytest.mark.usefixtures("stand_in")
def test_an_unfinished_target_that_has_an_index_already_is_begun_anew(source: Path, tmp_path: Path) -> None:
    """Stopped between the index and the rename: its table takes no row without the extension."""

    def stop(event: Event) -> None:
        if isinstance(event, Indexed):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nimad.migrate(Settings(source=source, vector_extension=extension(tmp_path, "works")), stop)
    assert has_stand_in(source.with_name("graph.ladybug.migrating"))
    run = migrate(source, vector_index="off")
    assert "it has the vector index already" in run.only(SetAside).message
    assert not has_stand_in(run.target)
    assert_same(source, run.target)
