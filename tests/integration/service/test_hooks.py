"""Hooks: who is told what, with whose rights, and that nothing a hook does changes how a run ends."""

import json
import os
import re
import shutil
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from support.commands import nimad as command
from support.memories import make_memory, migrate, node
from support.users import ALICE, folder_of, given

import nimad
from nimad.errors import ExitCode, NimadError, SourceError
from nimad.events.run import Event, HookRan
from nimad.report.messages.run_messages import lines
from nimad.state.paths import Files, locked
from nimad.supervisor import hooks
from nimad.sync.follower import Follower

#: Writes its variables and its words to the file that is its first word.
TELL = "import json, os, sys; json.dump([dict(os.environ), sys.argv[2:]], open(sys.argv[1], 'w')); print('told')"
LATE = "INSERT INTO memory_nodes (id, timestamp, layer, text) VALUES (9, 1, 'input', CAST(x'ff' AS TEXT))"


def tell(file: Path, *words: str) -> tuple[str, ...]:
    return (sys.executable, "-c", TELL, str(file), *words)


def said(file: Path) -> dict[str, str]:
    """What a hook was told, without the prefix."""
    environment, _ = json.loads(file.read_text())
    return {name.removeprefix("NIMA_"): value for name, value in environment.items() if name.startswith("NIMA_")}


def run_hook(source: Path, *words: str, stop: threading.Event | None = None) -> HookRan:
    """Run this as the hook of a failure."""
    heard: list[Event] = []
    settings = nimad.Settings(source=source, on_failure=words)
    stop = stop or threading.Event()
    told = hooks.Hooks(settings, heard.append, threading.Event())
    told._stop = stop if stop.is_set() else told._stop
    told._call(hooks.FAILURE, {"OUTCOME": "failed"})
    (event,) = heard
    assert isinstance(event, HookRan)
    return event


@pytest.fixture
def source(tmp_path: Path) -> Path:
    nodes = [node(1), node(2), node(3, embedding=b"\1\2\3")]
    return make_memory(tmp_path / "graph.sqlite", nodes=nodes)


def test_the_end_of_a_run_and_its_quarantine_are_told(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    monkeypatch.setenv("API_TOKEN", "secret")
    done, aside = tmp_path / "done.json", tmp_path / "aside.json"
    run = migrate(source, on_complete=tell(done, "a b", "$HOME;*"), on_quarantine=tell(aside))
    assert run.result.exit_code is ExitCode.QUARANTINED
    environment, words = json.loads(done.read_text())
    assert words == ["a b", "$HOME;*"], "no shell has seen them"
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "API_TOKEN"} & environment.keys()
    facts = said(done)
    assert facts.pop("SECONDS") > "0"
    assert len(facts.pop("RUN")) == 32
    assert facts == {
        "HOOK": "on_complete",
        "OUTCOME": "complete",
        "EXIT_CODE": "1",
        "SOURCE": str(source),
        "TARGET": str(run.target),
        "MIGRATED": "3",
        "QUARANTINED": "1",
        "QUARANTINE_FILE": f"{run.target}.quarantine.jsonl",
        "RETRIES": "0",
        "MESSAGE": f"3 of 3 memories are in {run.target}",
    }
    assert said(aside)["HOOK"] == "on_quarantine"
    assert [(event.hook, event.code, event.output) for event in run.all(HookRan)] == [
        ("on_complete", 0, "told"),
        ("on_quarantine", 0, "told"),
    ]
    assert [(str(level), text.partition(" (")[0]) for level, text in lines(run.all(HookRan)[0])] == [
        ("INFO", "on_complete says: told"),
        ("INFO", "Hook on_complete: done"),
    ]
    done.unlink()
    migrate(source, on_complete=tell(done))
    assert not done.exists(), "nothing was done, and nothing is told"


def test_a_hook_finds_the_target_published_and_unlocked(source: Path, tmp_path: Path) -> None:
    code = "import sys, pathlib as p; print(sorted(x.name for x in p.Path(sys.argv[1]).glob('graph.ladybug*')))"
    run = migrate(source, on_complete=(sys.executable, "-c", code, str(tmp_path)), verify="none")
    (event,) = run.all(HookRan)
    assert "'graph.ladybug'" in event.output
    assert "lock" not in event.output
    assert "migrating" not in event.output


def test_an_error_is_told_and_stays_what_it_was(tmp_path: Path) -> None:
    told, source = tmp_path / "told.json", tmp_path / "nothing.sqlite"
    with pytest.raises(SourceError) as caught:
        migrate(source, on_failure=tell(told))
    facts = said(told)
    assert (facts["OUTCOME"], facts["EXIT_CODE"]) == ("failed", str(int(caught.value.exit_code)))
    assert facts["MESSAGE"] == str(caught.value)


