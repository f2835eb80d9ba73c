"""Attacks of a memory's owner, or of another user, on root: none reaches what its user could not reach alone."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.commands import TIMEOUT_S, nimad
from support.memories import make_memory, node
from support.torture import Life, beside, target_of
from support.users import ALICE, BOB, ROOT, folder_of, given

from nimad.engines.selection import MOST_READERS
from nimad.errors import ExitCode

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be attacked")


@pytest.fixture
def alice(ground: Path) -> Path:
    folder = folder_of(ALICE, ground / "alice")
    return given(ALICE, make_memory(folder / "graph.sqlite", nodes=[node(number) for number in range(1, 41)]))


def noting(folder: Path, noted: Path, number: int = 0) -> Path:
    """A program of the user's that notes as whom it runs."""
    noted.touch()
    noted.chmod(0o666)
    program = folder / f"python{number}"
    program.write_text(f"#!/bin/sh\nid -u >> {noted}\n")
    program.chmod(0o755)
    return given(ALICE, program)


def as_whom(noted: Path) -> set[str]:
    return set(noted.read_text().split())


@contextmanager
def flipping(path: Path, other: Path) -> Iterator[None]:
    """While it lasts, a name leads now to its file, and now to a file of another user."""
    end, mine, part = threading.Event(), path.with_name("mine"), path.with_name("part")
    os.link(path, mine)

    def flip() -> None:
        while not end.is_set():
            part.symlink_to(other)
            os.lchown(part, ALICE, ALICE)
            part.replace(path)
            time.sleep(0.001)
            os.link(mine, part)
            part.replace(path)
            time.sleep(0.001)

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def write_config(ground: Path, text: str) -> Path:
    config = ground / "nimad.toml"
    config.write_text(text)
    return config


# Programs


@pytest.mark.parametrize("command", [("migrate", "--dry-run"), ("doctor",)], ids=["migrate", "doctor"])
def test_no_program_that_a_state_file_names_runs_as_root(
    alice: Path, ground: Path, reaching: list[str], command: tuple[str, ...]
) -> None:
    """While the memory's name leads now to the owner's file and now to one of root's."""
    noted, roots = ground / "noted", make_memory(folder_of(ROOT, ground / "roots") / "graph.sqlite", nodes=[node(1)])
    programs = [noting(alice.parent, noted, number) for number in range(60)]
    state = beside(target_of(alice), ".state.json")
    readers = [{"python": str(program)} for program in programs]
    made = {"format": 1, "phase": "complete", "published": {"MemoryNode": 1}, "versions": {"readers": readers}}
    state.write_text(json.dumps(made))
    given(ALICE, state)
    words = [*reaching, sys.executable, "-m", "nimad", *command, "--source", str(alice)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ground) as process:
        while process.poll() is None and not noted.read_text():
            time.sleep(0.001)
        with flipping(alice, roots):
            process.wait(TIMEOUT_S)
    assert as_whom(noted) == {str(ALICE)}
    assert len(noted.read_text().split()) <= MOST_READERS * 2, "of the sixty"


def test_verify_runs_no_interpreter_of_the_owners_as_root(alice: Path, ground: Path, reaching: list[str]) -> None:
    assert nimad(ground, "migrate", "--source", alice, prefix=reaching).code == ExitCode.COMPLETE
    noted = ground / "noted"
    program = noting(alice.parent, noted)
    words = ("verify", "--source", alice, "--engine-python", program)
    nimad(ground, *words, prefix=reaching)
    assert as_whom(noted) == {str(ALICE)}
    roots = make_memory(folder_of(ROOT, ground / "roots") / "graph.sqlite", nodes=[node(1)])
    assert nimad(ground, "migrate", "--source", roots).code == ExitCode.COMPLETE
    done = nimad(ground, "verify", "--source", roots, "--engine-python", program)
    assert done.code == ExitCode.USAGE
    assert "is not root's alone, and root does not run it" in done.error
    assert as_whom(noted) == {str(ALICE)}


# Files of others


def test_a_log_in_a_folder_of_roots_opens_no_other_folder_of_roots(
    alice: Path, ground: Path, reaching: list[str]
) -> None:
    """The user's folder becomes a link to one in which root alone may write."""
    logs, precious = folder_of(ROOT, ground / "log"), folder_of(ROOT, ground / "precious")
    config = write_config(ground, f'[log]\nfile = "{logs}/nima.log"\n')
    with Life(alice, "--fixed-batch", "2", "--config", str(config), prefix=reaching) as life:
        life.wait_for("Batch 3/")
        alice.parent.rename(ground / "moved")
        (ground / "alice").symlink_to(precious)
        life.output = ground / "moved" / life.output.name
        life.wait()
    assert list(precious.iterdir()) == []
    assert (logs / "nima.log").stat().st_uid == ALICE


def test_a_sample_in_a_users_folder_is_made_as_that_user(alice: Path, reaching: list[str]) -> None:
    path = alice.with_name("sample.sqlite")
    done = nimad(path.parent, "sample", path, "--nodes", "10", prefix=reaching)
    assert done.code == ExitCode.COMPLETE, done.err
    assert path.stat().st_uid == ALICE


