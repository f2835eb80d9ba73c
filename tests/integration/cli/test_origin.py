"""Whose memory it is: no target gives way to a memory that nobody named, and a retry reads the source it came from.

Two agents live here: one at home, in the default place, and one elsewhere. No command about the one's target may ever
read the other's memory because an option was left out.
"""

from pathlib import Path

import pytest
from support.commands import nimad
from support.memories import assert_same, change, make_memory, node, read_target
from support.torture import beside, interrupted, staging_of

from nimad.errors import ExitCode
from nimad.events.run import BatchLoaded


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of the agent in the default place, whose memory is ready to be taken by mistake."""
    (tmp_path / ".nima/memory").mkdir(parents=True)
    make_memory(tmp_path / ".nima/memory/graph.sqlite", nodes=[node(1_000 + number) for number in range(3)])
    return tmp_path


@pytest.fixture
def agent(home: Path) -> Path:
    """The other agent's memory; one of its values is for the quarantine."""
    (home / "agents").mkdir()
    nodes = [node(1), node(2, timestamp="noon"), node(3)]
    return make_memory(home / "agents/ada.sqlite", nodes=nodes)


@pytest.fixture
def target(home: Path, agent: Path) -> Path:
    """The other agent's target, finished."""
    path = home / "agents/ada.ladybug"
    done = nimad(home, "migrate", "--source", agent, "--target", path)
    assert done.code == ExitCode.QUARANTINED, done.err
    return path


@pytest.mark.long
def test_a_retry_reads_the_source_that_its_target_was_made_from(home: Path, agent: Path, target: Path) -> None:
    change(agent, "UPDATE memory_nodes SET timestamp = 12 WHERE id = 2")
    done = nimad(home, "quarantine", "retry", "--target", target)
    assert (done.code, done.err) == (0, "")
    assert_same(agent, target)
    assert "Quarantined" in (home / "agents/migration.log").read_text()
    assert not (home / ".nima/memory/migration.log").exists()


@pytest.mark.long
def test_a_retry_goes_on_with_the_source_of_an_unfinished_target(home: Path, agent: Path) -> None:
    interrupted(agent, BatchLoaded, batch_size=1)
    done = nimad(home, "quarantine", "retry", "--target", agent.with_name("graph.ladybug"))
    assert done.code == ExitCode.QUARANTINED, done.err
    assert read_target(agent.with_name("graph.ladybug")).nodes.keys() == {1, 2, 3}


@pytest.mark.long
def test_a_retry_in_the_default_place_needs_no_names(home: Path) -> None:
    change(home / ".nima/memory/graph.sqlite", "UPDATE memory_nodes SET timestamp = 'noon' WHERE id = 1000")
    assert nimad(home, "migrate").code == ExitCode.QUARANTINED
    change(home / ".nima/memory/graph.sqlite", "UPDATE memory_nodes SET timestamp = 12 WHERE id = 1000")
    assert nimad(home, "quarantine", "retry").code == 0
    assert_same(home / ".nima/memory/graph.sqlite", home / ".nima/memory/ladybug.lbug")


def test_a_retry_of_another_source_is_refused(home: Path, agent: Path, target: Path) -> None:
    done = nimad(home, "quarantine", "retry", "--source", home / ".nima/memory/graph.sqlite", "--target", target)
    assert done.code == ExitCode.CANNOT_WRITE
    assert f"was made from another source: {agent}, not {home}/.nima/memory/graph.sqlite" in done.error
    assert read_target(target).nodes.keys() == {1, 2, 3}


@pytest.mark.long
def test_where_nothing_tells_of_the_source_a_retry_asks_for_it(home: Path, target: Path) -> None:
    beside(target, ".state.json").unlink()
    done = nimad(home, "quarantine", "retry", "--target", target)
    assert done.code == ExitCode.USAGE
    assert f"nothing tells from which source {target} was made; name it with --source" in done.error
    assert read_target(target).nodes.keys() == {1, 2, 3}


@pytest.mark.sampled
@pytest.mark.parametrize("garbled", ['{"format": 1, "published": {"a": 1}, "source": {}}', "[", '{"format": 1}'])
def test_a_garbled_state_file_tells_of_no_source(home: Path, target: Path, garbled: str) -> None:
    beside(target, ".state.json").write_text(garbled)
    done = nimad(home, "quarantine", "retry", "--target", target)
    assert (done.code, "name it with --source" in done.error) == (ExitCode.USAGE, True)


@pytest.mark.long
def test_a_retry_of_no_target_makes_none(home: Path) -> None:
    for words in (("quarantine", "retry"), ("quarantine", "list"), ("search", "x")):
        done = nimad(home, *words, "--target", "new.ladybug")
        assert done.code == ExitCode.USAGE
        assert f"there is no file {home / 'new.ladybug'}" in done.error
    assert not (home / "new.ladybug").exists()


def test_replace_puts_no_memory_in_place_that_nobody_named(home: Path, agent: Path, target: Path) -> None:
    done = nimad(home, "migrate", "--target", target, "--replace")
    assert done.code == ExitCode.CANNOT_WRITE
    assert f"was made from another source: {agent}, not " in done.error
    assert "--source" in done.error
    by_variable = nimad(home, "migrate", "--replace", NIMA_LADYBUG_DB=str(target))
    assert by_variable.code == ExitCode.CANNOT_WRITE
    assert read_target(target).nodes.keys() == {1, 2, 3}
    assert list(target.parent.glob("*.backup-*")) == []


@pytest.mark.long
def test_replace_with_another_source_that_was_typed_goes_ahead(home: Path, target: Path) -> None:
    other = home / ".nima/memory/graph.sqlite"
    done = nimad(home, "migrate", "--source", other, "--target", target, "--replace")
    assert (done.code, done.err) == (0, "")
    assert_same(other, target)
    assert len(list(target.parent.glob("ada.ladybug.backup-*"))) == 2  # and its quarantine


@pytest.mark.long
def test_replace_needs_no_name_where_the_memory_stays_the_same(home: Path) -> None:
    assert nimad(home, "migrate").code == 0
    assert nimad(home, "migrate", "--replace").code == 0


def test_restart_throws_no_unfinished_target_away_for_a_memory_that_nobody_named(home: Path, agent: Path) -> None:
    interrupted(agent, BatchLoaded, batch_size=1)
    done = nimad(home, "migrate", "--target", agent.with_name("graph.ladybug"), "--restart")
    assert done.code == ExitCode.CANNOT_WRITE
    assert f"{staging_of(agent)} was made from another source" in done.error
    assert staging_of(agent).exists()
