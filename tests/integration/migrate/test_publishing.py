"""The final name appears once, whole, private, and never over something else."""

import os
import re
import stat
import time
from contextlib import suppress
from pathlib import Path

import ladybug
import pytest
from support.memories import ENGINE_LIMITS, assert_same, edge, make_memory, migrate, node, read_target, turn
from support.torture import (
    Life,
    assert_nothing_left,
    beside,
    interrupted,
    small_memory,
    staging_of,
    state_of,
    target_of,
)

import nimad
from nimad.errors import CannotWriteError, ExitCode, NimadError, NotAllowedError
from nimad.events.run import BatchLoaded, Compacted, DryRun, Event, NotCompacted, NothingToDo, Published, Verified


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_memory(
        tmp_path / "graph.sqlite",
        nodes=[node(number) for number in range(1, 31)],
        edges=[edge(number, number, number + 1) for number in range(1, 30)],
        turns=[turn(number, number, number + 1) for number in range(1, 21)],
    )


def look(path: Path) -> tuple[int, int, bytes]:
    """What tells whether a file was touched."""
    status = path.lstat()
    return (status.st_ino, status.st_mtime_ns, path.read_bytes())


def backups(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.glob(f"{target.name}.backup-*"))


# What stands at the final name


@pytest.mark.long
def test_a_complete_target_is_left_alone(source: Path) -> None:
    target = migrate(source).target
    before = look(target)
    assert state_of(target)["phase"] == "complete"
    assert state_of(target)["published"]["MemoryNode"] == 30
    with Life(source) as life:
        assert life.wait() == ExitCode.COMPLETE, life.said
    assert f"Nothing to do: {target} is complete: 30 memories" in life.said
    assert look(target) == before
    assert_nothing_left(target)


@pytest.mark.long
def test_half_a_state_file_of_a_run_that_was_killed_at_its_end_does_not_stay(source: Path) -> None:
    target = migrate(source).target
    beside(target, ".state.json.tmp").write_text('{"format": 1, "pha')
    migrate(source)
    assert_nothing_left(target)
    assert state_of(target)["phase"] == "complete"


def test_a_complete_target_without_its_state_file_is_recognised(source: Path) -> None:
    target = migrate(source).target
    beside(target, ".state.json").unlink()
    before = look(target)
    run = migrate(source)
    assert "is complete: 30 memories" in run.only(NothingToDo).why
    assert look(target) == before


@pytest.mark.sampled
@pytest.mark.parametrize("content", [b"", b"precious"])
def test_a_foreign_file_in_the_way_is_refused_and_kept(source: Path, content: bytes) -> None:
    target = target_of(source)
    target.write_bytes(content)
    before = look(target)
    with Life(source) as life:
        assert life.wait() == ExitCode.CANNOT_WRITE, life.said
    assert f"{target} is in the way" in life.said
    assert "--replace" in life.said
    assert "Traceback" not in life.said
    assert look(target) == before
    assert not staging_of(source).exists()
    assert_nothing_left(target)


def test_a_folder_in_the_way_is_refused_and_kept(source: Path) -> None:
    target_of(source).mkdir()
    with pytest.raises(CannotWriteError, match="is no plain file"):
        migrate(source)
    assert list(target_of(source).iterdir()) == []


def test_the_folder_of_the_source_named_as_target_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    folder.mkdir()
    source = make_memory(folder / "graph.sqlite", nodes=[node(1)])
    before = source.read_bytes()
    with pytest.raises(CannotWriteError, match="is no plain file; move it away"):
        migrate(source, target=folder, replace=True)
    assert source.read_bytes() == before
    foretold = migrate(source, target=folder, replace=True, dry_run=True).only(DryRun)
    assert any("is no plain file" in why for why in foretold.facts["obstacles"])


def test_a_link_to_nothing_in_the_way_is_refused_and_kept(source: Path, tmp_path: Path) -> None:
    target_of(source).symlink_to(tmp_path / "nowhere")
    with pytest.raises(CannotWriteError, match="a symbolic link to nothing"):
        migrate(source)
    assert not (tmp_path / "nowhere").exists()


