"""The two usual names of a target: one is the file, one a link to it; which is which follows from what is there.

The agent opens `ladybug.lbug` and nothing else, the guide's commands say `graph.ladybug`, and the engine's log stands
by the name that was opened.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.environments import OURS, answering, opened
from support.memories import assert_same, change, edge, make_memory, migrate, node, read_target, turn
from support.services import service
from support.torture import beside, interrupted, state_of

import nimad
from nimad.config import Settings, load
from nimad.errors import CannotWriteError, ExitCode, RefusedError
from nimad.events.run import (
    BatchLoaded,
    DryRun,
    Event,
    GaveWay,
    Named,
    NotBroughtAlong,
    NothingToDo,
    NotNamed,
    PutBack,
    Verified,
)
from nimad.host.disk import born_ns
from nimad.state import names
from nimad.state.paths import Files

AGENT, GUIDE = "ladybug.lbug", "graph.ladybug"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    for name in ("NIMA_HOME", "NIMA_DATA_DIR", "NIMA_DB_PATH", "NIMA_LADYBUG_DB"):
        monkeypatch.delenv(name, raising=False)
    return path


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    error: str


def command(folder: Path, *words: str | Path) -> Done:
    """The command line in a folder, with the home and the variables of the test."""
    line = [sys.executable, "-m", "nimad", *map(str, words)]
    done = subprocess.run(line, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def memory_in(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    nodes = [node(number) for number in range(1, 6)]
    return make_memory(folder / "graph.sqlite", nodes=nodes, edges=[edge(1, 1, 2)], turns=[turn(1, 1, 2)])


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A memory in some folder, with no sign of an agent."""
    return memory_in(tmp_path / "some folder")


@pytest.fixture
def agents(home: Path) -> Path:
    """A memory where the agent keeps it."""
    return memory_in(home / ".nima/memory")


def chosen(source: Path, **options: object) -> Settings:
    return load({"source": source, **options}, os.environ)


def assert_names(source: Path, file: str, link: str) -> None:
    """One is the file, the other a relative link to it."""
    assert source.with_name(file).is_file()
    assert not source.with_name(file).is_symlink()
    assert str(source.with_name(link).readlink()) == file


# Which is the file


def test_where_no_agent_shows_the_guides_name_is_the_file(bare: Path) -> None:
    ran = migrate(bare, verify="none")
    assert ran.target == bare.with_name(GUIDE)
    assert_names(bare, GUIDE, AGENT)
    assert state_of(ran.target)["also"] == [AGENT]
    assert_same(bare, bare.with_name(AGENT))


def test_in_the_agents_home_the_file_has_the_name_that_the_agent_opens(agents: Path) -> None:
    assert command(agents.parent, "migrate", "--verify", "none").code == ExitCode.COMPLETE
    assert_names(agents, AGENT, GUIDE)
    assert_same(agents, agents.with_name(GUIDE))
    moved = agents.parent.rename(agents.parent.with_name("elsewhere"))
    assert_same(moved / agents.name, moved / GUIDE)


def test_the_configuration_says_which_name_and_why(agents: Path) -> None:
    said = command(agents.parent, "config").out
    assert f'path = "{agents.with_name(AGENT)}"' in said
    assert "chosen: nima-core opens it" in said


def test_our_own_link_is_no_sign_of_an_agent(bare: Path) -> None:
    migrate(bare, verify="none")
    for left in bare.parent.glob(f"{GUIDE}*"):
        left.unlink()
    assert bare.with_name(AGENT).is_symlink()
    assert chosen(bare).target == bare.with_name(GUIDE)


# What is asked for


def test_a_name_that_is_typed_means_the_file_whichever_it_is(agents: Path) -> None:
    migrate(agents, verify="none")
    for name in (AGENT, GUIDE):
        assert chosen(agents, target=agents.with_name(name)).target == agents.with_name(AGENT)
        assert nimad.Settings(source=agents, target=agents.with_name(name)).target == agents.with_name(AGENT)
        alone = load({"target": agents.with_name(name)}, {"HOME": "/nowhere"})
        assert alone.target == agents.with_name(AGENT), "without the memory beside it, too"
    done = command(agents.parent, "search", "--target", agents.with_name(GUIDE), "memory 3")
    assert (done.code, "memory 3" in done.out) == (ExitCode.COMPLETE, True)


