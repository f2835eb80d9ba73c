"""A memory that is moved, copied or restored is known again by its rows; another memory in its place is not."""

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support.commands import nimad
from support.memories import assert_same, change, make_memory, migrate, node, read_target, turn, vector
from support.torture import interrupted, opened, staging_of, state_of, target_of

from nimad.errors import CannotWriteError, ExitCode
from nimad.events.run import BatchLoaded, DryRun, Started
from nimad.events.sync import Adopted, CaughtUp, Moved
from nimad.host import filesystems
from nimad.host.filesystems import FileSystem
from nimad.state import target_state
from nimad.state.paths import Files

NODES = 60


def memory(path: Path, nodes: int = NODES, *, word: str = "a") -> Path:
    return make_memory(
        path,
        nodes=[
            node(key, turn_id=f"t{key}", timestamp=1_000 + key, text=f"{word} {key}", embedding=vector(key, 1, 2, 3))
            for key in range(1, nodes + 1)
        ],
        turns=[turn(key, key, None, None) for key in range(1, nodes, 7)],
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a memory and its target."""
    folder = tmp_path / "home"
    folder.mkdir()
    migrate(memory(folder / "graph.sqlite"))
    return folder


def move(home: Path) -> Path:
    """The folder has another name."""
    return home.rename(home.with_name("elsewhere"))


def clone(home: Path) -> Path:
    """`cp -a`: same bytes, same times, other inodes; the old one is still there."""
    return Path(shutil.copytree(home, home.with_name("elsewhere"), symlinks=True))


def copy(home: Path) -> Path:
    """`cp -r`: the times are of now."""
    place = home.with_name("elsewhere")
    return Path(shutil.copytree(home, place, symlinks=True, copy_function=shutil.copyfile))


def link(home: Path) -> Path:
    """The memory alone is on another disk, and a link leads there."""
    disk = home.with_name("disk")
    disk.mkdir()
    shutil.copy2(home / "graph.sqlite", disk / "graph.sqlite")
    (home / "graph.sqlite").unlink()
    (home / "graph.sqlite").symlink_to(disk / "graph.sqlite")
    return home


def rewrite(home: Path) -> Path:
    """Another file by the same name, as `VACUUM INTO` and a rename make it."""
    source = home / "graph.sqlite"
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("VACUUM INTO ?", (str(home / "new"),))
    (home / "new").replace(source)
    return home


def write(target: Path, cypher: str) -> None:
    """As the agent does."""
    with opened(target) as ask:
        ask(cypher)


MOVES = [move, clone, copy, link, rewrite]
Move = Callable[[Path], Path]


def remember(source: Path, key: int) -> None:
    change(source, "INSERT INTO memory_nodes (id, text, timestamp) VALUES (?, ?, ?)", key, f"late {key}", key)


@pytest.mark.sampled
@pytest.mark.parametrize("how", MOVES)
def test_a_memory_at_another_place_is_followed_on(home: Path, how: Move) -> None:
    source = how(home) / "graph.sqlite"
    remember(source, NODES + 1)
    change(source, "UPDATE memory_nodes SET strength = 0.25 WHERE id = 3")  # as a recall does
    run = migrate(source)
    assert run.only(Moved).now == str(source.resolve())
    assert_same(source, target_of(source))
    assert state_of(target_of(source))["source"]["path"] == str(source.resolve())
    assert not migrate(source).all(Moved), "it is said once"


@pytest.mark.sampled
@pytest.mark.parametrize("how", MOVES)
def test_what_the_agent_wrote_to_the_target_stays_at_another_place(home: Path, how: Move) -> None:
    """The base is known again: what only the agent changed, and what it took out, is the agent's."""
    target = target_of(home / "graph.sqlite")
    write(target, "MATCH (n:MemoryNode {id: 4}) SET n.strength = 0.125")
    write(target, "MATCH (n:MemoryNode {id: 60}) DETACH DELETE n")
    migrate(home / "graph.sqlite")
    source = how(home) / "graph.sqlite"
    migrate(source)
    there = read_target(target_of(source)).nodes
    assert (there[4]["strength"], 60 in there) == (0.125, False)


@pytest.mark.sampled
@pytest.mark.parametrize("how", MOVES)
def test_a_new_target_of_a_moved_memory_has_what_the_agent_wrote_to_the_old_one(home: Path, how: Move) -> None:
    write(target_of(home / "graph.sqlite"), "MATCH (n:MemoryNode {id: 4}) SET n.strength = 0.125")
    source = how(home) / "graph.sqlite"
    migrate(source, replace=True)
    assert read_target(target_of(source)).nodes[4]["strength"] == 0.125


def test_another_memory_in_its_place_is_refused_by_its_rows(home: Path) -> None:
    source = home / "graph.sqlite"
    memory(home / "other", word="another").replace(source)
    with pytest.raises(CannotWriteError, match="made from another source") as refused:
        migrate(source)
    said = str(refused.value)
    assert "60 of 69 rows are other memories (memory_nodes id 1, memory_nodes id 2" in said
    assert "--replace" in said
    assert "another 1" not in said, "no text of a memory"
    assert refused.value.exit_code == ExitCode.CANNOT_WRITE
    assert read_target(target_of(source)).nodes[1]["text"] == "a 1"


def test_a_backup_of_an_earlier_day_takes_nothing_out_that_matters(home: Path) -> None:
    """All of its rows are those of the target, and it has fewer: more than an agent deletes in passing stay."""
    source = home / "graph.sqlite"
    memory(home / "earlier", 40).replace(source)
    run = migrate(source)
    assert run.only(Moved)
    assert run.result.waiting
    assert len(read_target(target_of(source)).nodes) == NODES


def test_an_interrupted_run_goes_on_at_another_place(tmp_path: Path) -> None:
    source = memory(tmp_path / "graph.sqlite", 200)
    interrupted(source, BatchLoaded, batch_size=50, fixed_batch=True)
    rewrite(tmp_path)
    run = migrate(source, batch_size=50, fixed_batch=True)
    assert run.only(Moved)
    assert run.only(Started).found["MemoryNode"] >= 50
    assert_same(source, run.target)


def test_an_interrupted_run_of_another_memory_is_refused_by_its_rows(tmp_path: Path) -> None:
    source = memory(tmp_path / "graph.sqlite", 200)
    interrupted(source, BatchLoaded, batch_size=50, fixed_batch=True)
    memory(tmp_path / "other", 200, word="another").replace(source)
    said = r"begun from another source: .* are other memories"
    (foretold,) = migrate(source, dry_run=True).only(DryRun).facts["obstacles"]
    assert re.search(said, foretold)
    with pytest.raises(CannotWriteError, match=said) as refused:
        migrate(source)
    assert "--restart" in str(refused.value)
    assert staging_of(source).exists()


@pytest.mark.long
def test_what_is_asked_of_a_moved_memory_is_answered_before_and_after_the_next_run(home: Path) -> None:
    source = clone(home) / "graph.sqlite"
    shutil.rmtree(home)
    target = target_of(source)
    said = nimad(source.parent, "status", "--source", source, "--target", target)
    assert f"not {home / 'graph.sqlite'}, which was read last; the next look compares their rows" in said.out
    for command in ("verify", "health", "rollback"):
        done = nimad(source.parent, command, "--source", source, "--target", target)
        assert done.code == 0, done.out + done.err
    assert nimad(source.parent, "report", "--target", target, "--text").code == 0
    done = nimad(source.parent, "migrate", "--source", source, "--target", target)
    assert done.code == 0, done.err
    assert f"The memory is at {source}, and was at {home / 'graph.sqlite'}: it has the rows" in done.out
    said = nimad(source.parent, "status", "--source", source, "--target", target)
    assert "read last" not in said.out


def test_every_command_says_that_another_memory_is_in_its_place(home: Path) -> None:
    source, target = home / "graph.sqlite", target_of(home / "graph.sqlite")
    memory(home / "other", word="another").replace(source)
    files = "--source", source, "--target", target
    before = state_of(target)
    foretold = nimad(home, "migrate", *files, "--dry-run")
    assert (foretold.code, foretold.err) == (0, "")
    assert f"A real run would not begin: {target} is in the way (it was made from another source: " in foretold.out
    assert "60 of 69 rows are other memories (memory_nodes id 1" in foretold.out
    assert "is there already" not in foretold.out
    assert state_of(target) == before
    assert nimad(home, "migrate", *files).code == ExitCode.CANNOT_WRITE
    for command in ("status", "health", "doctor"):
        done = nimad(home, command, *files)
        said = " ".join(done.out.split())
        assert "are other memories (memory_nodes id 1" in said, command
        assert "late arrivals wait" in said, command
    assert nimad(home, "health", *files).code != 0
    assert nimad(home, "doctor", *files).code == 2
    stands = nimad(home, "status", *files)
    assert stands.code == ExitCode.CANNOT_WRITE, "as the run"
    assert "Complete, and another memory is in place of the one that it was made from" in stands.out
    done = nimad(home, "rollback", *files)
    assert done.code != 0, done.out


@pytest.mark.long
def test_a_retry_goes_on_at_another_place(home: Path) -> None:
    source = home / "graph.sqlite"
    change(source, "UPDATE memory_nodes SET timestamp = 'noon' WHERE id = 5")
    migrate(source)
    source = move(home) / "graph.sqlite"
    change(source, "UPDATE memory_nodes SET timestamp = 12 WHERE id = 5")
    done = nimad(source.parent, "quarantine", "retry", "--target", target_of(source))
    assert (done.code, done.err) == (0, "")
    assert_same(source, target_of(source))


def test_where_nothing_was_noted_of_a_target_it_is_not_the_one_that_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on exFAT, whose files have a moment of birth and numbers that change with each mount."""
    monkeypatch.setattr(filesystems, "of", lambda _: FileSystem("exFAT", keeps_numbers=False))
    monkeypatch.setattr(target_state, "born_ns", lambda _: 17)
    files = Files(tmp_path / "ladybug.lbug")
    files.target.touch()
    noted = [{}, {"file": {"born_ns": 16}}, {"file": {"born_ns": 16}, "followed": {"born_ns": 17}}]
    assert [target_state.is_of(files, made) for made in noted] == [False, False, True]


def test_a_pair_that_was_copied_without_the_files_beside_it_is_adopted(home: Path) -> None:
    """What the agent wrote to the target stays, and what SQLite has more is added: nothing tells who wrote last."""
    with opened(target_of(home / "graph.sqlite")) as ask:
        ask("MATCH (n:MemoryNode {id: 3}) SET n.text = 'rewritten', n.is_ghost = true")
        ask("CREATE (:MemoryNode {id: 900, turn_id: 'mine', layer: 'input', text: 'own'})")
    other = home.with_name("other")
    other.mkdir()
    for name in ("graph.sqlite", "graph.ladybug"):
        shutil.copy(home / name, other / name)
    source = other / "graph.sqlite"
    remember(source, NODES + 1)
    run = migrate(source, reader_python=Path("none"))
    assert (run.result.exit_code, run.only(Adopted).target) == (ExitCode.COMPLETE, str(target_of(source)))
    with opened(target_of(source)) as ask:
        assert ask("MATCH (n:MemoryNode {id: 3}) RETURN n.text, n.is_ghost") == [["rewritten", True]]
        assert ask("MATCH (n:MemoryNode) RETURN count(*)") == [[NODES + 2]]
    remember(source, NODES + 2)
    again = migrate(source, reader_python=Path("none"))
    assert (again.all(Adopted), again.only(CaughtUp).added) == ([], 1)


def test_a_target_of_which_no_run_tells_and_whose_memories_are_others_is_refused(home: Path) -> None:
    other = memory(home.with_name("other.sqlite"), word="b")
    shutil.copy(home / "graph.ladybug", home.with_name("graph.ladybug"))
    change(other, "UPDATE memory_nodes SET turn_id = 'x' || turn_id, timestamp = timestamp + 7")
    with pytest.raises(CannotWriteError, match=f"of its {NODES} memories, 0 are among the {NODES} of"):
        migrate(other, target=home.with_name("graph.ladybug"))
