"""Further names of the target: relative links beside it, which come and go with it, and never over something else."""

import os
from pathlib import Path

import pytest
from support.commands import nimad as command
from support.environments import OURS, answering, opened
from support.memories import assert_same, edge, make_memory, migrate, node, read_target, turn
from support.torture import Life, assert_nothing_left, beside, interrupted, staging_of, state_of, target_of

import nimad
from nimad.errors import CannotWriteError, ExitCode, RefusedError, UsageError
from nimad.events.run import BatchLoaded, Event, Finished, NothingToDo, Published, Verified

NAME = "ladybug.lbug"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "memory"
    folder.mkdir()
    return make_memory(
        folder / "graph.sqlite",
        nodes=[node(number) for number in range(1, 11)],
        edges=[edge(1, 1, 2)],
        turns=[turn(1, 1, 2)],
    )


def link_of(source: Path) -> Path:
    return source.with_name(NAME)


def assert_link(source: Path) -> None:
    link = link_of(source)
    assert link.is_symlink()
    assert str(link.readlink()) == "graph.ladybug", "relative, so that the folder can move"


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_further_name_leads_to_the_target_and_moves_with_its_folder(source: Path, tmp_path: Path) -> None:
    ran = migrate(source, also=[NAME])
    assert_link(source)
    assert state_of(ran.target)["also"] == [NAME]
    with opened(OURS, link_of(source)) as ask:
        assert ask("MATCH (n:MemoryNode) RETURN count(*)") == [[10]]
    moved = source.parent.rename(tmp_path / "elsewhere")
    with opened(OURS, moved / NAME) as ask:
        assert ask("MATCH (n:MemoryNode) RETURN count(*)") == [[10]]
    assert_same(moved / source.name, moved / NAME)
    assert_nothing_left(moved / "graph.ladybug")


def test_a_further_name_appears_only_with_the_target(source: Path) -> None:
    """The agent writes to a file as soon as it is there."""
    early: list[str] = []

    def listen(event: Event) -> None:
        if not isinstance(event, Published | Finished) and os.path.lexists(link_of(source)):
            early.append(type(event).__name__)

    nimad.migrate(nimad.Settings(source=source, also=(NAME,)), listen)
    assert early == []
    assert_link(source)


def test_a_run_that_ends_early_makes_no_name(source: Path) -> None:
    interrupted(source, BatchLoaded, also=[NAME])
    assert staging_of(source).exists()
    assert not os.path.lexists(link_of(source))
    migrate(source, also=[NAME], verify="none")
    assert_link(source)


def test_names_follow_what_is_asked_for(source: Path) -> None:
    """But for the agent's own, which stays in any case."""
    target = migrate(source, verify="none").target
    assert_link(source)
    assert migrate(source, also=["third", "second name"]).all(NothingToDo)
    assert source.with_name("third").is_symlink()
    assert source.with_name("second name").is_symlink()
    before = target.stat().st_ino
    assert migrate(source, also=["second name"]).all(NothingToDo)
    assert not os.path.lexists(source.with_name("third"))
    assert source.with_name("second name").is_symlink()
    assert migrate(source, also=[]).all(NothingToDo)
    assert not os.path.lexists(source.with_name("second name"))
    assert_link(source)
    assert target.stat().st_ino == before


# What stands at the name


@pytest.mark.sampled
@pytest.mark.parametrize("kind", ["file", "folder", "link elsewhere", "link to nothing"])
def test_something_else_at_the_name_is_refused_and_kept(source: Path, kind: str) -> None:
    link, elsewhere = link_of(source), source.with_name("elsewhere")
    if kind == "file":
        link.write_bytes(b"precious")
    elif kind == "folder":
        link.mkdir()
    else:
        link.symlink_to(elsewhere)
    if kind != "link to nothing":
        elsewhere.write_bytes(b"precious")
    with Life(source, "--also", NAME) as life:
        assert life.wait() == ExitCode.CANNOT_WRITE, life.said
    words = "is no plain file; move it away" if kind == "folder" else "is in the way"
    assert f"{link} {words}" in life.said, "it shows that an agent is here, and so it is the target's name"
    assert kind == "folder" or "--replace" in life.said
    assert not target_of(source).exists()
    assert not staging_of(source).exists()
    assert (link.is_symlink(), link.is_dir()) == ("link" in kind, kind == "folder")
    assert kind != "file" or link.read_bytes() == b"precious"
    assert kind == "link to nothing" or elsewhere.read_bytes() == b"precious"


def test_something_else_that_came_once_the_target_was_there_is_refused_too(source: Path) -> None:
    migrate(source, verify="none")
    link_of(source).unlink()
    link_of(source).write_bytes(b"precious")
    with pytest.raises(CannotWriteError, match=f"{NAME} is in the way"):
        migrate(source, also=[NAME])
    assert link_of(source).read_bytes() == b"precious"