def test_another_memory_in_the_way_is_refused_and_kept(source: Path, tmp_path: Path) -> None:
    other = make_memory(tmp_path / "other.sqlite", nodes=[node(1, text="of another")])
    target = migrate(other, target=target_of(source)).target
    before = look(target)
    with pytest.raises(CannotWriteError, match="made from another source"):
        migrate(source)
    assert look(target) == before
    assert read_target(target).nodes.keys() == {1}


@pytest.mark.long
def test_replace_keeps_what_was_there_as_a_dated_backup(source: Path) -> None:
    target = target_of(source)
    target.write_bytes(b"precious")
    beside(target, ".wal").write_bytes(b"its log")
    day = time.strftime("%Y%m%d")
    run = migrate(source, replace=True)
    backup = run.only(Published).backup
    assert backup is not None
    assert re.fullmatch(rf"graph\.ladybug\.backup-{day}-\d{{6}}", Path(backup).name)
    assert Path(backup).read_bytes() == b"precious"
    assert Path(backup + ".wal").read_bytes() == b"its log"
    assert backups(target) == [Path(backup).name, Path(backup).name + ".wal"]
    assert_same(source, target)
    first = look(target)
    beside(target, ".conflicts.jsonl").write_text("{}\n")
    again = migrate(source, replace=True, verify="none").only(Published).backup
    assert again is not None
    assert look(Path(again)) == first
    assert Path(again + ".conflicts.jsonl").read_text() == "{}\n"
    assert len(backups(target)) == 4
    assert_same(source, target)
    assert_nothing_left(target)


def test_replace_shows_the_old_target_until_the_new_one_is_verified(source: Path) -> None:
    target = target_of(source)
    target.write_bytes(b"precious")
    seen: list[bytes] = []

    def listen(event: Event) -> None:
        if not isinstance(event, Published) and type(event).__name__ != "Finished":
            seen.append(target.read_bytes())

    nimad.migrate(nimad.Settings(source=source, replace=True), listen)
    assert set(seen) == {b"precious"}
    assert len(seen) > 5


def test_stray_logs_of_a_target_that_is_gone_are_not_replayed(source: Path) -> None:
    target = target_of(source)
    for suffix in (".wal", ".shadow"):
        beside(target, suffix).write_bytes(b"of another file")
    run = migrate(source)
    backup = run.only(Published).backup
    assert backup is not None
    for suffix in (".wal", ".shadow"):
        assert Path(backup + suffix).read_bytes() == b"of another file"
    assert_same(source, target)
    assert_nothing_left(target)


def test_a_target_that_appears_during_the_run_is_not_overwritten(source: Path) -> None:
    target = target_of(source)

    def listen(event: Event) -> None:
        if isinstance(event, Verified):
            target.write_bytes(b"precious")

    with pytest.raises(CannotWriteError, match="it appeared during the run"):
        nimad.migrate(nimad.Settings(source=source), listen)
    assert target.read_bytes() == b"precious"
    assert staging_of(source).exists(), "what was counted is kept"
    target.unlink()
    assert_same(source, migrate(source).target)


# Links at our own names

OWN_NAMES = (
    ".migrating",
    ".migrating.compact",
    ".migrating.ledger",
    ".state.json",
    ".runs.jsonl",
    ".quarantine.jsonl",
    ".conflicts.jsonl",
    ".lock",
)
#: Names that exist for a moment only. A link there may be refused or removed, but not followed.
PASSING_NAMES = (".state.json.tmp", ".migrating.wal", ".migrating.shadow", ".migrating.compact.wal")


