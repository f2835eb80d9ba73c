"""`nimad run` as a service: what it tells systemd, when it works, and how it is stopped, reloaded and asked.

A booted systemd has its turn in `tests/system/service.py`; here the protocol itself is listened to.
"""

import fcntl
import json
import math
import os
import shutil
import signal
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.commands import nimad
from support.following import agent, ask
from support.memories import assert_same, change, make_memory, node, read_target
from support.services import WAIT_S, Service, service

from nimad.sample import Sample, write_sample
from nimad.service import file_watch, follow
from nimad.service.file_watch import Watch
from nimad.service.stop_event import StopEvent
from nimad.source.sqlite_file import SourceFile

#: So many batches that something can happen in between.
SLOWLY = "[batch]\nsize = 4\nfixed = true\n"


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "graph.sqlite"
    write_sample(path, Sample(nodes=60, dimension=8))
    return path


@pytest.fixture
def memory(sample: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sample, tmp_path))


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    return write(tmp_path / "nimad.toml", f'{SLOWLY}[service]\nafter = "exit"\n')


def write(path: Path, text: str) -> Path:
    """Put a file in place as editors do: whole, in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(text)
    return temporary.rename(path)


def openclaw(folder: Path, **database: Any) -> Path:
    content = {"plugins": {"entries": {"nima-memory": {"database": database}}}}
    return write(folder / ".openclaw" / "openclaw.json", json.dumps(content))


def late(memory: Path, key: int) -> None:
    change(memory, f"INSERT INTO memory_nodes (id, timestamp, layer, text) VALUES ({key}, 5, 'input', 'late')")


def target_of(memory: Path) -> Path:
    return memory.with_name("graph.ladybug")


def test_it_is_ready_once_the_lock_is_taken_and_tells_how_far_it_is(memory: Path, slow: Path) -> None:
    with service(memory.parent, "--config", slow) as running:
        assert running.process.wait(WAIT_S) == 0
        messages, statuses = running.messages, running.statuses
    ready = next(index for index, text in enumerate(messages) if text.startswith("READY=1"))
    first = next(index for index, text in enumerate(messages) if "Migrating nodes" in text)
    assert ready < first
    assert any(text.startswith("EXTEND_TIMEOUT_USEC=") for text in messages[:ready])
    assert sum(text.startswith("READY=1") for text in messages) == 1
    assert "Migrating nodes: batch 7, 28 of 60 (46 %), ETA " in "\n".join(statuses)
    assert statuses[-1] == "Complete: 60 memories"
    assert "Verifying every row" in statuses
    assert_same(memory, target_of(memory))


def test_a_worker_knows_nothing_of_systemd(memory: Path, slow: Path) -> None:
    with service(memory.parent, "--config", slow) as running:
        running.wait_for(lambda: bool(running.workers()))
        (first, *_) = running.workers()
        names = {entry.partition(b"=")[0] for entry in Path(f"/proc/{first}/environ").read_bytes().split(b"\0")}
    assert not names & {b"NOTIFY_SOCKET", b"WATCHDOG_USEC", b"WATCHDOG_PID", b"JOURNAL_STREAM"}


def test_stopped_in_the_middle_it_ends_well_and_goes_on_when_it_is_started_again(memory: Path, slow: Path) -> None:
    with service(memory.parent, "--config", slow) as running:
        running.wait_for_status("batch 3,")
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 10
        assert any(text.startswith("STOPPING=1") for text in running.messages)
    assert not target_of(memory).exists()
    assert json.loads(target_of(memory).with_name("graph.ladybug.state.json").read_text())["phase"] == "interrupted"
    with service(memory.parent, "--config", slow) as running:
        assert running.process.wait(WAIT_S) == 0
        assert "Going on with" in running.log
    assert_same(memory, target_of(memory))


def test_killed_in_the_middle_it_goes_on_and_leaves_no_worker(memory: Path, slow: Path) -> None:
    with service(memory.parent, "--config", slow) as running:
        running.wait_for_status("batch 3,")
        workers = running.children()
        running.process.kill()
        running.process.wait()
        deadline = time.monotonic() + 5
        while any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    with service(memory.parent, "--config", slow) as running:
        assert running.process.wait(WAIT_S) == 0
    assert_same(memory, target_of(memory))


@pytest.mark.long
def test_a_worker_within_its_time_is_a_sign_of_life(memory: Path, slow: Path) -> None:
    with service(memory.parent, "--config", slow, watchdog_s=0.9) as running:
        running.wait_for_status("batch 2,")
        halted = running.children()
        for pid in halted:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        time.sleep(3)
        beats = [moment for moment, text in running.told if text == "WATCHDOG=1" and moment > began]
        assert len(beats) >= 8
        for pid in halted:
            os.kill(pid, signal.SIGKILL)
        assert running.process.wait(WAIT_S) == 0
    assert_same(memory, target_of(memory))


@pytest.mark.long
def test_a_reload_takes_what_is_new_and_begins_again_where_it_was(memory: Path, tmp_path: Path) -> None:
    config = write(tmp_path / "nimad.toml", f'{SLOWLY}[service]\nafter = "exit"\n')
    with service(memory.parent, "--config", config) as running:
        running.wait_for_status("batch 2,")
        write(config, '[service]\nafter = "exit"\n')
        running.process.send_signal(signal.SIGHUP)
        assert running.process.wait(WAIT_S) == 0
        reloading = next(index for index, text in enumerate(running.messages) if text.startswith("RELOADING=1"))
        assert "MONOTONIC_USEC=" in running.messages[reloading]
        assert any(text.startswith("READY=1") for text in running.messages[reloading:])
        assert "read again: other values for batch_size, fixed_batch" in running.log
        assert "Going on with" in running.log
    assert_same(memory, target_of(memory))


@pytest.mark.long
def test_a_reload_of_what_cannot_be_names_the_line_and_changes_nothing(memory: Path, tmp_path: Path) -> None:
    config = write(tmp_path / "nimad.toml", f'{SLOWLY}[service]\nafter = "exit"\n')
    with service(memory.parent, "--config", config) as running:
        running.wait_for_status("batch 2,")
        write(config, "[batch]\nsiez = 7\n")
        running.process.send_signal(signal.SIGHUP)
        assert running.process.wait(WAIT_S) == 0
        assert f"{config}: unknown key 'siez' in [batch], line 2; did you mean 'size'?" in running.log
        assert running.log.count("Starting migration") == 1
    assert_same(memory, target_of(memory))


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("[service]\ntrigger = 'never'\n", 78, "trigger must be one of start, openclaw, not 'never'"),
        ("[service]\nafter = 7\n", 78, "'after' in [service], line 2, must be text in quotes, not 7"),
        ("[servcie]\n", 78, "unknown table [servcie], line 1; did you mean 'service'?"),
    ],
)
def test_a_configuration_that_cannot_be_ends_it_with_one_line(
    memory: Path, tmp_path: Path, text: str, code: int, said: str
) -> None:
    config = write(tmp_path / "nimad.toml", text)
    with service(memory.parent, "--config", config) as running:
        assert running.process.wait(WAIT_S) == code
        assert said in running.log
        assert running.log.count("\n") == 1
        assert any(text.startswith("ERRNO=22\nSTATUS=") for text in running.messages)
        assert not any("READY" in text for text in running.messages)


def test_nobody_set_up_and_no_memory_is_one_line(tmp_path: Path) -> None:
    done = nimad(tmp_path, "run")
    assert done.code == 78
    assert done.out.count("\n") + done.err.count("\n") == 1
    assert "there is no memory at" in done.out + done.err
    assert "sudo nimad setup --user NAME" in done.out + done.err


def test_it_waits_until_openclaw_asks_and_the_memory_is_there(sample: Path, tmp_path: Path) -> None:
    with service(tmp_path, "--trigger", "openclaw", "--after", "exit") as running:
        running.wait_for_status(r'^Waiting for backend "ladybugdb" in openclaw.json$')
        assert any(text.startswith("READY=1") for text in running.messages)
        openclaw(tmp_path, backend="ladybugdb")
        running.wait_for_status("^Waiting for auto_migrate in openclaw.json$")
        path = openclaw(tmp_path, backend="ladybugdb", auto_migrate=True, migration_batch_size=20)
        running.wait_for_status("^Waiting for a memory at")
        write(path, "{ not JSON at all")
        running.wait_for_status("^Waiting for openclaw.json to be corrected$")
        openclaw(tmp_path, backend="ladybugdb", auto_migrate=True, migration_batch_size=20)
        shutil.copy(sample, tmp_path / "incoming")
        (tmp_path / "incoming").rename(tmp_path / "graph.sqlite")
        assert running.process.wait(WAIT_S) == 0
        assert "Batch size: 20 nodes" in running.log
    assert_same(tmp_path / "graph.sqlite", tmp_path / "graph.ladybug")


@pytest.mark.long
def test_a_source_in_a_folder_that_comes_later(sample: Path, tmp_path: Path) -> None:
    openclaw(tmp_path, backend="ladybugdb", auto_migrate=True)
    source = tmp_path / "later" / "still" / "graph.sqlite"
    with service(tmp_path, "--trigger", "openclaw", "--after", "exit", "--source", source) as running:
        running.wait_for_status("^Waiting for a memory at")
        source.parent.mkdir(parents=True)
        time.sleep(0.5)
        shutil.copy(sample, source)
        assert running.process.wait(WAIT_S) == 0
    assert_same(source, target_of(source))


def test_where_the_kernel_has_no_more_watches_it_looks_now_and_then(sample: Path, tmp_path: Path) -> None:
    exhausted = ["unshare", "-Ur", "sh", "-c", 'echo 0 >/proc/sys/user/max_inotify_instances; exec "$@"', "sh"]
    with service(tmp_path, "--trigger", "openclaw", "--after", "exit", prefix=exhausted) as running:
        running.wait_for_status("^Waiting for")
        shutil.copy(sample, tmp_path / "graph.sqlite")
        openclaw(tmp_path, backend="ladybugdb", auto_migrate=True)
        assert running.process.wait(WAIT_S) == 0
    assert_same(tmp_path / "graph.sqlite", tmp_path / "graph.ladybug")


def test_memories_that_come_late_are_added_whatever_openclaws_backend_is(memory: Path) -> None:
    target = target_of(memory)
    with service(memory.parent) as running:
        running.wait_for_status("^Complete: 60 memories; watching for late ones$")
        late(memory, 1000)
        running.wait_for_status("^Complete: 61 memories; watching for late ones$")
        openclaw(memory.parent, backend="ladybugdb")
        late(memory, 1001)
        running.wait_for_status("^Complete: 62 memories; watching for late ones$")
        assert running.stop() == 0
    assert assert_same(memory, target).nodes[1001]["text"] == "late"
    late(memory, 1002)
    with service(memory.parent) as running:
        running.wait_for_status("^Complete: 63 memories; watching for late ones$")
    assert_same(memory, target)


def test_a_folder_with_two_names_is_watched_until_it_goes(tmp_path: Path) -> None:
    """One watch of the kernel's may stand for both: then fewer are no sign that one was lost."""
    memory = tmp_path / "disk" / "memory" / "graph.sqlite"
    memory.parent.mkdir(parents=True)
    memory.touch()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    with Watch([tmp_path / "home/memory/graph.sqlite"], (), lambda: None) as watch:
        assert not watch.rearm()
        shutil.rmtree(memory.parent)
        memory.parent.mkdir()
        assert watch.rearm()
        assert not watch.rearm()


