"""What a person sees of a run: the console and `migration.log`, in the guide's words, and events as JSON.

The whole output of one small run is kept in `tests/golden/`, with times, sizes and folders made the same. After a
change that is meant, renew the files and read the difference before it is committed:

    NIMAD_UPDATE_GOLDEN=1 python -m pytest tests/integration/cli/test_console.py -k golden && git diff tests/golden
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import pytest
from support.commands import (
    GOLDEN,
    STAMP,
    TIMEOUT_S,
    Ran,
    assert_complete,
    children,
    nimad,
    on_a_terminal,
    read_until,
    running,
    working,
)
from support.memories import edge, make_memory, node, vector

from nimad.sample import Sample, write_sample

RULE = "=" * 60


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "graph.sqlite"
    write_sample(path, Sample(nodes=60, dimension=8))
    return path


@pytest.fixture(scope="module")
def ran(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The run that most tests look at: 60 nodes in four batches."""
    folder = tmp_path_factory.mktemp("ran")
    shutil.copy(sample, folder)
    # What lies in the folder that the command is called in is not the engine.
    (folder / "ladybug.py").write_text("raise SystemExit('imported from the current folder')\n")
    return nimad(folder, "migrate", "--source", "graph.sqlite", "--batch-size", "15", "--fixed-batch")


@pytest.fixture
def memory(sample: Path, tmp_path: Path) -> Path:
    """A memory of its own for a test that writes beside it."""
    return Path(shutil.copy(sample, tmp_path))


#: The least of a run that still writes a target.
QUICK = ("--nodes-only", "--verify", "none")


# The guide


def normalised(text: str, folder: Path) -> str:
    """Take out what differs between two runs, but only where it has the form that the guide gives it."""
    for form, same in {
        re.escape(str(folder)): "FOLDER",
        re.escape(f"{sys.executable} -P -m nimad"): "nimad",
        STAMP.pattern.split(" \\[")[0]: "[TIME]",
        r"\b\d+(\.\d\d)? MB\b": "0 MB",
        r"\bETA: \d+s\)": "ETA: 0s)",
        r"\bElapsed: \d+\.\ds$": "Elapsed: 0.0s",
        r"\bAvg batch time: \d+\.\d\ds$": "Avg batch time: 0.00s",
        r"\((\d+)\.\ds\)$": "(0.0s)",
    }.items():
        text = re.sub(form, same, text, flags=re.MULTILINE)
    return text


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["console.txt", "migration.log"])
def test_the_whole_output_is_the_golden_one(ran: Ran, name: str) -> None:
    assert (ran.code, ran.err) == (0, "")
    said = normalised(ran.out if name == "console.txt" else ran.log, ran.folder)
    if os.environ.get("NIMAD_UPDATE_GOLDEN") == "1":
        (GOLDEN / name).write_text(said)
    assert said == (GOLDEN / name).read_text()


#: «Console Output» of the guide, line by line, for this memory.
CONSOLE = [
    "={60}",
    "NIMA Memory Migration: SQLite → LadybugDB",
    "={60}",
    r"STAMP\[INFO\] Analyzing source database\.\.\.",
    r"STAMP\[INFO\] Source: 60 nodes, \d+(\.\d+)? MB",
    r"STAMP\[INFO\] Layers: \{'contemplation': 21, 'input': 19, 'output': 11, 'legacy_vsa': 9\}",
    r"STAMP\[INFO\] Batch size: 15 nodes",
    r"STAMP\[INFO\] Total batches: 4",
    r"STAMP\[INFO\] Starting migration\.\.\.",
    r"STAMP\[INFO\] Batch 1/4 \(25\.0% complete, ETA: \d+s\)",
    r"STAMP\[INFO\] Batch 2/4 \(50\.0% complete, ETA: \d+s\)",
    r"STAMP\[INFO\] Batch 3/4 \(75\.0% complete, ETA: \d+s\)",
    r"STAMP\[INFO\] Batch 4/4 \(100\.0% complete, ETA: 0s\)",
    "={60}",
    "Migration Summary",
    "={60}",
    r"STAMP\[INFO\] Total nodes: 60",
    r"STAMP\[INFO\] Migrated: 60",
    r"STAMP\[INFO\] Failed batches: 0",
    r"STAMP\[INFO\] Retries: 0",
    r"STAMP\[INFO\] Elapsed: \d+\.\ds",
    r"STAMP\[INFO\] Avg batch time: \d+\.\d\ds",
    r"STAMP\[INFO\] Success rate: 100\.0%",
    r"STAMP\[INFO\] ✅ Migration completed successfully!",
]


