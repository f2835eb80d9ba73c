"""A disk that comes to the place of a memory while the service runs: what lies there now is what counts."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.memories import assert_same, change, make_memory, node
from support.services import service
from support.torture import target_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts")


@contextmanager
def mounted(*words: str | Path) -> Iterator[None]:
    """Something is mounted; the place comes last."""
    subprocess.run(["mount", *words], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", words[-1]], check=True)


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    """A folder with a memory of 3 nodes."""
    folder = tmp_path / "stick"
    folder.mkdir()
    make_memory(folder / "graph.sqlite", nodes=[node(key) for key in range(1, 4)])
    return folder


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, mounted elsewhere, with a memory of 5."""
    folder = tmp_path / "other"
    folder.mkdir()
    with mounted("-t", "tmpfs", "-o", "mode=700", "none", folder):
        nodes = [node(key, text=f"of the other {key}") for key in range(1, 6)]
        make_memory(folder / "graph.sqlite", nodes=nodes)
        yield folder


def test_a_disk_that_is_mounted_over_the_memory_is_what_counts(tmp_path: Path, stick: Path, other: Path) -> None:
    source = stick / "graph.sqlite"
    with service(tmp_path, "--source", source) as running:
        running.wait_for_status("^Complete: 3 memories")
        with mounted("--bind", other, stick):
            running.wait_for_status("^Complete: 5 memories")
            assert f"Another file system is at {stick} now" in running.log
            change(source, "INSERT INTO memory_nodes (id, text) VALUES (6, 'late')")
            running.wait_for_status("^Complete: 6 memories")
            assert_same(source, target_of(source))
        before = len(running.statuses)
        running.wait_for_status("^Complete: 3 memories", after=before)
        change(source, "INSERT INTO memory_nodes (id, text) VALUES (4, 'late')")
        running.wait_for_status("^Complete: 4 memories", after=before)
        assert_same(source, target_of(source))
        assert running.stop() == 0


def test_a_disk_that_is_pulled_is_waited_for(tmp_path: Path, other: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    source = place / "graph.sqlite"
    with ExitStack() as stack:
        with mounted("--bind", other, place):
            running = stack.enter_context(service(tmp_path, "--source", source))
            running.wait_for_status("^Complete: 5 memories")
        running.wait_for(lambda: f"Waiting for a memory at {source}" in running.log)
        before = len(running.statuses)
        with mounted("--bind", other, place):
            running.wait_for_status("^Complete: 5 memories", after=before)
            assert running.stop() == 0