def test_a_folder_may_go_between_the_look_at_it_and_its_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "graph.sqlite").touch()
    look, seen = file_watch._folders, [{str(tmp_path / "gone"): (0, 0, 0)}]
    monkeypatch.setattr(file_watch, "_folders", lambda paths: seen.pop() if seen else look(paths))
    rung = threading.Event()
    with Watch([tmp_path / "graph.sqlite"], (), rung.set) as watch:
        assert not watch.polls
        (tmp_path / "graph.sqlite").write_text("more")
        assert rung.wait(WAIT_S)


def test_a_program_that_reads_again_and_again_does_not_hold_up_a_memory(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite makes a log for each reader and takes it away, which is no writing: nobody waits until a burst is over."""
    monkeypatch.setattr(follow, "BURST_S", WAIT_S)
    stop = StopEvent(lambda: False, None)
    over = threading.Event()
    reading = threading.Thread(target=read_until, args=(memory, over))
    with Watch([memory, memory.with_name("graph.sqlite-wal")], (), stop.wake) as watch:
        reading.start()
        late(memory, 1000)
        began = time.monotonic()
        assert follow.wait_for_more(stop, watch, None, SourceFile(memory).stamps)
        took = time.monotonic() - began
    over.set()
    reading.join()
    assert took < WAIT_S / 2, "its last look was waited for"


def read_until(memory: Path, over: threading.Event) -> None:
    while not over.wait(follow.QUIET_S / 5):
        with closing(sqlite3.connect(memory)) as connection:
            connection.execute("SELECT count(*) FROM memory_nodes").fetchone()


def test_a_look_at_every_row_waits_for_a_rest_of_the_agents_and_not_for_ever() -> None:
    assert follow.FullCheckTimer().at == -math.inf, "at first at once: what came before is not known"
    whole, hour = follow.FullCheckTimer(due=None), 3_600.0
    for second in range(700):  # a change each second
        whole.note_change(hour + second)
    assert whole.at == hour + 699 + follow.CALM_S
    for second in range(700, 2_000):
        whole.note_change(hour + second)
    assert whole.at == hour + follow.THOROUGH_S + follow.OVERDUE_S


@pytest.mark.long
def test_what_the_agent_wrote_to_the_target_stays_while_late_memories_are_added(memory: Path) -> None:
    openclaw(memory.parent, backend="ladybugdb", auto_migrate=True)
    target = target_of(memory)
    with service(memory.parent, "--trigger", "openclaw") as running:
        running.wait_for_status("^Complete: 60 memories; watching for late ones$")
        with agent(target) as connection:
            connection.execute("MATCH (n:MemoryNode {id: 7}) SET n.is_ghost = true, n.strength = 0.125")
            connection.execute("CREATE (:MemoryNode {id: 2000, layer: 'input', turn_id: 'mine', text: 'own'})")
        late(memory, 1000)
        running.wait_for_status("^Complete: 62 memories; watching for late ones$")
        assert running.stop() == 0
    with service(memory.parent, "--trigger", "openclaw") as running:  # begins with a look at every row
        running.wait_for_status("^Complete: 62 memories; watching for late ones$")
    there = ask(target, "MATCH (n:MemoryNode) WHERE n.id IN [7, 1000, 2000] RETURN n.id, n.is_ghost, n.strength")
    assert min(there) == [7, True, 0.125]
    assert [row[0] for row in sorted(there)] == [7, 1000, 2000]


def test_by_openclaw_it_migrates_once_follows_and_migrates_again_when_the_target_is_deleted(memory: Path) -> None:
    openclaw(memory.parent, backend="ladybugdb", auto_migrate=True)
    target = target_of(memory)
    with service(memory.parent, "--trigger", "openclaw") as running:
        running.wait_for_status("watching for late ones$")
        before = len(running.statuses)
        assert target.exists()
        target.unlink()
        running.wait_for_status("watching for late ones$", after=before)
        assert running.stop() == 0
    assert_same(memory, target)


@pytest.mark.long
def test_a_published_target_is_followed_although_openclaws_file_asks_for_none(memory: Path) -> None:
    openclaw(memory.parent, backend="ladybugdb", auto_migrate=True)
    with service(memory.parent, "--trigger", "openclaw") as running:
        running.wait_for_status("watching for late ones$")
    openclaw(memory.parent, backend="sqlite")
    late(memory, 1000)
    with service(memory.parent, "--trigger", "openclaw") as running:
        running.wait_for_status("^Complete: 61 memories; watching for late ones$")
    assert_same(memory, target_of(memory))


def test_idle_it_is_small_and_wakes_for_nothing_but_the_watchdog(memory: Path) -> None:
    with service(memory.parent, watchdog_s=6.0) as running:
        running.wait_for_status("watching for late ones")
        time.sleep(1)
        before, began = switches(running), time.monotonic()
        time.sleep(6)
        woken = switches(running) - before
        assert running.children() == []
        assert memory_of(running.process.pid) < 40 * 1024
        assert woken <= (time.monotonic() - began) / 2 + 2, "once for each sign of life"


@pytest.mark.long
def test_a_hook_that_hangs_neither_stills_the_signs_of_life_nor_holds_up_a_stop(memory: Path, tmp_path: Path) -> None:
    hang = f"touch {tmp_path}/began; exec sleep 300"
    hooks = "".join(f"{name} = {json.dumps(['sh', '-c', hang])}\n" for name in ("on_complete", "on_quarantine"))
    config = write(tmp_path / "nimad.toml", f"[hooks]\n{hooks}")
    change(
        memory, "INSERT INTO memory_nodes (id, timestamp, layer, text) VALUES (1000, 5, 'input', CAST(x'ff' AS TEXT))"
    )
    with service(memory.parent, "--config", config, watchdog_s=1.0) as running:
        running.wait_for((tmp_path / "began").exists, "the hook")
        before = len(running.messages)
        running.wait_for(lambda: sum("WATCHDOG=1" in text for text in running.messages[before:]) > 2, "signs of life")
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 10
        assert "Hook on_complete: the program was to stop, so it was ended" in running.log
        assert "Hook on_quarantine: the program is to stop, so it was not run" in running.log


def switches(running: Service) -> int:
    tasks = Path(f"/proc/{running.process.pid}/task").iterdir()
    lines = [line for task in tasks for line in (task / "status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))


def memory_of(pid: int) -> int:
    """KiB in memory."""
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1])


@pytest.mark.long
def test_paused_while_it_follows_it_leaves_the_target_alone(memory: Path) -> None:
    with service(memory.parent) as running:
        running.wait_for_status("watching for late ones")
        assert nimad(memory.parent, "pause", "--target", target_of(memory)).code == 0
        running.wait_for_status("^Paused; go on with: ")
        change(memory, "INSERT INTO memory_nodes (id, timestamp, layer, text) VALUES (1000, 5, 'input', 'late')")
        change(memory, "UPDATE memory_nodes SET text = 'edited' WHERE id = 5")
        time.sleep(1.5)
        assert 1000 not in read_target(target_of(memory)).nodes
        assert nimad(memory.parent, "resume", "--target", target_of(memory)).code == 0
        running.wait_for_status("^Complete: 61 memories")
    assert_same(memory, target_of(memory))


def test_started_while_paused_it_is_ready_so_that_nobody_waits_for_its_start(memory: Path, slow: Path) -> None:
    assert nimad(memory.parent, "pause", "--target", target_of(memory)).code == 0
    with service(memory.parent, "--config", slow) as running:
        running.wait_for_message("READY=1")
        running.wait_for_status("^Paused; go on with: ")
        assert not target_of(memory).exists()


def test_without_systemd_it_is_a_plain_program(tmp_path: Path) -> None:
    memory = make_memory(tmp_path / "graph.sqlite", nodes=[node(1), node(2)])
    done = nimad(tmp_path, "run", "--source", memory, "--after", "exit")
    assert done.code == 0
    assert "Migration completed successfully!" in done.out
    assert_same(memory, target_of(memory))


# What goes wrong around it


def test_a_memory_that_is_just_being_made_is_waited_for(sample: Path, tmp_path: Path) -> None:
    openclaw(tmp_path, backend="ladybugdb", auto_migrate=True)
    with service(tmp_path, "--trigger", "openclaw", "--after", "exit") as running:
        running.wait_for_status("^Waiting for a memory at")
        whole = sample.read_bytes()
        with (tmp_path / "graph.sqlite").open("wb") as file:  # as cp does on a slow card
            for part in (0, len(whole) // 2, len(whole)):
                file.write(whole[file.tell() : part])
                file.flush()
                time.sleep(1.0)
        assert running.process.wait(WAIT_S) == 0
    assert_same(tmp_path / "graph.sqlite", tmp_path / "graph.ladybug")


@pytest.mark.long
def test_two_reloads_in_a_row_are_no_stop_and_none_is_forgotten(memory: Path, tmp_path: Path) -> None:
    config = write(tmp_path / "nimad.toml", "")
    with service(memory.parent, "--config", config) as running:
        running.wait_for_status("watching for late ones")
        write(config, "[batch]\nsize = 7\n")
        for _ in range(2):
            running.process.send_signal(signal.SIGHUP)
            time.sleep(0.03)
        running.wait_for(lambda: running.log.count("[INFO] Nothing to do") == 1)
        assert running.stop() == 0


@pytest.mark.long
def test_openclaws_file_that_cannot_be_read_keeps_no_late_memory_out(memory: Path) -> None:
    with service(memory.parent) as running:
        running.wait_for_status("watching for late ones")
        write(memory.parent / ".openclaw" / "openclaw.json", "{ not JSON")
        late(memory, 1000)
        running.wait_for_status("^Complete: 61 memories")
    assert_same(memory, target_of(memory))


@pytest.mark.long
def test_a_target_whose_memory_is_gone_stays_as_it_is(memory: Path) -> None:
    with service(memory.parent) as running:
        running.wait_for_status("watching for late ones")
        before = target_of(memory).read_bytes()
        memory.unlink()
        running.wait_for_status("late arrivals wait: there is no memory at .*graph.sqlite")
    with service(memory.parent) as running:
        assert running.process.wait(WAIT_S) != 0
        assert str(memory) in running.log
    assert target_of(memory).read_bytes() == before


@pytest.mark.long
def test_a_folder_made_again_is_watched_again(memory: Path) -> None:
    folder = memory.parent / "moving"
    folder.mkdir()
    source = Path(shutil.copy(memory, folder))
    openclaw(memory.parent, backend="ladybugdb")
    with service(memory.parent, "--source", source, "--trigger", "openclaw", "--after", "exit") as running:
        running.wait_for_status("^Waiting for auto_migrate")
        shutil.rmtree(folder)
        openclaw(memory.parent, backend="ladybugdb", auto_migrate=True)
        running.wait_for_status("^Waiting for a memory at")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copy(memory, source)
        assert running.process.wait(WAIT_S) == 0
    assert_same(source, target_of(source))


@pytest.mark.long
def test_the_log_of_a_memory_behind_a_link_is_watched(memory: Path) -> None:
    real = memory.parent / "data" / "memory.db"
    real.parent.mkdir()
    memory.rename(real)
    memory.symlink_to(real)
    with service(memory.parent) as running, closing(sqlite3.connect(real, isolation_level=None)) as writer:
        running.wait_for_status("watching for late ones")
        writer.execute("INSERT INTO memory_nodes (id, timestamp, layer, text) VALUES (1000, 5, 'input', 'late')")
        running.wait_for_status("^Complete: 61 memories")


@pytest.mark.long
def test_a_target_taken_away_is_told(memory: Path) -> None:
    with service(memory.parent) as running:
        running.wait_for_status("watching for late ones")
        target_of(memory).unlink()
        assert running.process.wait(WAIT_S) == 0
        assert f"{target_of(memory)} is gone" in running.log


@pytest.mark.long
def test_a_target_that_went_with_its_memory_is_waited_for(sample: Path, tmp_path: Path) -> None:
    """As with a disk of which no set-up told."""
    source = tmp_path / "disk" / "graph.sqlite"
    source.parent.mkdir()
    shutil.copy(sample, source)
    with service(tmp_path, "--source", source) as running:
        running.wait_for_status("watching for late ones")
        source.parent.rename(tmp_path / "pulled")
        running.wait_for_status("^Waiting for a memory at")
        before = len(running.statuses)
        (tmp_path / "pulled").rename(source.parent)
        running.wait_for_status("^Complete: 60 memories", after=before)
        assert running.stop() == 0
    assert_same(source, target_of(source))


@pytest.mark.long
def test_a_folder_that_cannot_be_looked_into_is_tried_again(sample: Path, tmp_path: Path) -> None:
    source = tmp_path / "disk" / "graph.sqlite"
    source.parent.mkdir()
    shutil.copy(sample, source)
    with service(tmp_path, "--source", source) as running:
        running.wait_for_status("watching for late ones")
        source.parent.rename(tmp_path / "whole")
        source.parent.symlink_to("x" * 300)  # a name that no file system has: an error, as of a disk that fails
        running.wait_for_status("File name too long; trying again in")
        before = len(running.statuses)
        source.parent.unlink()
        (tmp_path / "whole").rename(source.parent)
        running.wait_for_status("^Complete: 60 memories", after=before)
        assert running.stop() == 0


def test_another_run_on_the_same_target_is_waited_for(memory: Path) -> None:
    lock = target_of(memory).with_name("graph.ladybug.lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with service(memory.parent) as running:
            running.wait_for_status("is already working on this target.*trying again in 60 s")
            assert any(text.startswith("READY=1") for text in running.messages)
            assert running.stop() == 0


def test_after_exit_rows_in_quarantine_are_to_be_seen(tmp_path: Path) -> None:
    memory = make_memory(tmp_path / "graph.sqlite", nodes=[node(1), node(2, text=b"\xff")])
    with service(tmp_path, "--after", "exit") as running:
        assert running.process.wait(WAIT_S) == 1
    assert memory.exists()


@pytest.mark.long
def test_a_stuck_loop_gives_no_sign_of_life(memory: Path) -> None:
    with service(memory.parent, watchdog_s=0.9) as running:
        running.wait_for_status("watching for late ones")
        running.process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        before = running.messages.count("WATCHDOG=1")
        time.sleep(2.0)
        assert running.messages.count("WATCHDOG=1") == before
        running.process.send_signal(signal.SIGCONT)
        running.wait_for(lambda: running.messages.count("WATCHDOG=1") > before)
