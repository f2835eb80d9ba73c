"""Odd surroundings: no environment, no room for temporary files, a clock that went back."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from support.commands import TIMEOUT_S, assert_complete, command, nimad
from support.memories import assert_same, change, make_memory, node

from nimad.diagnostics import status

YEAR_S = 365 * 86_400


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return make_memory(tmp_path / "graph.sqlite", nodes=[node(number) for number in range(1, 60)])


def test_without_any_environment_a_run_is_complete(memory: Path, tmp_path: Path) -> None:
    """As of a program that starts another with none: no HOME, no PATH, no language."""
    for words in (("migrate", "--source", memory), ("status", "--source", memory), ("verify", "--source", memory)):
        done = subprocess.run(
            command(*words), env={}, cwd=tmp_path, capture_output=True, timeout=TIMEOUT_S, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
    assert_complete(tmp_path)


FULL = "size=16k none {0} && ! head -c 64k /dev/zero >{0}/all 2>/dev/null"


@pytest.mark.parametrize("room", [FULL, "ro none {0}"])
def test_without_room_for_temporary_files_a_run_is_complete(memory: Path, tmp_path: Path, room: str) -> None:
    """As on a Pi whose /tmp is in memory, and full, or read-only: what is sorted or copied needs none of it."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("only root mounts a folder that is full")
    full = tmp_path / "full"
    full.mkdir()
    fills = f"mount -t tmpfs -o {room.format(full)}"
    within = ("unshare", "--mount", "sh", "-c", f'{fills} && exec "$@"', "sh")
    for words in (("migrate", "--source", memory), ("verify", "--source", memory), ("health", "--source", memory)):
        done = nimad(tmp_path, *words, prefix=within, TMPDIR=str(full), SQLITE_TMPDIR=str(full))
        assert (done.code, done.err) == (0, "")


def test_a_clock_that_went_back_hides_nothing_and_stops_nothing(memory: Path, tmp_path: Path) -> None:
    """A Pi has no clock of its own: after a start without network, what is there is of the future."""
    assert nimad(tmp_path, "migrate", "--source", memory).code == 0
    for file in tmp_path.iterdir():
        if file.suffix in (".json", ".jsonl", ".log"):
            ahead = re.sub(r"\b20\d\d-(?=\d\d-\d\d)", f"{time.localtime().tm_year + 1}-", file.read_text())
            file.write_text(ahead)
        os.utime(file, (time.time() + YEAR_S, time.time() + YEAR_S))
    for words in (("status",), ("health",), ("verify",), ("clean", "--older-than", "0")):
        done = nimad(tmp_path, *words, "--source", memory)
        assert (done.code, done.err) == (0, "")
        assert not re.search(r"(?<![\d-])-\d", done.out.replace(str(tmp_path), "")), done.out
    change(memory, "INSERT INTO memory_nodes (id, timestamp, layer, text) VALUES (100, 0, 'input', 'later')")
    done = nimad(tmp_path, "migrate", "--source", memory, "--replace")
    assert (done.code, done.err) == (0, "")
    assert_same(memory, tmp_path / "graph.ladybug")


def test_what_is_left_of_a_run_does_not_grow_with_a_clock_that_goes_back() -> None:
    told = {"rows_per_s": 5, "eta_s": 60.0}
    assert status._eta(told, time.time() + YEAR_S) == 60.0
    assert status._eta(told, time.time() - YEAR_S) == 0.0


def test_a_folder_that_is_gone_since_is_named_as_the_reason(memory: Path, tmp_path: Path) -> None:
    """As of a stick that was pulled and put in again while a terminal stood in it."""
    for words in (["status", "--source", memory], ["migrate", "--source", "graph.sqlite"]):
        gone = tmp_path / "gone"
        gone.mkdir()
        done = nimad(gone, *words, prefix=("sh", "-c", f'rmdir {gone}; exec "$@"', "sh"))
        if words[-1] == memory:
            assert (done.code, done.err) == (4, "")
        else:
            assert done.code == 2
            assert "the folder that this was typed in is gone; go to one that is there, as with: cd" in done.err