@pytest.mark.long
def test_replace_keeps_a_foreign_file_and_what_lies_beside_it(source: Path) -> None:
    """As a nima-core made it that wrote there before, and was killed."""
    link_of(source).write_bytes(b"precious")
    beside(link_of(source), ".wal").write_bytes(b"its log")
    ran = migrate(source, also=[NAME], replace=True)
    assert (ran.target, str(target_of(source).readlink())) == (link_of(source), NAME)
    (kept,) = source.parent.glob(f"{NAME}.backup-????????-??????")
    assert kept.read_bytes() == b"precious"
    assert beside(kept, ".wal").read_bytes() == b"its log"
    assert not beside(link_of(source), ".wal").exists()
    assert_same(source, link_of(source))
    assert_nothing_left(ran.target)


def test_replace_keeps_what_an_agent_wrote_through_the_name_and_did_not_close(source: Path) -> None:
    """The engine's log stands by the name that was opened; without it both files would lack the row."""
    migrate(source, also=[NAME], verify="none")
    with answering(OURS, link_of(source), read_only=False) as (ask, process):
        ask("CREATE (n:MemoryNode {id: 1000, text: 'written through the link'})")
        process.kill()
    assert beside(link_of(source), ".wal").stat().st_size, "else this would show nothing"

    backup = migrate(source, also=[NAME], replace=True).only(Published).backup
    assert backup is not None
    assert_link(source)
    assert not beside(link_of(source), ".wal").exists()
    there = read_target(target_of(source)).nodes
    assert (sorted(there), there[1000]["text"]) == ([*range(1, 11), 1000], "written through the link")
    with opened(OURS, Path(backup), read_only=False) as ask:
        assert ask("MATCH (n:MemoryNode) WHERE n.id > 9 RETURN n.id, n.text ORDER BY n.id") == [
            [10, "memory 10"],
            [1000, "written through the link"],
        ]


@pytest.mark.long
def test_a_name_of_the_old_target_that_is_not_asked_for_goes_with_it(source: Path) -> None:
    migrate(source, also=["third", "second"], verify="none")
    migrate(source, also=["second"], replace=True, verify="none")
    assert not os.path.lexists(source.with_name("third"))
    assert_link(source)
    assert source.with_name("second").is_symlink()
    assert len(list(source.parent.glob("*.backup-*"))) == 1, "a link of ours is nothing to keep"


# Names that cannot be


@pytest.mark.sampled
@pytest.mark.parametrize(
    "name", ["a/b", "/etc/passwd", "..", ".", "", "graph.sqlite", "graph.ladybug", "graph.ladybug.wal", "migration.log"]
)
def test_a_name_that_would_lead_elsewhere_or_hide_another_file_is_refused(source: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--also"):
        nimad.Settings(source=source, also=(name,))
    config = source.with_name("nimad.toml")
    config.write_text(f'[target]\nalso = ["{name}"]\n')
    done = command(source.parent, "migrate", "--source", source, "--config", config)
    assert done.code == ExitCode.CONFIGURATION
    assert str(config) in done.error
    assert names_in(source.parent) == {"graph.sqlite", "nimad.toml"}


@pytest.mark.parametrize("name", ["graph.sqlite-wal", "graph.sqlite-shm", "graph.sqlite-journal"])
def test_a_name_beside_the_source_is_refused(source: Path, name: str) -> None:
    """SQLite would read it as its own, or an agent's writes would end there."""
    with pytest.raises(UsageError, match="--also"):
        nimad.Settings(source=source, also=(name,))


def test_a_name_from_the_command_line(source: Path) -> None:
    done = command(source.parent, "migrate", "--source", source, "--also", "a/b")
    assert done.code == ExitCode.USAGE
    words = ("--also", NAME, "--also", "second", "--nodes-only", "--verify", "none")
    done = command(source.parent, "migrate", "--source", source, *words)
    assert done.code == ExitCode.COMPLETE
    assert_link(source)
    assert source.with_name("second").is_symlink()
    assert {"graph.ladybug", NAME, "second"} <= names_in(source.parent)


@pytest.mark.long
def test_a_run_that_is_told_of_no_names_keeps_those_that_are_there(source: Path) -> None:
    second = source.with_name("second")
    migrate(source, also=["second"], verify="none")
    assert migrate(source).all(NothingToDo)
    assert second.is_symlink()
    migrate(source, replace=True, verify="none")
    assert second.is_symlink()
    migrate(source, also=[])
    assert not os.path.lexists(second)


def test_a_name_under_which_an_agent_left_its_log_is_not_taken_away(source: Path) -> None:
    target = migrate(source, also=[NAME], verify="none").target
    log = target.with_name(f"{NAME}.wal")
    log.write_bytes(b"its last memories")
    with pytest.raises(RefusedError, match=rf"by the name .*{NAME} and did not close it"):
        migrate(source, also=[])
    assert_link(source)
    assert log.read_bytes() == b"its last memories"


def test_a_file_that_comes_to_the_name_during_the_run_stays_there(source: Path) -> None:
    def come(event: Event) -> None:
        if isinstance(event, Verified):
            link_of(source).write_bytes(b"the agent's own")

    with pytest.raises(CannotWriteError, match="it appeared during the run"):
        nimad.migrate(nimad.Settings(source=source, also=(NAME,)), come)
    assert link_of(source).read_bytes() == b"the agent's own"
    assert not target_of(source).exists()
