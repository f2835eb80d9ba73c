"""The scripts of nima-core's guide, as its start-up hook and its readers call them: nimad does the work.

They run in a Python of their own without our packages; the nimad that they find is the real one.
"""

import ast
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import ladybug
import nimad_program
import pytest
from support.commands import environment, nimad
from support.memories import ENGINE_LIMITS, assert_same, make_memory, node, read_target

COMPAT = Path(nimad_program.__file__).parent
WAIT_S = 60.0
DATABASE = '{"database": {"backend": "ladybugdb", "auto_migrate": true}}'
OPENCLAW = f'{{"plugins": {{"entries": {{"nima-memory": {{"config": {DATABASE}}}}}}}}}'


@dataclass
class Home:
    """The home of a user who has a memory, and nimad at a place that the scripts are told of."""

    path: Path
    program: Path

    @property
    def source(self) -> Path:
        return self.path / ".nima/memory/graph.sqlite"

    @property
    def target(self) -> Path:
        return self.path / ".nima/memory/ladybug.lbug"

    def begin(self, script: str, *words: str, **more: str) -> "subprocess.Popen[str]":
        # -I: nothing of ours is on its path, not even its own folder. Not /usr/bin/python3, which CI may lack.
        command = [sys.executable, "-I", "-S", str(COMPAT / script), *words]
        env = environment(self.path, **{"NIMAD": str(self.program), **more})
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @contextmanager
    def started(self, script: str, *words: str) -> Iterator["subprocess.Popen[str]"]:
        """As `begin`, and ended with the test, however that ends."""
        with self.begin(script, *words) as process:
            try:
                yield process
            finally:
                process.terminate()

    def run(self, script: str, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
        with self.begin(script, *words, **more) as process:
            out, err = process.communicate(timeout=WAIT_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def ask_for_migration(self) -> None:
        (self.path / ".openclaw").mkdir()
        (self.path / ".openclaw/openclaw.json").write_text(OPENCLAW)

    def pause_first(self) -> None:
        """From now on, each migration is held before its first batch."""
        self.program.write_text(f"#!/bin/sh\n[ $1 = migrate ] && touch {self.target}.paused\n{_called()}\n")

    def resume(self) -> None:
        nimad(self.path, "resume", "--target", self.target)


def _called() -> str:
    return f'exec {sys.executable} -m nimad "$@"'


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / ".nima/memory").mkdir(parents=True)
    make_memory(tmp_path / ".nima/memory/graph.sqlite", nodes=[node(key) for key in range(1, 31)])
    program = tmp_path / "bin/nimad"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{_called()}\n")
    program.chmod(0o755)
    return Home(tmp_path, program)


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def test_the_guides_commands_migrate_with_the_guides_output(home: Home) -> None:
    dry = home.run("migrate_to_ladybug.py", "--batch-size", "10", "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "Nothing was written." in dry.stdout
    assert not home.target.exists()
    done = home.run("migrate_to_ladybug.py", "--batch-size", "10", "--start-offset", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "[INFO] Batch size: 10 nodes\n" in done.stdout
    assert done.stdout.endswith("[INFO] ✅ Migration completed successfully!\n")
    assert_same(home.source, home.target)
    again = home.run("migrate_to_ladybug.py")
    assert again.returncode == 0
    assert "Nothing to do: " in again.stdout


@pytest.mark.long
def test_the_hook_migrates_when_openclaw_asks_and_not_before(home: Home) -> None:
    hook = ("migrate_to_ladybug.py", "--batch-size", "10", "--auto")
    before = home.run(*hook)
    assert (before.returncode, home.target.exists()) == (0, False)
    assert "does not exist" in before.stdout
    home.ask_for_migration()
    assert home.run(*hook).returncode == 0
    assert_same(home.source, home.target)


@pytest.mark.long
def test_for_the_hook_a_target_without_a_row_that_was_set_aside_is_there(home: Home) -> None:
    home.source.unlink()
    make_memory(home.source, nodes=[node(1), node(2, text=b"\xff")])
    home.ask_for_migration()
    done = home.run("migrate_to_ladybug.py", "--auto")
    assert done.returncode == 0
    assert "Migration completed with errors" in done.stdout
    assert home.run("migrate_to_ladybug.py").returncode == 1


def test_an_error_of_nimads_is_handed_on(home: Home) -> None:
    home.source.unlink()
    done = home.run("migrate_to_ladybug.py")
    assert done.returncode == 2
    assert f"there is no memory at {home.source}" in done.stderr


@contextmanager
def at_work(home: Home) -> Iterator["subprocess.Popen[bytes]"]:
    """A nimad that has the lock and is held, as a service may be in the middle of its work."""
    home.pause_first()
    words = [str(home.program), "migrate", "--source", str(home.source), "--reader-python", "none"]
    said = home.path / "said"
    with said.open("wb") as output, subprocess.Popen(words, env=environment(home.path), stdout=output) as process:
        try:
            wait_for(lambda: "Paused; " in said.read_text())
            yield process
        finally:
            process.terminate()


@pytest.mark.long
def test_who_works_already_is_waited_for_and_heard(home: Home) -> None:
    with at_work(home) as other, home.started("migrate_to_ladybug.py") as waiting:
        assert waiting.stdout is not None
        assert f"nimad (PID {other.pid}) is working on {home.target} already" in waiting.stdout.readline()
        home.program.write_text(f"#!/bin/sh\n{_called()}\n")
        home.resume()
        out, _ = waiting.communicate(timeout=WAIT_S)
        assert other.wait(WAIT_S) == waiting.returncode == 0
    assert "✅ Migration completed successfully!" in out
    assert out.count("Starting migration...") == 1
    assert "Nothing to do: " in out


def test_who_works_already_goes_on_when_the_waiting_ends(home: Home) -> None:
    with at_work(home) as other, home.started("migrate_to_ladybug.py") as waiting:
        assert waiting.stdout is not None
        waiting.stdout.readline()
        waiting.send_signal(signal.SIGTERM)
        _, err = waiting.communicate(timeout=WAIT_S)
        assert waiting.returncode == 75
        assert f"nimad (PID {other.pid}) goes on by itself" in err
        assert other.poll() is None


@pytest.mark.long
def test_a_lock_file_that_nobody_holds_keeps_nobody_out(home: Home) -> None:
    home.target.with_name("ladybug.lbug.lock").write_text(f"{os.getpid()}\n")
    assert home.run("migrate_to_ladybug.py").returncode == 0


def test_the_hook_is_answered_in_time(home: Home) -> None:
    """Nine minutes are some seconds here, enough to start in; nimad is held, and would be for ever."""
    home.ask_for_migration()
    home.pause_first()
    hurry = "import sys, migrate_to_ladybug as m; m.LIMIT_S = 8.0; sys.exit(m.main(['--auto']))"
    done = subprocess.run(
        [sys.executable, "-c", hurry],
        env=environment(home.path, NIMAD=str(home.program), PYTHONPATH=str(COMPAT)),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 75
    assert "because the start-up hook gives no more than ten. Everything counted is kept" in done.stderr
    assert not home.target.with_name("ladybug.lbug.lock").exists()
    home.program.write_text(f"#!/bin/sh\n{_called()}\n")
    paused = home.run("migrate_to_ladybug.py", "--auto")
    assert paused.returncode == 75
    assert f"is paused, so nothing is done; go on with: {home.program} resume" in paused.stderr
    home.resume()
    assert home.run("migrate_to_ladybug.py", "--auto").returncode == 0
    assert_same(home.source, home.target)


def test_sigterm_stops_nimad_at_a_checkpoint(home: Home) -> None:
    home.pause_first()
    with home.started("migrate_to_ladybug.py") as run:
        assert run.stdout is not None
        while "Paused; " not in (line := run.stdout.readline()):
            assert line, "it ended"
        run.send_signal(signal.SIGTERM)
        assert run.wait(WAIT_S) == 75
    assert not home.target.with_name("ladybug.lbug.lock").exists()


def test_a_nimad_that_is_killed_is_not_taken_for_complete(home: Home) -> None:
    home.program.write_text(f"#!/bin/sh\n[ $1 = migrate ] && kill -9 $$\n{_called()}\n")
    done = home.run("migrate_to_ladybug.py")
    assert done.returncode == 75
    assert "nimad was ended by signal 9; everything counted is kept, run it again to go on" in done.stderr


def test_without_nimad_it_says_what_to_install(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = home.run("migrate_to_ladybug.py", "--auto", NIMAD=str(home.path / "nowhere"))
    assert missing.returncode == 69
    assert f"NIMAD names {home.path}/nowhere, which is no program" in missing.stderr
    assert home.run("health_check.py", NIMAD=str(home.path / "nowhere")).returncode == 69
    monkeypatch.delenv("NIMAD", raising=False)
    monkeypatch.setenv("PATH", str(home.path))
    monkeypatch.setattr(nimad_program, "PLACES", ("~/nowhere/nimad",))
    with pytest.raises(nimad_program.NotInstalledError, match="nimad is not installed: it is not on the PATH"):
        nimad_program.find()


def test_nimad_is_found_where_the_guide_installs_it(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    program = home.path / ".local/nimad/bin/nimad"
    program.parent.mkdir(parents=True)
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.delenv("NIMAD", raising=False)
    monkeypatch.setenv("HOME", str(home.path))
    monkeypatch.setenv("PATH", str(home.path / "nowhere"))
    monkeypatch.setattr(nimad_program, "PLACES", nimad_program.PLACES[2:])
    assert nimad_program.find() == [str(program)]
    monkeypatch.setenv("PATH", str(home.program.parent))
    assert nimad_program.find() == [str(home.program)]
    monkeypatch.setattr(nimad_program, "INSTALLED", (sys.executable, "-m", "nimad"))
    assert nimad_program.find() == [sys.executable, "-m", "nimad"]
    monkeypatch.setattr(nimad_program, "INSTALLED", (str(home.path / "gone"),))
    assert nimad_program.find() == [str(home.program)]


def test_the_health_check_is_nimads(home: Home) -> None:
    home.program.write_text('#!/bin/sh\necho "$0 $@"\nexit 1\n')
    done = home.run("health_check.py", "--db", "some file", "--json", PYTHONPATH=str(home.path))
    assert (done.returncode, done.stdout) == (1, f"{home.program} health --db some file --json\n")


def test_the_health_check_has_the_keys_that_its_callers_read(home: Home) -> None:
    done = home.run("health_check.py", "--db", str(home.source), "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"], told["stats"]["nodes"]) == (0, True, 30)
    assert {"turns", "layers", "recent_24h", "db_size_bytes", "db_size_mb", "tables"} <= told["stats"].keys()
    assert home.run("health_check.py", "--db", str(home.target)).returncode == 1


def test_the_agents_python_settings_do_not_reach_nimad(home: Home) -> None:
    home.program.write_text('#!/bin/sh\necho "home:$PYTHONHOME path:$PYTHONPATH"\n')
    done = home.run("health_check.py", PYTHONHOME="", PYTHONPATH=str(home.path))
    assert done.stdout == "home: path:\n"


@pytest.mark.parametrize("script", sorted(COMPAT.glob("*.py")), ids=lambda path: path.name)
def test_the_scripts_ask_for_nothing_that_an_old_python_lacks(script: Path) -> None:
    tree = ast.parse(script.read_text(encoding="utf-8"), feature_version=(3, 8))
    names = {alias.name for found in ast.walk(tree) if isinstance(found, ast.Import) for alias in found.names}
    assert names <= {*sys.stdlib_module_names, "nimad_program"}
    # What Python 3.8 knows only where nothing is evaluated.
    assert any(isinstance(found, ast.ImportFrom) and found.module == "__future__" for found in ast.walk(tree))


def test_the_package_carries_them() -> None:
    import nimad

    assert sorted(path.name for path in (Path(nimad.__file__).parent / "compat").glob("*.py")) == sorted(
        path.name for path in COMPAT.glob("*.py")
    )


def test_the_old_snippet_has_a_working_successor(home: Home) -> None:
    """`ladybug.connect` and `count_nodes` never were; what the guide gives instead is run here as it stands there."""
    assert not hasattr(ladybug, "connect")
    home.run("migrate_to_ladybug.py")
    guide = (COMPAT.parent / "docs/GUIDE.md").read_text(encoding="utf-8")
    (snippet,) = (part.split("\n```")[0] for part in guide.split("```python\n")[1:] if "MemoryNode" in part)
    done = subprocess.run(
        [sys.executable, "-c", snippet], env=environment(home.path), capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("Nodes: 30\n", "")
    with closing(ladybug.Database(str(home.target), read_only=True, **ENGINE_LIMITS)):
        assert len(read_target(home.target).nodes) == 30


def test_what_the_old_guide_types_is_a_command_line_of_the_scripts(home: Home) -> None:
    """Each of its calls, but for the options that name no file of ours."""
    home.program.write_text('#!/bin/sh\n[ $1 = config ] && exec %s -m nimad "$@"\necho "$@"\n' % sys.executable)  # noqa: UP031
    for line in (
        "--batch-size 500 --dry-run",
        "--batch-size 300",
        "--start-offset 2500",
        "--batch-size 200 --start-offset 2500",
    ):
        done = home.run("migrate_to_ladybug.py", *shlex.split(line))
        assert (done.returncode, sorted(done.stdout.split())) == (0, sorted(["migrate", *line.split()]))


def test_the_hook_fails_where_most_memories_would_not_arrive(home: Home) -> None:
    home.source.unlink()
    schema = ["CREATE TABLE memory_nodes (id, text TEXT)"]
    rows = [{"id": key, "text": text} for key, text in ((1, "a"), (None, "b"), (None, "c"))]
    make_memory(home.source, own_schema=True, schema=schema, nodes=rows, journal="DELETE")
    home.ask_for_migration()
    done = home.run("migrate_to_ladybug.py", "--auto")
    assert done.returncode == 75
    assert "2 of 3 memories would be set aside whole" in done.stderr
    assert not home.target.exists()