def assert_in_order(text: str, forms: Sequence[str]) -> None:
    """Fail unless whole lines of these forms stand in the text in this order, others between them or not."""
    lines = iter(text.splitlines())
    for form in forms:
        whole = re.compile(form.replace("STAMP", r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] "))
        assert any(whole.fullmatch(line) for line in lines), f"not there, or out of order: {form}\n{text}"


def test_the_console_says_what_the_guide_says_in_its_order(ran: Ran) -> None:
    assert_in_order(ran.out, CONSOLE)
    assert ran.out.splitlines()[:3] == [RULE, "NIMA Memory Migration: SQLite → LadybugDB", RULE]
    assert ran.out.endswith("✅ Migration completed successfully!\n")


@pytest.mark.long
def test_the_log_says_the_same_with_the_time_before_every_line(ran: Ran) -> None:
    assert_in_order(ran.log, [form for form in CONSOLE if form.startswith("STAMP")])
    assert [line for line in ran.log.splitlines() if not STAMP.match(line)] == []


def test_the_times_are_local_and_do_not_run_backwards(ran: Ran) -> None:
    times = [datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S") for stamp, _ in STAMP.findall(ran.log)]  # noqa: DTZ007
    assert times == sorted(times)
    written = datetime.fromtimestamp((ran.folder / "migration.log").stat().st_mtime)  # noqa: DTZ006
    assert abs((written - times[-1]).total_seconds()) < 5


# The log file


def test_the_log_stands_beside_the_source_for_its_owner_alone(memory: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.umask(before := os.umask(0))
    assert before, "this test says nothing without a umask"
    done = nimad(tmp_path, "migrate", "--source", memory, "--target", elsewhere / "my.ladybug", *QUICK)
    assert done.code == 0
    assert (tmp_path / "migration.log").stat().st_mode & 0o777 == 0o600
    assert not list(elsewhere.glob("*.log"))


@pytest.mark.long
def test_a_second_run_goes_on_below_the_first(ran: Ran, tmp_path: Path) -> None:
    folder = shutil.copytree(ran.folder, tmp_path / "copy")
    second = nimad(folder, "migrate", "--source", "graph.sqlite", "--replace", "--log-level", "DEBUG")
    assert second.code == 0
    assert second.log.startswith(ran.log)
    added = second.log.removeprefix(ran.log)
    assert "[INFO] Kept what was there before as " in added
    # --log-level holds for both.
    for text in (added, second.out):
        assert "[DEBUG] Edges batch 1/1 (100.0% complete)" in text
        assert "[DEBUG] Turns batch 1/1 (100.0% complete)" in text
    assert "[DEBUG]" not in ran.log + ran.out


def test_any_name_of_a_folder_will_do(sample: Path, tmp_path: Path) -> None:
    folder = tmp_path / "{odd} {time} {0} <red> 100% %s [x] \\ 'ünï'\N{SNOWMAN}"
    folder.mkdir()
    memory = Path(shutil.copy(sample, folder))
    done = nimad(folder, "migrate", "--source", memory, *QUICK)
    assert (done.code, done.err) == (0, "")
    assert f"Published: {folder}/graph.ladybug (" in done.out
    assert f"Published: {folder}/graph.ladybug (" in done.log


def test_a_log_that_cannot_be_written_does_not_stop_the_run(memory: Path, tmp_path: Path) -> None:
    (tmp_path / "migration.log").mkdir()
    done = nimad(tmp_path, "migrate", "--source", memory, *QUICK)
    assert (done.code, done.err) == (0, "")
    assert re.search(r"\[WARN\] No log file .*migration\.log \(Is a directory\); going on without", done.out)


# Retries


@pytest.mark.long
def test_a_killed_worker_is_said_in_the_words_of_the_guide(memory: Path, tmp_path: Path) -> None:
    options = ("--batch-size", "12", "--fixed-batch", *QUICK)
    with running(tmp_path, "migrate", "--source", memory, *options) as process:
        read_until(process, "Batch 1/5 ")
        log = tmp_path / "migration.log"
        killed = kill_workers_until(process, lambda: "Batch failed" in log.read_text())
        out, err = (text.decode() for text in process.communicate(timeout=TIMEOUT_S))
    assert killed
    assert (process.returncode, err) == (0, "")
    for text in (out, log.read_text()):
        assert_in_order(
            text,
            [
                r"STAMP\[WARN\] Batch failed \(attempt 1/4\): the worker was ended by SIGKILL\. Retrying in 1s\.\.\.",
                r"STAMP\[INFO\] Batch succeeded on retry 2",
                r"STAMP\[INFO\] Migrated: 60",
                r"STAMP\[INFO\] Failed batches: 0",
                r"STAMP\[INFO\] Retries: 1",
                r"STAMP\[INFO\] ✅ Migration completed successfully!",
            ],
        )
        assert "WARNING" not in text


def test_a_worker_that_is_killed_before_the_start_is_replaced(memory: Path, tmp_path: Path) -> None:
    with running(tmp_path, "migrate", "--source", memory, *QUICK) as process:
        read_until(process, "=")
        first, *_ = children(process.pid)
        os.kill(first, signal.SIGSTOP)  # or it might be done before the blow
        read_until(process, "Total batches")
        os.kill(first, signal.SIGKILL)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, err) == (0, b"")
    assert_complete(tmp_path)


def kill_workers_until(process: subprocess.Popen[bytes], done: Any) -> int:
    """SIGKILL the worker that was given its job, again when the blow met one that had ended already."""
    killed = 0
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        for pid in working(process.pid):
            os.kill(pid, signal.SIGKILL)
            killed += 1
            patience = time.monotonic() + 0.5
            while time.monotonic() < patience:
                if done():
                    return killed
                time.sleep(0.01)
        time.sleep(0.002)
    pytest.fail("no worker could be killed at its work")


# Terminals and pipes


def test_on_a_terminal_a_bar_moves_below_the_same_lines(sample: Path, tmp_path: Path) -> None:
    folder = tmp_path / ":cat: [red]"
    folder.mkdir()
    memory = Path(shutil.copy(sample, folder))
    code, drawn = on_a_terminal(folder, "migrate", "--source", memory, "--batch-size", "15", "--fixed-batch")
    assert code == 0
    assert "━" in drawn
    assert "15/60" in drawn
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn).replace("\r", "\n")
    assert_in_order(plain, CONSOLE)
    # Names are shown as they are.
    assert f"Published: {folder}/graph.ladybug (" in plain
    # The bar is gone at the end, the cursor back, and the next step is said.
    assert "━" not in drawn[drawn.rindex("Migration Summary") :]
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") > 0
    assert plain.rstrip().splitlines()[-1].startswith(f"Search it with: {sys.executable} -P -m nimad search --target ")


def test_piped_there_are_only_lines(ran: Ran) -> None:
    for sign in ("\x1b", "\r", "━", "\b"):
        assert sign not in ran.out
    assert "Search it with" not in ran.out


@pytest.mark.sampled
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["lines", "json"])
def test_losing_the_reader_does_not_stop_the_run(memory: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    """`nimad migrate | head -1`."""
    with running(tmp_path, "migrate", "--source", memory, *QUICK, *options) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read().decode()
        process.wait(TIMEOUT_S)
    assert (process.returncode, err) == (0, "")
    assert_complete(tmp_path)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("redirection", "options"),
    [(">/dev/full", ()), (">/dev/full", ("--json",)), (">&-", ())],
    ids=["full disk, lines", "full disk, json", "closed"],
)
def test_a_console_that_takes_nothing_does_not_stop_the_run(
    memory: Path, tmp_path: Path, redirection: str, options: tuple[str, ...]
) -> None:
    shell = ("sh", "-c", f'exec "$@" {redirection}', "sh")
    done = nimad(tmp_path, "migrate", "--source", memory, *QUICK, *options, prefix=shell)
    assert (done.code, done.err) == (0, "")
    assert_complete(tmp_path)


