"""`nimad clean`: what is left over is listed by age, and nothing goes that may be the last copy of a memory."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.commands import GOLDEN, nimad
from support.following import agent, written_by_agent
from support.memories import make_memory, migrate, node, quarantine_file
from support.torture import beside, target_of
from test_bad_input import everything_in, restricted

from nimad.cleanup import removal
from nimad.cleanup.leftovers import Leftover, LeftoverKind, leftovers
from nimad.cleanup.removal import Cleaning
from nimad.config import Settings
from nimad.errors import ExitCode, LockedError

__all__ = ["restricted"]

OLD, NEWER = "20240101-120000", "20240201-120000"


def settings(source: Path) -> Settings:
    return Settings(source=source, reader_python=Path("none"))


def left(folder: Path, *names: str, data: bytes = b"x" * 5000) -> list[Path]:
    """Files of a year ago."""
    paths = [folder / name for name in names]
    for path in paths:
        path.write_bytes(data)
        os.utime(path, (time.time() - 400 * removal.DAY_S,) * 2)
    return paths


def look(source: Path, days: float = 30, **options: bool) -> Cleaning:
    return removal.plan_cleanup(settings(source), days, **options)


def named(found: Sequence[Leftover]) -> dict[str, str]:
    return {each.path.name: each.reason for each in found}


def test_a_folder_without_leftovers_says_so(source: Path) -> None:
    assert leftovers(settings(source)) == ()
    done = nimad(source.parent, "clean", "--source", source)
    assert (done.code, done.out) == (0, f"Nothing is left over beside {target_of(source)}\n")


def test_what_runs_leave_is_told_by_kind_size_and_age(source: Path) -> None:
    left(
        source.parent,
        "graph.ladybug.migrating",
        "graph.ladybug.migrating.wal",
        "graph.ladybug.migrating.ledger",
        "graph.ladybug.migrating.compact",
        f"graph.ladybug.migrating.{OLD}",
        f"graph.ladybug.migrating.wal.{OLD}",
        f"graph.ladybug.wal.{OLD}-2",
        f"graph.ladybug.backup-{OLD}",
        f"graph.ladybug.backup-{OLD}.wal",
        f"graph.ladybug.backup-{OLD}.quarantine.jsonl",
        f"graph.sqlite.backup-{OLD}",
        f"graph.ladybug.rollback-{OLD}.jsonl",
        "graph.ladybug.state.json.tmp",
        "graph.ladybug.of-my-own",
        "graph.sqlite.of-my-own",
    )
    found = {each.path.name.removeprefix("graph.ladybug"): each for each in leftovers(settings(source))}
    assert {name: each.kind for name, each in found.items()} == {
        ".migrating": LeftoverKind.UNFINISHED,
        f".migrating.{OLD}": LeftoverKind.FAILED,
        f".migrating.wal.{OLD}": LeftoverKind.LOG,
        f".wal.{OLD}-2": LeftoverKind.LOG,
        f".backup-{OLD}": LeftoverKind.BACKUP,
        f".backup-{OLD}.quarantine.jsonl": LeftoverKind.QUARANTINE,
        f"graph.sqlite.backup-{OLD}": LeftoverKind.SQLITE_BACKUP,
        f".rollback-{OLD}.jsonl": LeftoverKind.RECORD,
        ".state.json.tmp": LeftoverKind.TEMPORARY,
    }
    unfinished = found[".migrating"]
    assert len(unfinished.pieces) == 4
    assert unfinished.bytes == sum(path.stat().st_blocks * 512 for path in unfinished.pieces)
    assert 399 < unfinished.age_s / removal.DAY_S < 401


def test_nothing_goes_before_it_is_asked_for_and_then_what_is_old(source: Path) -> None:
    old = left(
        source.parent, f"graph.ladybug.migrating.{OLD}", "graph.ladybug.migrating", "graph.ladybug.migrating.wal"
    )
    young = source.parent / "graph.ladybug.state.json.tmp"
    young.write_text("half")
    before = everything_in(source.parent)
    assert sorted(named(look(source).going)) == ["graph.ladybug.migrating", f"graph.ladybug.migrating.{OLD}"]
    assert named(look(source).staying) == {young.name: "not older than 30 days"}
    assert everything_in(source.parent) == before
    removal.remove_leftovers(settings(source))
    assert not any(path.exists() for path in old)
    assert young.exists()
    assert {path.name for path in source.parent.iterdir()} > {"graph.sqlite", "graph.ladybug", "graph.ladybug.ledger"}


# Never a last copy


def test_the_newest_backup_stays_unless_it_is_asked_for(source: Path) -> None:
    left(source.parent, f"graph.sqlite.backup-{OLD}", f"graph.sqlite.backup-{NEWER}")
    assert named(look(source).staying) == {f"graph.sqlite.backup-{NEWER}": "the newest one"}
    assert len(look(source, newest=True).going) == 2


def test_a_backup_goes_only_when_sqlite_has_all_that_it_holds(source: Path) -> None:
    target = target_of(source)
    one, other = (source.parent / f"graph.ladybug.backup-{date}" for date in (OLD, NEWER))
    one.write_bytes(target.read_bytes())
    other.write_bytes(target.read_bytes())
    written_by_agent(other, 200, [61, 62, 63])
    found = look(source, newest=True)
    assert named(found.going) == {one.name: "SQLite has all that it holds"}
    assert named(found.staying) == {other.name: "it holds 6 rows, or parts of rows, that SQLite lacks or has otherwise"}
    done = removal.remove_leftovers(settings(source), newest=True)
    assert (done.applied, one.exists(), other.exists()) == (True, False, True)


def test_a_backup_stays_whose_memory_says_something_else_than_sqlites(source: Path) -> None:
    backup = source.parent / f"graph.ladybug.backup-{OLD}"
    backup.write_bytes(target_of(source).read_bytes())
    with agent(backup) as connection:
        connection.execute("MATCH (n:MemoryNode {id: 6}) SET n.text = 'as the agent put it later'")
    assert named(look(source, newest=True).staying) == {
        backup.name: "it holds 1 row, or parts of rows, that SQLite lacks or has otherwise"
    }


def test_a_backup_that_cannot_be_read_stays(source: Path) -> None:
    left(source.parent, f"graph.ladybug.backup-{OLD}")
    ((name, reason),) = named(look(source, newest=True).staying).items()
    assert name == f"graph.ladybug.backup-{OLD}"
    assert reason.startswith("whether SQLite has all that it holds cannot be told")


def test_a_folder_that_stood_at_the_targets_name_stays(source: Path) -> None:
    folder = source.parent / f"graph.ladybug.backup-{OLD}"
    folder.mkdir()
    left(folder, "catalog.kz")
    removal.remove_leftovers(settings(source), newest=True)
    assert (folder / "catalog.kz").exists()


def test_without_a_target_that_was_verified_its_backups_stay(source: Path) -> None:
    left(source.parent, f"graph.ladybug.backup-{OLD}")
    target_of(source).unlink()
    found = {each.path.name: (each.may_go, each.reason) for each in leftovers(settings(source), newest=True)}
    assert found[f"graph.ladybug.backup-{OLD}"] == (False, f"there is no verified target at {target_of(source)}")
    assert found["graph.ladybug.state.json"] == (True, "nothing needs it")


@pytest.mark.parametrize("harm", ["gone", "damaged", "another"])
def test_without_a_whole_sqlite_what_was_copied_of_it_stays(source: Path, harm: str) -> None:
    left(source.parent, "graph.ladybug.migrating", f"graph.ladybug.migrating.{OLD}", f"graph.sqlite.backup-{OLD}")
    left(source.parent, f"graph.ladybug.wal.{OLD}")
    if harm == "gone":
        source.unlink()
    elif harm == "another":  # the agent lost its memory, and began a new one
        make_memory(source.with_name("new"), nodes=[node(1)]).replace(source)
    else:
        os.truncate(source, source.stat().st_size - 4096)
    found = look(source, newest=True)
    assert found.going == ()
    assert all("this may be the last copy" in each.reason for each in found.staying)


def test_a_quarantine_stays_with_what_is_in_no_target(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1), node(2, timestamp="noon")])
    run = migrate(source, reader_python=Path("none"))
    lines = quarantine_file(run.target).read_bytes()
    same, other = left(
        tmp_path, *(f"graph.ladybug.backup-{date}.quarantine.jsonl" for date in (OLD, NEWER)), data=lines
    )
    other.write_bytes(lines.replace(b"noon", b"dawn"))
    found = look(source, 0)
    assert list(named(found.going)) == [same.name]
    assert named(found.staying) == {other.name: "it holds 1 entry, which are in no target"}
    run.target.unlink()
    assert quarantine_file(run.target).name in named(look(source, 0).staying)


def test_recorded_conflicts_stay_with_their_target_and_go_after_it(source: Path) -> None:
    of_target, of_backup = left(
        source.parent, "graph.ladybug.conflicts.jsonl", f"graph.ladybug.backup-{OLD}.conflicts.jsonl"
    )
    backup = of_backup.with_name(f"graph.ladybug.backup-{OLD}")
    backup.write_bytes(target_of(source).read_bytes())
    assert not {of_target.name, of_backup.name} & {each.path.name for each in leftovers(settings(source))}
    removal.remove_leftovers(settings(source), newest=True)
    assert (backup.exists(), of_backup.exists(), of_target.exists()) == (False, False, True)
    target_of(source).unlink()
    assert named(look(source, 500).staying)[of_target.name] == "not older than 500 days"
    assert named(look(source).going)[of_target.name] == "nothing needs it"
    os.truncate(source, source.stat().st_size - 4096)
    assert "this may be the last copy" in named(look(source).staying)[of_target.name]


# What somebody uses


def test_what_a_program_has_open_stays(source: Path) -> None:
    (path,) = left(source.parent, f"graph.ladybug.migrating.{OLD}")
    program = "import sys; f = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        assert named(look(source).staying) == {path.name: f"it is open in another program (PID {other.pid})"}


def test_what_a_run_works_on_stays(source: Path) -> None:
    left(source.parent, "graph.ladybug.migrating")
    program = (
        "import sys; from pathlib import Path; from nimad.state.paths import Files, locked\n"
        "with locked(Files(Path(sys.argv[1]))): print('locked', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", program, str(target_of(source))]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        assert named(look(source).staying) == {"graph.ladybug.migrating": f"a run is at work (PID {other.pid})"}
        with pytest.raises(LockedError):
            removal.remove_leftovers(settings(source))


def test_a_link_is_neither_followed_nor_removed(source: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    link = beside(target_of(source), f".backup-{OLD}")
    link.symlink_to(precious)
    removal.remove_leftovers(settings(source), 0, newest=True)
    assert (link.is_symlink(), precious.read_text()) == (True, "mine")


@pytest.mark.parametrize("name", ["graph.ladybug", "graph.sqlite", "graph.lbug"])
def test_what_a_link_leads_to_is_in_use_whatever_its_name_is(source: Path, name: str) -> None:
    path = source.with_name(name)
    backup = path.with_name(f"{'graph.ladybug' if name == 'graph.lbug' else name}.backup-{OLD}")
    if path.exists():
        path.rename(backup)
    else:
        backup.write_bytes(target_of(source).read_bytes())
    path.symlink_to(backup.name)  # how somebody goes back to a backup
    assert named(removal.remove_leftovers(settings(source), 0, newest=True).staying) == {
        backup.name: f"{path} leads to it"
    }
    assert backup.exists()


def test_a_file_that_may_not_be_removed_is_named(source: Path, restricted: list[str]) -> None:
    (path,) = left(source.parent, f"graph.ladybug.migrating.{OLD}")
    source.parent.chmod(0o555)
    done = nimad(source.parent, "clean", "--source", source, "--apply", prefix=restricted)
    source.parent.chmod(0o755)
    assert done.code == ExitCode.CANNOT_WRITE, done.err
    assert path.exists()


# What people see


def test_what_people_see_is_kept_as_a_golden_file(source: Path) -> None:
    left(source.parent, f"graph.ladybug.migrating.{OLD}", f"graph.ladybug.wal.{OLD}")
    backup = beside(target_of(source), f".backup-{OLD}")
    backup.write_bytes(target_of(source).read_bytes())
    words = ("clean", "--source", source, "--older-than", "7")
    looked, done, again = (nimad(source.parent, *words, *more) for more in ((), ("--apply",), ("--json",)))
    assert (looked.code, done.code, again.code) == (0, 0, 0)
    text = "\n".join(f"$ nimad clean{more}\n{ran.out}" for more, ran in (("", looked), (" --apply", done)))
    text = text.replace(str(source.parent), "/memory").replace(f"{sys.executable} -P -m nimad", "nimad")
    days = str(int((time.time() - time.mktime(time.strptime(OLD, "%Y%m%d-%H%M%S"))) // removal.DAY_S))
    text = text.replace(f"{days} days", "AGE days")
    text = re.sub(r" *[\d.]+ [kM]B", " SIZE", text)
    golden = GOLDEN / "clean.txt"
    if os.environ.get("NIMAD_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
    facts: dict[str, Any] = json.loads(again.out)
    assert [each["reason"] for each in facts["staying"]] == ["the newest one"]