def test_the_guides_name_becomes_the_link_where_the_agent_shows(agents: Path) -> None:
    assert migrate(agents, target=agents.with_name(GUIDE), verify="none").target == agents.with_name(AGENT)
    assert_names(agents, AGENT, GUIDE)


def test_a_typed_name_is_the_file_where_no_agent_shows(bare: Path) -> None:
    migrate(bare, target=bare.with_name(AGENT), verify="none")
    assert_names(bare, AGENT, GUIDE)
    assert migrate(bare).all(NothingToDo), "and is found without being typed again"


@pytest.mark.long
def test_any_other_name_is_the_only_one(bare: Path) -> None:
    target = migrate(bare, target=bare.with_name("mine.lbug"), verify="none").target
    assert target.name == "mine.lbug"
    assert state_of(target)["also"] == []
    assert not {AGENT, GUIDE} & {path.name for path in bare.parent.iterdir()}


@pytest.mark.long
def test_a_further_name_that_is_typed_means_the_file(bare: Path) -> None:
    migrate(bare, also=["second"], verify="none")
    assert chosen(bare, target=bare.with_name("second")).target == bare.with_name(GUIDE)


def test_a_link_of_somebody_elses_is_no_name_of_ours(bare: Path, tmp_path: Path) -> None:
    """Whoever can make a link in a folder is not to choose which file root works on."""
    victim = migrate(bare, target=bare.with_name("victim.lbug"), verify="none").target
    other = memory_in(tmp_path / "other")
    other.with_name(GUIDE).symlink_to(beside(victim, ".ledger"))
    assert chosen(other, target=other.with_name(GUIDE)).target == other.with_name(GUIDE)
    with pytest.raises(CannotWriteError, match="in the way"):
        migrate(other)


# What the agent was told