@pytest.mark.parametrize("command", ["pause", "report"])
def test_no_file_is_made_behind_a_link_of_the_users(
    alice: Path, ground: Path, reaching: list[str], command: str
) -> None:
    assert nimad(ground, "migrate", "--source", alice, prefix=reaching).code == ExitCode.COMPLETE
    precious = folder_of(ROOT, ground / "precious")
    for path in alice.parent.iterdir():
        if path.is_file():
            shutil.copy(path, precious)
    before = {path.name for path in precious.iterdir()}
    link = alice.parent / "link"
    link.symlink_to(precious)
    os.lchown(link, ALICE, ALICE)
    done = nimad(ground, command, "--target", link / "graph.ladybug", prefix=reaching)
    assert done.code == ExitCode.NOT_ALLOWED
    assert {path.name for path in precious.iterdir()} == before


@pytest.mark.sampled
@pytest.mark.parametrize("mode", [0o777, 0o775])
@pytest.mark.parametrize("which", ["folder", "parent"])
def test_a_memory_of_roots_is_left_alone_where_others_may_write(ground: Path, mode: int, which: str) -> None:
    parent = folder_of(ROOT, ground / "parent")
    source = make_memory(folder_of(ROOT, parent / "roots") / "graph.sqlite", nodes=[node(1)])
    weak = {"folder": source.parent, "parent": parent}[which]
    weak.chmod(mode)
    for command in ("migrate", "pause"):
        done = nimad(ground, command, "--source", source)
        assert done.code == ExitCode.NOT_ALLOWED
        assert "others than root can write in" in done.error
        assert str(weak) in done.error
    weak.chmod(0o755)
    assert nimad(ground, "migrate", "--source", source).code == ExitCode.COMPLETE


def test_a_folder_that_is_for_everybody_is_not_to_be_closed(ground: Path) -> None:
    """Root would follow the word, and nobody else could work with /tmp then."""
    shared = folder_of(ROOT, ground / "shared")
    source = make_memory(shared / "graph.sqlite", nodes=[node(1)])
    shared.chmod(0o1777)
    done = nimad(ground, "migrate", "--source", source)
    assert done.code == ExitCode.NOT_ALLOWED
    assert "chmod" not in done.error
    assert "put it in a folder of its own, or run it with --user NAME" in done.error


def test_a_settings_file_of_another_user_says_nothing(
    alice: Path, bobs: Path, ground: Path, reaching: list[str]
) -> None:
    """It could name any program as a hook, and root would run it, or have alice run it."""
    config = bobs / "nimad.toml"
    config.write_text("[batch]\nsize = 10\n")
    given(BOB, config)
    roots = make_memory(folder_of(ROOT, ground / "roots") / "graph.sqlite", nodes=[node(1)])
    for source, prefix in ((alice, reaching), (roots, [])):
        done = nimad(ground, "migrate", "--source", source, "--config", config, prefix=prefix)
        assert done.code == ExitCode.NOT_ALLOWED
        assert f"{config} belongs to {BOB}" in done.error
        assert "and not to root or" in done.error


def test_a_settings_file_of_the_owners_opens_no_folder_of_roots(alice: Path, ground: Path, reaching: list[str]) -> None:
    """It could name a file that the next root reads, as one in /etc/profile.d."""
    roots = folder_of(ROOT, ground / "roots")
    (roots / "precious").write_text("precious")
    config = alice.parent / "nimad.toml"
    for text in (f'[log]\nfile = "{roots}/precious"\n', f'[metrics]\nfile = "{roots}/new.prom"\n'):
        config.write_text(text)
        given(ALICE, config)
        done = nimad(ground, "migrate", "--source", alice, "--config", config, prefix=reaching)
        assert done.code == ExitCode.NOT_ALLOWED
        assert "can be changed by others than root, and names" in done.error
    assert {path.name: path.read_text() for path in roots.iterdir()} == {"precious": "precious"}
    config.write_text(f'[log]\nfile = "{alice.parent}/own.log"\n')
    assert nimad(ground, "migrate", "--source", alice, "--config", config, prefix=reaching).code == ExitCode.COMPLETE


# What root's folders need


def test_log_and_metrics_in_folders_of_roots_are_written_by_its_helper(
    alice: Path, ground: Path, reaching: list[str]
) -> None:
    logs, metrics = folder_of(ROOT, ground / "log"), folder_of(ROOT, ground / "metrics")
    config = write_config(ground, f'[log]\nfile = "{logs}/a.log"\n[metrics]\nfile = "{metrics}/nima.prom"\n')
    for _ in range(2):
        done = nimad(ground, "migrate", "--source", alice, "--config", config, prefix=reaching)
        assert done.code == ExitCode.COMPLETE, done.err
    assert "Migration completed" in (logs / "a.log").read_text()
    assert ((logs / "a.log").stat().st_uid, (logs / "a.log").stat().st_mode & 0o777) == (ALICE, 0o600)
    assert "nimad_last_run_exit_code 0" in (metrics / "nima.prom").read_text()
    assert sorted(path.name for folder in (logs, metrics) for path in folder.iterdir()) == ["a.log", "nima.prom"]


@pytest.mark.parametrize("kind", ["link", "pipe", "second name", "of another"])
def test_the_helper_opens_nothing_but_a_plain_file_at_its_name(
    alice: Path, ground: Path, reaching: list[str], kind: str
) -> None:
    logs = folder_of(ROOT, ground / "log")
    log, precious = logs / "a.log", ground / "precious"
    precious.write_text("precious")
    if kind == "link":
        log.symlink_to(precious)
    elif kind == "pipe":
        os.mkfifo(log)
    elif kind == "second name":
        os.link(precious, log)
    else:
        log.write_text("")
        given(BOB, log)
    config = write_config(ground, f'[log]\nfile = "{log}"\n')
    nimad(ground, "migrate", "--source", alice, "--config", config, prefix=reaching)
    assert precious.read_text() == "precious"
