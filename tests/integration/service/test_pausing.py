"""`nimad pause`, `nimad resume`, and workers that leave room for other programs."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import command, environment, nimad
from support.memories import assert_same, make_memory, node

from nimad.supervisor.worker_process import Launch, WorkerProcess
from nimad.worker.protocol import Job, Task

WAIT_S = 60.0


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return make_memory(tmp_path / "graph.sqlite", nodes=[node(key) for key in range(1, 61)])


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def begin(memory: Path, *words: str) -> "subprocess.Popen[bytes]":
    run = command("migrate", "--source", memory, "--reader-python", "none", *words)
    with said_by(memory).open("wb") as output:
        return subprocess.Popen(run, env=environment(memory.parent), stdout=output, stderr=subprocess.STDOUT)


def said_by(memory: Path) -> Path:
    return memory.with_name("said")


def test_a_paused_run_begins_nothing_until_it_is_resumed(memory: Path) -> None:
    target = memory.with_name("graph.ladybug")
    paused = nimad(memory.parent, "pause", "--target", target)
    assert (paused.code, paused.err) == (0, "")
    assert f"Paused: {target}" in paused.out
    assert f"resume --target {target}" in paused.out
    with begin(memory) as run:
        wait_for(lambda: "Paused; go on with: " in said_by(memory).read_text())
        time.sleep(1.0)
        assert run.poll() is None
        assert not target.with_name("graph.ladybug.migrating").exists()
        resumed = nimad(memory.parent, "resume", "--target", target)
        assert (resumed.code, resumed.out) == (0, f"Going on: {target}\n")
        assert run.wait(WAIT_S) == 0
    assert_same(memory, target)
    assert not target.with_name("graph.ladybug.paused").exists()


def test_a_run_is_paused_between_two_batches_and_has_no_worker_meanwhile(memory: Path) -> None:
    target = memory.with_name("graph.ladybug")
    with begin(memory, "--fixed-batch", "6") as run:
        wait_for(lambda: "Batch 3/" in said_by(memory).read_text())
        assert nimad(memory.parent, "pause", "--target", target).code == 0
        wait_for(lambda: "Paused; go on with: " in said_by(memory).read_text())
        before = said_by(memory).read_text()
        time.sleep(2.0)
        assert said_by(memory).read_text() == before
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        assert children == []
        assert nimad(memory.parent, "resume", "--target", target).code == 0
        assert run.wait(WAIT_S) == 0
    assert_same(memory, target)


def test_a_paused_run_can_be_stopped_and_the_next_one_waits_too(memory: Path) -> None:
    target = memory.with_name("graph.ladybug")
    nimad(memory.parent, "pause", "--target", target)
    for _ in range(2):
        with begin(memory) as run:
            wait_for(lambda: "Paused; go on with: " in said_by(memory).read_text())
            run.send_signal(signal.SIGTERM)
            assert run.wait(WAIT_S) == 75
    assert not target.exists()


def test_a_signal_in_the_middle_of_a_wait_does_not_hang_the_program() -> None:
    """An Event's own lock is held for a moment at the beginning and at the end of each wait."""
    script = (
        "import signal; from nimad.cli.migrate import _stop_on_signal\n"
        "with _stop_on_signal() as stop:\n"
        "    with stop._cond: signal.raise_signal(signal.SIGTERM)\n"
        "    assert stop.wait(0.0)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=WAIT_S)


def test_pausing_twice_and_resuming_what_is_not_paused_harm_nothing(memory: Path) -> None:
    target = memory.with_name("graph.ladybug")
    assert "It was not paused" in nimad(memory.parent, "resume", "--target", target).out
    assert nimad(memory.parent, "pause", "--target", target).code == 0
    assert "Paused already" in nimad(memory.parent, "pause", "--target", target).out
    assert "Going on" in nimad(memory.parent, "resume", "--target", target).out


def test_a_pause_where_there_is_no_folder_says_so(tmp_path: Path) -> None:
    done = nimad(tmp_path, "pause", "--target", tmp_path / "none" / "graph.ladybug")
    assert done.code == 73
    assert "there is no folder" in done.error


@pytest.mark.parametrize("priority", ["normal", "low"])
def test_workers_of_low_priority_leave_the_processor_and_the_disk_to_others(priority: str) -> None:
    child = WorkerProcess(Launch(priority=priority))
    try:
        wait_for(lambda: Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip() == "800")
        time.sleep(0.2)
        nice, policy = os.getpriority(os.PRIO_PROCESS, child.pid), os.sched_getscheduler(child.pid)
        assert (nice > os.getpriority(os.PRIO_PROCESS, 0)) == (priority == "low")
        assert (policy == os.SCHED_IDLE) == (priority == "low")
        assert (io_class(child.pid) == "idle") == (priority == "low")
        answer = child.work(Job(task=Task.PROBE), threading.Event(), WAIT_S)
        assert answer.ok
    finally:
        child.dismiss()


def io_class(pid: int) -> str:
    said = subprocess.run(["ionice", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    return said.partition(":")[0].strip()


def test_a_run_of_low_priority_arrives_whole(memory: Path) -> None:
    with begin(memory, "--priority", "low") as run:
        assert run.wait(WAIT_S) == 0
    assert_same(memory, memory.with_name("graph.ladybug"))