def test_a_symbolic_link_at_a_name_of_ours_is_refused(source: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for suffix in OWN_NAMES:
        link = beside(target_of(source), suffix)
        link.symlink_to(victim)
        with pytest.raises(NotAllowedError, match=f"{re.escape(str(link))} is a symbolic link"):
            migrate(source)
        assert victim.read_bytes() == b"precious", suffix
        assert link.is_symlink(), suffix
        assert not target_of(source).exists(), suffix
        link.unlink()


def test_nothing_is_written_through_a_link_at_a_passing_name(source: Path, tmp_path: Path) -> None:
    victims = {suffix: tmp_path / f"victim{suffix}" for suffix in PASSING_NAMES}
    for suffix, victim in victims.items():
        victim.write_bytes(b"precious")
        beside(target_of(source), suffix).symlink_to(victim)
    with suppress(NimadError):  # to refuse is as good as to remove
        assert_same(source, migrate(source).target)
    assert {victim.read_bytes() for victim in victims.values()} == {b"precious"}


def test_an_engines_log_that_is_a_link_is_not_followed_on_resuming(source: Path, tmp_path: Path) -> None:
    interrupted(source, BatchLoaded)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    beside(target_of(source), ".migrating.wal").symlink_to(victim)
    with pytest.raises(NotAllowedError, match="is a symbolic link"):
        migrate(source)
    assert victim.read_bytes() == b"precious"


def test_a_log_file_that_is_a_link_is_not_followed(source: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "migration.log").symlink_to(victim)
    with Life(source) as life:
        assert life.wait() == ExitCode.NOT_ALLOWED, life.said
    assert f"{tmp_path / 'migration.log'} is a symbolic link" in life.said
    assert victim.read_bytes() == b"precious"


# What the files are like


def modes(folder: Path, *, but: set[str]) -> dict[str, str]:
    return {
        path.name: stat.filemode(path.stat().st_mode)
        for path in folder.iterdir()
        if path.name not in but and not path.name.startswith("output-")
    }


@pytest.mark.long
def test_what_we_make_is_for_its_owner_alone(tmp_path: Path) -> None:
    source = make_memory(
        tmp_path / "graph.sqlite", nodes=[node(1), node("x", who="y") | {"id": 2, "timestamp": "noon"}]
    )
    seen: dict[str, str] = {}
    before = os.umask(0)  # the most open one
    try:
        nimad.migrate(nimad.Settings(source=source), lambda _: seen.update(modes(tmp_path, but={source.name})))
        with Life(source, "--replace", "--verify", "none") as life:
            life.wait()
    finally:
        os.umask(before)
    seen.update(modes(tmp_path, but={source.name}))
    passing = {".migrating", ".migrating.ledger", ".quarantine.jsonl", ".state.json", ".runs.jsonl", ".lock"}
    assert set(seen) >= {"migration.log", "graph.ladybug", *(f"graph.ladybug{suffix}" for suffix in passing)}
    assert set(seen.values()) == {"-rw-------"}, seen


def test_a_plain_reader_opens_the_target(source: Path) -> None:
    target = migrate(source).target
    before = look(target)
    database = ladybug.Database(str(target), read_only=True, **ENGINE_LIMITS)
    connection = ladybug.Connection(database)
    rows = connection.execute("MATCH (n:MemoryNode) WHERE n.text CONTAINS '7' RETURN count(*)").get_all()
    connection.close()
    database.close()
    assert rows == [[3]]
    assert look(target) == before
    assert_nothing_left(target)


NAMES = ("with 'one', \"double\", back\\slash, Zoë ✓ 記憶", "-dash % %41 # ? & $HOME `x` *.lbug")


@pytest.mark.sampled
@pytest.mark.parametrize("name", NAMES)
def test_any_name_will_do(source: Path, name: str) -> None:
    target = source.parent / "a 'strange' föld\"er" / name
    target.parent.mkdir()
    if name == NAMES[0]:
        interrupted(source, BatchLoaded, target=target)  # the staging file is opened again under that name
    run = migrate(source, target=target)
    assert run.target == target
    assert_same(source, target)
    assert_nothing_left(target)


@pytest.mark.long
def test_compaction_works_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "it's \" in \\ föld "
    monkeypatch.setattr("nimad.migration.compact.SMALL_FILE", 0)
    monkeypatch.setattr("nimad.migration.compact.WORTHWHILE", 1.0)
    source = small_memory(tmp_path / "graph.sqlite", nodes=400)
    target = tmp_path / name / name
    target.parent.mkdir()
    run = migrate(source, target=target, batch_size=40, fixed_batch=True)
    assert run.all(NotCompacted) == []
    assert run.all(Compacted)
    assert_same(source, target)
    assert_nothing_left(target)