def test_under_nohup_a_run_outlives_its_terminal(memory: Path, tmp_path: Path) -> None:
    options = ("--batch-size", "15", "--fixed-batch", *QUICK)
    with running(tmp_path, "migrate", "--source", memory, *options, prefix=("nohup",)) as process:
        read_until(process, "Batch 1/4 ")
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert_complete(tmp_path)


# Events as JSON


def events(lines: str | IO[bytes]) -> list[dict[str, Any]]:
    text = lines if isinstance(lines, str) else lines.read().decode()
    return [json.loads(line) for line in text.splitlines()]


def test_with_json_stdout_is_events_and_nothing_else(memory: Path, tmp_path: Path) -> None:
    done = nimad(tmp_path, "migrate", "--source", memory, "--json", "--batch-size", "20", "--max-batch-size", "40")
    assert (done.code, done.err) == (0, "")
    said = events(done.out)
    names = [event["event"] for event in said]
    assert names[0] == "Analyzing"
    assert names[-1] == "Finished"
    by_name = {event["event"]: event for event in said}
    assert by_name["Analyzed"]["layers"] == {"contemplation": 21, "input": 19, "output": 11, "legacy_vsa": 9}
    assert by_name["Planned"]["batch_size"] == 20
    batches = [event for event in said if event["event"] == "BatchLoaded" and event["table"] == "memory_nodes"]
    assert [(batch["number"], batch["rows"], batch["done"], batch["of"]) for batch in batches] == [
        (1, 20, 20, 60),
        (2, 40, 60, 60),
    ]
    assert by_name["Published"]["target"] == str(tmp_path / "graph.ladybug")
    result = by_name["Finished"]["result"]
    assert (result["outcome"], result["total_nodes"], result["migrated"]) == ("complete", 60, 60)
    # People still have their log.
    assert_in_order(done.log, [r"STAMP\[INFO\] Source: 60 nodes, .*", r"STAMP\[INFO\] Total nodes: 60"])


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--source", "missing.sqlite"), 2),
        (("--batch-size", "0"), 2),
        (("--config", "missing.toml"), 78),
        (("--source", "graph.sqlite", "--start-offset", "61"), 2),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, tuple) else None,
)
def test_with_json_a_failure_is_an_event_too(memory: Path, tmp_path: Path, options: tuple[str, ...], code: int) -> None:
    assert memory.exists()
    done = nimad(tmp_path, "migrate", "--json", *options)
    assert done.code == code
    failed = events(done.out)[-1]
    assert (failed["event"], failed["exit_code"]) == ("Failed", code)
    assert failed["message"] == done.error