def test_what_somebody_stopped_or_another_does_has_not_failed(source: Path, tmp_path: Path) -> None:
    told, stop = tmp_path / "told.json", threading.Event()
    stop.set()
    settings = nimad.Settings(source=source, on_failure=tell(told))
    with pytest.raises(NimadError):
        nimad.migrate(settings, stop=stop)
    with locked(Files(settings.target)), pytest.raises(NimadError, match="another nimad"):
        nimad.migrate(settings)
    assert not told.exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("sh", "-c", "echo one; echo two >&2; exit 3"), "Hook on_failure ended with 3"),
        (("no-such-program-anywhere",), "there is no program no-such-program-anywhere"),
        (("sh", "-c", "kill -9 $$"), "Hook on_failure ended with -9"),
    ],
)
def test_what_goes_wrong_in_a_hook_is_a_warning(source: Path, words: tuple[str, ...], text: str) -> None:
    *output, (level, last) = lines(run_hook(source, *words))
    assert (str(level), last.startswith((text, f"Hook on_failure: {text}"))) == ("WARN", True), last
    if "exit 3" in words[-1]:
        assert [each for _, each in output] == ["on_failure says: one", "on_failure says: two"]


def test_a_hook_that_does_not_end_is_ended_with_what_it_started(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "LIMIT_S", 0.5)
    monkeypatch.setattr(hooks, "TERMINATE_S", 0.5)
    script = f"trap '' TERM; sleep 300 & echo $! >{tmp_path}/pid; exec >&- 2>&-; wait; wait; sleep 300"
    event = run_hook(source, "sh", "-c", script)
    assert (event.code, "so it was ended" in event.why) == (None, True)
    child = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    deadline = time.monotonic() + 60
    while child.exists() and child.read_text().rpartition(") ")[2][0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stop_does_not_wait_for_a_hook(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "STOP_S", 0.2)
    stop = threading.Event()
    stop.set()
    assert "the program was to stop" in run_hook(source, "sleep", "300", stop=stop).why


def test_a_stop_gives_the_hooks_that_are_left_no_time_of_their_own(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "STOP_S", 0.2)
    stop, heard = threading.Event(), list[Event]()
    stop.set()
    words = ("sleep", "300")
    told = hooks.Hooks(nimad.Settings(source=source, on_complete=words, on_quarantine=words), heard.append, stop)
    told._call(hooks.COMPLETE, {})
    told._call(hooks.QUARANTINE, {})
    whys = [event.why for event in heard if isinstance(event, HookRan)]
    assert whys == ["the program was to stop, so it was ended", "the program is to stop, so it was not run"]


def test_what_a_hook_started_ends_with_it_though_it_heeds_no_request(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "LIMIT_S", 1.0)
    deaf = f"(trap '' TERM; echo $$ >{tmp_path}/ready; exec sleep 300) & echo $! >{tmp_path}/pid; exec sleep 300"
    run_hook(source, "sh", "-c", deaf)
    child = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    deadline = time.monotonic() + 60
    while child.exists() and child.read_text().rpartition(") ")[2][0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_hook_that_never_stops_talking_is_looked_at_in_between() -> None:
    output = bytearray()
    with Path("/dev/zero").open("rb", buffering=0) as endless:
        assert not hooks._read(endless, output)
    assert len(output) == hooks.KEPT_BYTES


def test_what_no_variable_and_no_word_can_hold_is_no_crash(source: Path) -> None:
    heard: list[Event] = []
    told = hooks.Hooks(nimad.Settings(source=source, on_failure=("true",)), heard.append, threading.Event())
    told._call(hooks.FAILURE, {"MESSAGE": "half \ud800 a sign, and \0"})
    assert isinstance(heard[0], HookRan)
    assert heard[0].code == 0
    assert "it cannot be run" in run_hook(source, "true", "half \ud800").why


def test_what_a_hook_leaves_behind_is_not_waited_for_and_its_flood_is_cut(source: Path) -> None:
    flood = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; sleep 20 & exit 0"
    event = run_hook(source, "sh", "-c", flood)
    assert event.code == 0
    assert event.output.endswith("line 2999")
    assert len(event.output) <= hooks.KEPT_BYTES


def test_what_went_to_quarantine_late_is_told(source: Path, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    migrate(source)
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute(LATE)
    heard: list[Event] = []
    settings = nimad.Settings(source=source, on_quarantine=tell(told))
    done = Follower(settings, threading.Event(), heard.append).catch_up(thorough=True)
    assert done.quarantined == 1
    assert (said(told)["HOOK"], said(told)["QUARANTINED"]) == ("on_quarantine", "1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for other users")
def test_root_runs_the_hook_of_a_users_memory_as_that_user(ground: Path, reaching: list[str]) -> None:
    folder, config = folder_of(ALICE, ground / "alice"), ground / "nimad.toml"
    source = given(ALICE, make_memory(folder / "graph.sqlite", nodes=[node(1)]))
    config.write_text('[hooks]\non_complete = ["sh", "-c", "id -u; id -g; id -G; echo $USER; cat /etc/shadow"]\n')
    done = command(ground, "migrate", "--source", source, "--config", config, prefix=reaching)
    said = re.findall(r"on_complete says: (.*)", done.out)
    assert said[:4] == [str(ALICE)] * 4
    assert "Permission denied" in said[4]


def test_a_hook_gets_no_word_of_the_linkers(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    assert run_hook(source, "sh", "-c", "echo x$LD_LIBRARY_PATH").output == "x"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for other users")
def test_root_runs_no_program_of_somebody_else_for_a_memory_of_its_own(source: Path, tmp_path: Path) -> None:
    program = Path(shutil.copy("/bin/true", tmp_path / "mine"))
    os.chown(program, 61_001, 61_001)
    assert "others than root may write" in run_hook(source, str(program)).why