def test_the_variable_names_the_file_and_the_link_stands_beside_the_memory(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "disk/agent.lbug"
    place.parent.mkdir()
    monkeypatch.setenv("NIMA_LADYBUG_DB", str(place))
    assert command(bare.parent, "migrate", "--source", bare, "--verify", "none").code == ExitCode.COMPLETE
    link = bare.with_name(GUIDE)
    assert str(link.readlink()) == "../disk/agent.lbug"
    assert beside(place, ".state.json").exists()
    assert_same(bare, link)
    monkeypatch.delenv("NIMA_LADYBUG_DB")
    assert chosen(bare, target=link).target == place, "the link tells, once the variable is gone"
    link.unlink()
    done = command(bare.parent, "status", "--source", bare, "--target", place)
    assert f"the name {link} is missing" in done.out
    again = command(bare.parent, "migrate", "--source", bare, "--target", place)
    assert f"The name {link} leads to {place} now" in again.out
    assert link.is_symlink()


def test_a_place_that_cannot_be_used_is_said_with_the_variable(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIMA_LADYBUG_DB", "/nowhere/agent.lbug")
    done = command(bare.parent, "migrate", "--source", bare)
    assert done.code == ExitCode.CANNOT_WRITE
    assert "NIMA_LADYBUG_DB names /nowhere/agent.lbug: there is no folder /nowhere for the target" in done.error


# A target that is there already


def of_former_times(source: Path) -> Path:
    """As the release before made it: the guide's name is the file, and there is no other."""
    migrate(source, target=source.with_name("made.lbug"), verify="none")
    for path in source.parent.glob("made.lbug*"):
        path.rename(path.with_name(path.name.replace("made.lbug", GUIDE)))
    return source.with_name(GUIDE)


def test_a_target_that_is_there_stays_the_file_and_gets_its_missing_name(agents: Path) -> None:
    target = of_former_times(agents)
    before = target.stat().st_ino
    done = command(agents.parent, "migrate")
    assert done.code == ExitCode.COMPLETE
    assert f"The name {agents.with_name(AGENT)} leads to {target} now" in done.out
    assert_names(agents, GUIDE, AGENT)
    assert target.stat().st_ino == before
    again = migrate(agents)
    assert (again.all(Named), len(again.all(NothingToDo))) == ([], 1)


def test_an_unfinished_target_goes_on_under_its_name_when_an_agent_comes(bare: Path) -> None:
    interrupted(bare, BatchLoaded)
    (bare.parent / "dreams").mkdir()
    assert migrate(bare, verify="none").target == bare.with_name(GUIDE)
    assert_names(bare, GUIDE, AGENT)


def test_a_pause_holds_for_the_name_that_it_was_typed_for(bare: Path) -> None:
    assert command(bare.parent, "pause", "--source", bare).code == ExitCode.COMPLETE
    (bare.parent / "dreams").mkdir()
    assert chosen(bare).target == bare.with_name(GUIDE)


# An empty target


def recall_by_hand(path: Path) -> None:
    """What a recall leaves where there is no target: a file without a row, with tables or without."""
    with opened(OURS, path, read_only=False) as ask:
        ask("CREATE NODE TABLE MemoryNode(id INT64 PRIMARY KEY, text STRING)")
        ask("CREATE NODE TABLE Recipe(id INT64 PRIMARY KEY)")


def kept_of(source: Path, name: str) -> list[Path]:
    return sorted(source.parent.glob(f"{name}.backup-????????-??????"))


def test_an_empty_target_gives_way(agents: Path) -> None:
    recall_by_hand(agents.with_name(AGENT))
    foretold = migrate(agents, dry_run=True).only(DryRun).facts["obstacles"]
    assert foretold == []
    done = command(agents.parent, "migrate", "--verify", "none")
    assert done.code == ExitCode.COMPLETE, done.error
    (kept,) = kept_of(agents, AGENT)
    assert f"{agents.with_name(AGENT)} was an empty LadybugDB file, and is kept as {kept}" in done.out
    assert_names(agents, AGENT, GUIDE)
    assert_same(agents, agents.with_name(AGENT))


@pytest.mark.long
def test_an_empty_file_at_the_second_name_gives_way_too(agents: Path) -> None:
    target = of_former_times(agents)
    recall_by_hand(agents.with_name(AGENT))
    ran = migrate(agents)
    assert (len(ran.all(GaveWay)), len(ran.all(NothingToDo))) == (1, 1)
    assert_names(agents, GUIDE, AGENT)
    assert ran.target == target


def test_an_empty_file_that_comes_during_the_run_gives_way(agents: Path) -> None:
    def come(event: Event) -> None:
        if isinstance(event, Verified):
            recall_by_hand(agents.with_name(AGENT))

    nimad.migrate(nimad.Settings(source=agents), come)
    assert len(kept_of(agents, AGENT)) == 1
    assert_same(agents, agents.with_name(AGENT))


def one_row(path: Path, table: str) -> None:
    recall_by_hand(path)
    with opened(OURS, path, read_only=False) as ask:
        ask(f"CREATE (:{table} {{id: 7}})")


def unclosed(path: Path) -> None:
    recall_by_hand(path)
    with answering(OURS, path, read_only=False) as (ask, process):
        ask("CREATE (:MemoryNode {id: 7})")
        process.kill()


def one_memory(path: Path) -> None:
    one_row(path, "MemoryNode")


def one_other(path: Path) -> None:
    one_row(path, "Recipe")


@pytest.mark.sampled
@pytest.mark.parametrize("make", [one_memory, one_other, unclosed])
def test_a_file_with_one_row_of_any_kind_does_not_give_way(agents: Path, make: Callable[[Path], None]) -> None:
    make(agents.with_name(AGENT))
    before = agents.with_name(AGENT).read_bytes()
    with pytest.raises(CannotWriteError, match=f"{AGENT} is in the way"):
        migrate(agents)
    assert agents.with_name(AGENT).read_bytes() == before
    assert kept_of(agents, AGENT) == []


def test_an_empty_file_whose_only_rows_are_in_a_log_by_its_other_name_does_not_give_way(agents: Path) -> None:
    recall_by_hand(agents.with_name(AGENT))
    agents.with_name(GUIDE).symlink_to(AGENT)
    with answering(OURS, agents.with_name(GUIDE), read_only=False) as (ask, process):
        ask("CREATE (:MemoryNode {id: 7})")
        process.kill()
    with pytest.raises((CannotWriteError, RefusedError)):
        migrate(agents)
    assert kept_of(agents, AGENT) == []
    assert beside(agents.with_name(GUIDE), ".wal").stat().st_size


@pytest.mark.long
def test_the_target_of_an_empty_memory_stays(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite")
    target = migrate(source).target
    before = target.stat().st_ino
    ran = migrate(source)
    assert (ran.all(GaveWay), target.stat().st_ino) == ([], before)


@pytest.mark.long
def test_an_empty_file_in_place_of_a_target_that_was_taken_away_gives_way(agents: Path) -> None:
    target = migrate(agents, verify="none").target
    target.unlink()
    recall_by_hand(target)
    assert migrate(agents, verify="none").all(GaveWay)
    assert_same(agents, target)


def test_a_file_that_got_the_inode_of_the_target_that_was_taken_away_is_not_taken_for_it(agents: Path) -> None:
    """As ext4 gives it to the next file that is made."""
    target = migrate(agents, verify="none").target
    made = state_of(target)
    assert made["file"]["born_ns"] == born_ns(target) is not None
    target.unlink()
    recall_by_hand(target)
    made["file"]["inode"] = target.stat().st_ino
    Files(target).state.write_text(json.dumps(made))
    assert migrate(agents, verify="none").all(GaveWay)
    assert_same(agents, target)


def test_a_copy_of_the_target_in_place_of_its_link_gives_way(agents: Path) -> None:
    """As a program leaves it that copies a folder and follows its links."""
    target = migrate(agents).target
    agents.with_name(GUIDE).unlink()
    shutil.copy2(target, agents.with_name(GUIDE))
    ran = migrate(agents)
    assert ran.only(GaveWay).why == f"was a copy of {target}"
    assert_names(agents, AGENT, GUIDE)
    assert len(ran.all(NothingToDo)) == 1


# A name that is missing


@pytest.mark.long
def test_a_link_that_was_removed_is_no_target_that_was_removed(agents: Path) -> None:
    migrate(agents)
    agents.with_name(GUIDE).unlink()
    said = f"the name {agents.with_name(GUIDE)} is missing"
    for words in (("status",), ("health",), ("verify",), ("doctor",)):
        done = command(agents.parent, *words)
        out = " ".join(done.out.split()).replace("The name", "the name")
        assert f"{said}; nimad migrate makes it again" in out, words
        assert f" migrate --source {agents} --target {agents.with_name(AGENT)}" in out, words
        assert "gone" not in done.out, words
        assert words == ("doctor",) or done.code == ExitCode.COMPLETE, words
    assert migrate(agents).only(Named).names == [str(agents.with_name(GUIDE))]
    assert said not in command(agents.parent, "status").out


def test_the_service_says_once_that_a_name_is_missing_and_goes_on(bare: Path) -> None:
    with service(bare.parent) as running:
        running.wait_for_status("Complete")
        running.wait_for(lambda: bare.with_name(AGENT).is_symlink())
        bare.with_name(AGENT).unlink()
        running.wait_for(lambda: "is missing; nimad migrate makes it again" in running.log, "the word of it")
        change(bare, "INSERT INTO memory_nodes (id, timestamp, layer, text) VALUES (77, 1, 'input', 'late')")
        running.wait_for(lambda: "1 memory added" in running.log, "the late memory")
        assert running.stop() == ExitCode.COMPLETE
    assert 77 in read_target(bare.with_name(GUIDE)).nodes
    assert running.log.count("is missing") == 1
    assert "gone" not in running.log


def test_where_no_link_can_be_made_the_target_is_complete_all_the_same(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a USB stick with FAT."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patched:
        patched.setattr(os, "symlink", refuse)
        ran = migrate(bare, verify="none")
        assert not migrate(bare).all(NotNamed), "it is said once"
        assert names.missing(Files(ran.target, (AGENT,))) == []
    assert (ran.only(NotNamed).name, ran.result.exit_code) == (str(bare.with_name(AGENT)), ExitCode.COMPLETE)
    assert ran.target.is_file()
    assert migrate(bare, also=["second"]).only(Named).names == [str(bare.with_name(name)) for name in (AGENT, "second")]
    told = state_of(ran.target)
    assert ("second" in told["also"], told["without_links"], told["replaces"]) == (True, False, {})


# The target by its other name


@pytest.mark.sampled
@pytest.mark.parametrize("how", ["moved onto the link", "moved, and the link turned round"])
def test_a_target_that_was_moved_to_its_other_name_gets_its_own_again(agents: Path, how: str) -> None:
    migrate(agents)
    target, link = agents.with_name(AGENT), agents.with_name(GUIDE)
    with opened(OURS, target, read_only=False) as ask:
        ask("CREATE (n:MemoryNode {id: 1000, text: 'of the agent', layer: 'input', turn_id: 'mine', timestamp: 1})")
    target.replace(link)
    if "turned" in how:
        target.symlink_to(GUIDE)
    moved = migrate(agents).only(PutBack)
    assert (moved.target, moved.found) == (str(target), str(link))
    assert (target.is_symlink(), link.readlink()) == (False, Path(AGENT))
    assert 1000 in read_target(target).nodes
    assert kept_of(agents, GUIDE) == []


# A log by another name


@pytest.fixture
def left_open(bare: Path) -> Path:
    """A target to which an agent wrote a turn by the link's name, and was killed."""
    migrate(bare)
    link = bare.with_name(AGENT)
    with answering(OURS, link, read_only=False) as (ask, process):
        ask("CREATE (n:MemoryNode {id: 1000, text: 'written by the other name', layer: 'input', timestamp: 1})")
        process.kill()
    assert beside(link, ".wal").stat().st_size, "else this would show nothing"
    return bare


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("verify", "--source", "{}"), ExitCode.QUARANTINED),
        (("verify", "--source", "{}", "--level", "counts"), ExitCode.QUARANTINED),
        (("search", "--target", "{folder}/graph.ladybug", "memory"), ExitCode.QUARANTINED),
        (("search", "--target", "{folder}/ladybug.lbug", "memory"), ExitCode.QUARANTINED),
        (("quarantine", "list", "--target", "{folder}/graph.ladybug"), ExitCode.QUARANTINED),
        (("status", "--source", "{}"), ExitCode.COMPLETE),
        (("health", "--source", "{}"), ExitCode.QUARANTINED),
        (("health", "--db", "{folder}/graph.ladybug"), ExitCode.QUARANTINED),
        (("clean", "--source", "{}"), ExitCode.COMPLETE),
        (("rollback", "--source", "{}"), ExitCode.INTERRUPTED),
        (("index", "--target", "{folder}/graph.ladybug"), ExitCode.INTERRUPTED),
    ],
)
def test_every_command_sees_a_log_by_another_name(left_open: Path, words: tuple[str, ...], code: int) -> None:
    folder = left_open.parent
    done = command(folder, *(word.format(left_open, folder=folder) for word in words))
    said = done.out + done.error
    assert left_open.with_name(AGENT).name in said
    assert "not close" in said or "not closed" in said, said
    assert "The same" not in said
    assert "Healthy" not in said
    assert done.code == code, said
    assert "Traceback" not in said


@pytest.mark.long
def test_what_an_agent_wrote_by_the_link_is_there_once_it_closed_it(left_open: Path) -> None:
    with opened(OURS, left_open.with_name(AGENT), read_only=False) as ask:
        assert ask("MATCH (n:MemoryNode) RETURN count(*)") == [[6]]
    done = command(left_open.parent, "verify", "--source", left_open)
    assert (done.code, "Only in the target" in done.out) == (ExitCode.QUARANTINED, True)
    done = command(left_open.parent, "search", "--target", left_open.with_name(GUIDE), "other name")
    assert (done.code, "1000" in done.out) == (ExitCode.COMPLETE, True)


def test_a_name_that_is_gone_still_has_its_log(left_open: Path) -> None:
    left_open.with_name(AGENT).unlink()
    done = command(left_open.parent, "verify", "--source", left_open)
    assert f"{left_open.with_name(AGENT)}.wal holds what a program wrote" in done.out
    assert "The same" not in done.out


def test_in_the_agents_home_its_log_lies_beside_the_file_and_is_read(agents: Path) -> None:
    """The reason for which the agent's name is the file there."""
    migrate(agents)
    with answering(OURS, agents.with_name(AGENT), read_only=False) as (ask, process):
        ask("CREATE (n:MemoryNode {id: 1000, text: 'by its own name', layer: 'input', timestamp: 1})")
        process.kill()
    for name in (AGENT, GUIDE):
        done = command(agents.parent, "search", "--target", agents.with_name(name), "own name")
        assert (done.code, "1000" in done.out) == (ExitCode.COMPLETE, True), name


@pytest.mark.long
def test_rolling_back_takes_both_names_away(bare: Path) -> None:
    migrate(bare)
    done = command(bare.parent, "rollback", "--source", bare, "--apply")
    assert done.code == ExitCode.COMPLETE, done.error
    assert not any(os.path.lexists(bare.with_name(name)) for name in (AGENT, GUIDE))


def test_a_target_that_was_taken_away_is_said_to_be_gone_whatever_stands_at_its_other_name(bare: Path) -> None:
    target = migrate(bare, verify="none").target
    target.unlink()
    bare.with_name(AGENT).unlink()
    recall_by_hand(bare.with_name(AGENT))
    assert "is gone" in command(bare.parent, "status", "--source", bare).out
    assert migrate(bare, verify="none").all(GaveWay)
    assert_names(bare, GUIDE, AGENT)


def test_a_name_of_another_target_is_not_taken_away(agents: Path) -> None:
    """What the agent wrote to that one would be out of sight, though nothing were lost."""
    folder = agents.parent
    migrate(agents, reader_python=Path("none"))
    words = ("migrate", "--source", agents, "--target", folder / "other.lbug", "--also", GUIDE, "--replace")
    done = command(folder, *words)
    assert done.code == ExitCode.CANNOT_WRITE
    assert f"{folder / GUIDE} leads to {folder / AGENT}, a target that the agent may have written to" in done.error
    assert (folder / GUIDE).resolve() == folder / AGENT


def test_a_target_whose_link_was_removed_is_not_left_behind_for_another_name(
    agents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the agent wrote to it would be out of sight, as where the link still leads to it."""
    folder = agents.parent
    target = migrate(agents, reader_python=Path("none")).target
    (folder / GUIDE).unlink()
    (folder / "data").mkdir()
    monkeypatch.setenv("NIMA_LADYBUG_DB", str(folder / "data" / AGENT))
    done = command(folder, "migrate", "--source", agents, "--reader-python", "none")
    assert done.code == ExitCode.CANNOT_WRITE, done.out
    assert f"{target} is a target that the agent may have written to" in done.error
    assert not (folder / "data" / AGENT).exists()
    back = command(folder, "rollback", "--apply", "--source", agents, "--target", target)
    assert back.code == ExitCode.COMPLETE, back.error
    again = command(folder, "migrate", "--source", agents, "--reader-python", "none")
    assert again.code == ExitCode.COMPLETE, again.error


@pytest.mark.parametrize("written", [False, True], ids=["as it was made", "written to by the agent"])
def test_a_target_that_was_moved_away_alone_can_be_gone_on_with(
    agents: Path, monkeypatch: pytest.MonkeyPatch, *, written: bool
) -> None:
    """The link that it left behind leads nowhere, and stands in the way of nothing."""
    folder = agents.parent
    target = migrate(agents, reader_python=Path("none")).target
    (folder / "data").mkdir()
    moved = target.rename(folder / "data" / AGENT)
    monkeypatch.setenv("NIMA_LADYBUG_DB", str(moved))
    if written:
        with opened(OURS, moved, read_only=False) as ask:
            ask("MATCH (n:MemoryNode {id: 1}) SET n.is_ghost = true")
    replace = ["--replace"] if written else []
    done = command(folder, "migrate", "--source", agents, "--reader-python", "none", *replace)
    assert done.code == ExitCode.COMPLETE, done.error
    assert (folder / GUIDE).resolve() == moved
    with opened(OURS, moved) as ask:
        assert ask("MATCH (n:MemoryNode {id: 1}) RETURN n.is_ghost") == [[written]]


def test_a_database_at_the_other_name_that_replace_sets_aside_is_named(agents: Path) -> None:
    """The target was moved over its link, and the agent made itself another one in its place."""
    target = migrate(agents, reader_python=Path("none")).target
    with opened(OURS, target, read_only=False) as ask:
        ask("MATCH (n:MemoryNode {id: 1}) SET n.is_ghost = true")
    moved = target.rename(agents.with_name(GUIDE))
    with opened(OURS, target, read_only=False) as ask:
        ask("CREATE NODE TABLE MemoryNode(id INT64 PRIMARY KEY, text STRING)")
        ask("CREATE (:MemoryNode {id: 1, text: 'new'})")
    done = migrate(agents, replace=True, reader_python=Path("none"))
    (kept,) = kept_of(agents, GUIDE)
    (told,) = (each for each in done.all(NotBroughtAlong) if each.target == str(moved))
    assert told.why == f"it was no link to {target}, and is kept as {kept}"
    with opened(OURS, kept) as ask:
        assert ask("MATCH (n:MemoryNode {id: 1}) RETURN n.is_ghost") == [[True]]
    assert_names(agents, AGENT, GUIDE)