# Rows set aside


@pytest.fixture
def flawed(tmp_path: Path) -> Path:
    """Eight nodes, of which one has an odd moment and one an odd embedding; an edge to nowhere."""
    good = [node(key, embedding=vector(1.0, 2.0, 3.0)) for key in range(1, 7)]
    bad = [node(7, timestamp="yesterday"), node(8, embedding=vector(1.0, 2.0))]
    return make_memory(tmp_path / "graph.sqlite", nodes=[*good, *bad], edges=[edge(1, 1, 2), edge(2, 1, 99)])


def test_rows_set_aside_are_warned_of_and_counted(flawed: Path, tmp_path: Path) -> None:
    done = nimad(tmp_path, "migrate", "--source", flawed)
    assert (done.code, done.err) == (1, "")
    listed = re.escape(str(tmp_path / "graph.ladybug.quarantine.jsonl"))
    for text in (done.out, done.log):
        assert_in_order(
            text,
            [
                rf"STAMP\[WARN\] Quarantined: 1 row and 2 values, listed in {listed}",
                r"STAMP\[INFO\] Total nodes: 8",
                r"STAMP\[INFO\] Migrated: 8",
                r"STAMP\[WARN\] 8 of 8 memories, 1 row and 2 values set aside",
                r"STAMP\[INFO\] Success rate: 100\.0%",
                r"STAMP\[WARN\] Migration completed with errors",
            ],
        )
        named = re.findall(r"\[WARN\] Quarantined: (\w+ id \d+ \(\w+\)): ", text)
        assert sorted(named) == [
            "memory_edges id 2 (row)",
            "memory_nodes id 7 (timestamp)",
            "memory_nodes id 8 (embedding)",
        ]
        assert "completed successfully" not in text
        assert "WARNING" not in text


@pytest.mark.long
def test_at_level_warn_only_titles_and_warnings_are_left(flawed: Path, tmp_path: Path) -> None:
    done = nimad(tmp_path, "migrate", "--source", flawed, "--log-level", "warn")
    assert done.code == 1
    assert {level for _, level in STAMP.findall(done.out)} == {"WARN"}
    assert {level for _, level in STAMP.findall(done.log)} == {"WARN"}
    titles = [line for line in done.out.splitlines() if not STAMP.match(line)]
    assert titles == [RULE, "NIMA Memory Migration: SQLite → LadybugDB", RULE, RULE, "Migration Summary", RULE]
