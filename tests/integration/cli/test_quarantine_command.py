"""`nimad quarantine` and `nimad search` as people type them: what they say works when it is pasted, and is true."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import ladybug
import pytest
from support.commands import TIMEOUT_S, Ran, environment, nimad, on_a_terminal
from support.memories import ENGINE_LIMITS, change, make_memory, migrate, node, quarantine_file, read_target
from support.torture import interrupted
from test_bad_input import restricted

from nimad.errors import ExitCode
from nimad.events.run import BatchLoaded

__all__ = ["restricted"]


def memory(folder: Path, *bad: int) -> Path:
    """Five nodes, of which some cannot be represented."""
    nodes = [node(key, **({"timestamp": "noon"} if key in bad else {})) for key in (-3, 1, 2, 3, 4)]
    return make_memory(folder / "graph.sqlite", nodes=nodes)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Finished, in a folder with a blank in its name; two rows are in quarantine."""
    folder = tmp_path / "Ada's agent"
    folder.mkdir()
    return migrate(memory(folder, 2, 3)).target


def told(text: str, after: str) -> str:
    """The command that is told after these words."""
    found = re.search(rf"{re.escape(after)}:? (.*)$", text, re.MULTILINE)
    assert found, f"no command after {after!r}:\n{text}"
    return found[1]


def pasted(folder: Path, line: str) -> Ran:
    """Type the line into a shell, in another folder and for a user whose own memory lies elsewhere."""
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Ran(folder, done.returncode, done.stdout.decode(), done.stderr.decode())


# What it tells to type


def test_what_the_list_tells_to_type_works(tmp_path: Path, target: Path) -> None:
    listed = nimad(tmp_path, "quarantine", "list", "--target", target)
    assert f"2 entries in {quarantine_file(target)}" in listed.out
    shown = pasted(tmp_path, told(listed.out, "Look at one whole"))
    assert json.loads(shown.out)["id"] == 2
    change(target.with_name("graph.sqlite"), "UPDATE memory_nodes SET timestamp = 12")
    again = pasted(tmp_path, told(listed.out, "Once their cause is fixed"))
    assert (again.code, again.err) == (0, "")
    assert nimad(tmp_path, "quarantine", "--help").code == 0
    assert nimad(tmp_path, "quarantine", "list", "--target", target).out == "Nothing is in quarantine.\n"


def test_an_id_that_looks_like_an_option_can_be_shown(tmp_path: Path) -> None:
    target = migrate(memory(tmp_path, -3)).target
    listed = nimad(tmp_path, "quarantine", "list", "--target", target)
    assert "1 entry in " in listed.out
    assert json.loads(pasted(tmp_path, told(listed.out, "Look at one whole")).out)["id"] == -3


@pytest.mark.long
def test_an_id_that_is_not_there_tells_where_to_look(tmp_path: Path, target: Path) -> None:
    done = nimad(tmp_path, "quarantine", "show", "17", "--target", target)
    assert done.code == ExitCode.USAGE
    assert "memory_nodes" in pasted(tmp_path, told(done.error, "list what is there with")).out


def test_where_nothing_was_set_aside_no_file_is_named(tmp_path: Path) -> None:
    target = migrate(memory(tmp_path)).target
    done = nimad(tmp_path, "quarantine", "show", "17", "--target", target)
    assert (done.code, done.error) == (ExitCode.USAGE, f"nothing is in quarantine beside {target}")


@pytest.mark.long
def test_a_search_of_an_unfinished_target_tells_how_to_finish_it(tmp_path: Path) -> None:
    folder = tmp_path / "Ada's agent"
    folder.mkdir()
    interrupted(memory(folder), BatchLoaded, batch_size=1)
    done = nimad(tmp_path, "search", "memory", "--target", folder / "graph.ladybug")
    assert done.code == ExitCode.USAGE
    assert f"{folder / 'graph.ladybug'} is unfinished" in done.error
    assert pasted(tmp_path, told(done.error, "go on with")).code == 0
    assert nimad(tmp_path, "search", "memory", "--target", folder / "graph.ladybug").code == 0


@pytest.mark.long
def test_a_retry_brings_along_what_others_wrote_meanwhile(tmp_path: Path, target: Path) -> None:
    with (
        closing(ladybug.Database(str(target), **ENGINE_LIMITS)) as database,
        closing(ladybug.Connection(database)) as connection,
    ):
        connection.execute("CREATE (:MemoryNode {id: 900, text: 'of the agent', turn_id: 'mine'})")
    (tmp_path / "my nimad.toml").write_text('[verify]\nlevel = "counts"\n')
    done = nimad(tmp_path, "quarantine", "retry", "--target", target, "--config", "my nimad.toml")
    assert done.code == ExitCode.QUARANTINED, done.err
    assert "of the agent" in {row["text"] for row in read_target(target).nodes.values()}


@pytest.mark.long
def test_a_run_with_a_quarantine_tells_how_to_look_at_it(tmp_path: Path) -> None:
    source = memory(tmp_path, 2)
    code, drawn = on_a_terminal(tmp_path, "migrate", "--source", source)
    assert code == ExitCode.QUARANTINED
    again_code, again = on_a_terminal(tmp_path, "migrate", "--source", source)
    assert again_code == ExitCode.QUARANTINED
    assert "is complete: 5 memories; 1 value set aside, listed in " in again
    for text in (drawn.replace("\r", ""), again.replace("\r", ""), (tmp_path / "migration.log").read_text()):
        assert "memory_nodes" in pasted(tmp_path, told(text, "Look at them with")).out
    assert "Look at them with" not in on_a_terminal(tmp_path, "migrate", "--source", source, "--json")[1]


# What it cannot read


@pytest.mark.sampled
@pytest.mark.parametrize("words", [("list",), ("list", "--json"), ("show", "2"), ("retry",)], ids=" ".join)
def test_a_folder_in_the_quarantines_place_is_named(tmp_path: Path, target: Path, words: tuple[str, ...]) -> None:
    quarantine_file(target).unlink()
    quarantine_file(target).mkdir()
    done = nimad(tmp_path, "quarantine", *words, "--target", target)
    assert done.code == ExitCode.CANNOT_WRITE
    assert f"{quarantine_file(target)} is no plain file; move it away" in done.error


@pytest.mark.sampled
@pytest.mark.parametrize("words", [("list",), ("show", "2")], ids=" ".join)
def test_a_quarantine_of_another_user_is_not_allowed(
    tmp_path: Path, target: Path, words: tuple[str, ...], restricted: list[str]
) -> None:
    quarantine_file(target).chmod(0)
    done = nimad(tmp_path, "quarantine", *words, "--target", target, prefix=restricted)
    assert done.code == ExitCode.NOT_ALLOWED
    assert f"{quarantine_file(target)} may not be read by this user; run it as " in done.error


@pytest.mark.sampled
@pytest.mark.parametrize("words", [("quarantine", "list"), ("search", "memory"), ("quarantine", "retry")], ids=" ".join)
def test_a_folder_that_is_closed_to_the_user_is_not_allowed(
    tmp_path: Path, target: Path, words: tuple[str, ...], restricted: list[str]
) -> None:
    target.parent.chmod(0)
    done = nimad(tmp_path, *words, "--target", target, prefix=restricted)
    target.parent.chmod(0o755)
    assert (done.code, "run it as" in done.error) == (ExitCode.NOT_ALLOWED, True)


@pytest.mark.sampled
@pytest.mark.parametrize("words", [("quarantine", "list"), ("search", "memory"), ("--help",)], ids=" ".join)
def test_an_output_that_takes_nothing_is_one_line(tmp_path: Path, target: Path, words: tuple[str, ...]) -> None:
    options = () if words == ("--help",) else ("--target", str(target))
    done = nimad(tmp_path, *words, *options, prefix=("sh", "-c", 'exec "$@" >/dev/full', "sh"))
    assert (done.code, done.error) == (
        ExitCode.IO_ERROR,
        "the output cannot be written (No space left on device); see where it goes",
    )


# What is lost of it


def lost(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 9)


def garbled(file: Path) -> None:
    first, second = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + b"\0" * (len(second) - 1) + b"\n")


def nested(file: Path) -> None:
    first, _ = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + b"[" * 100_000 + b'\n{"table": [], "id": 1, "part": {}}\n')


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("harm", "missing"),
    [(lost, "2 entries are"), (cut, "1 entry is"), (garbled, "1 entry is"), (nested, "1 entry is")],
)
def test_entries_that_are_lost_are_told_and_can_be_had_anew(
    tmp_path: Path, target: Path, harm: Callable[[Path], None], missing: str
) -> None:
    whole = quarantine_file(target).read_bytes()
    harm(quarantine_file(target))
    said = f"{missing} missing in {quarantine_file(target)}, or cannot be read, of 2 that were set aside"

    for words in (("list",), ("list", "--json")):
        listed = nimad(tmp_path, "quarantine", *words, "--target", target)
        assert listed.code == ExitCode.QUARANTINED
        assert "Nothing is in quarantine" not in listed.out
        assert said in listed.error
    again = nimad(tmp_path, "migrate", "--source", target.with_name("graph.sqlite"))
    assert (again.code, again.err) == (ExitCode.QUARANTINED, "")
    assert "Nothing to do" in again.out
    assert said in again.out

    retried = pasted(tmp_path, told(listed.error, "set aside anew with"))
    assert retried.code == ExitCode.QUARANTINED, retried.err
    assert quarantine_file(target).read_bytes() == whole
    assert nimad(tmp_path, "quarantine", "list", "--target", target).err == ""


# How this program is called


@pytest.mark.long
def test_a_program_is_named_as_it_can_be_called(tmp_path: Path, target: Path) -> None:
    script = tmp_path / "my bin/nimad"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nfrom nimad.cli import main\nmain()\n")
    script.chmod(0o755)
    listing = shlex.join(["quarantine", "list", "--target", str(target)])

    off_the_path = told(pasted(tmp_path, f"'my bin/nimad' {listing}").out, "Look at one whole")
    assert off_the_path.startswith(f"'{script}' quarantine show ")
    assert pasted(target.parent, off_the_path).code == 0

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nimad").symlink_to(script)
    path = f"PATH={tmp_path / 'bin'}:$PATH"
    on_the_path = told(pasted(tmp_path, f"{path}; nimad {listing}").out, "Look at one whole")
    assert on_the_path.startswith("nimad quarantine show ")
    assert pasted(tmp_path, f"{path}; {on_the_path}").code == 0


# What a retry is given


@pytest.mark.long
def test_a_retry_takes_what_a_migration_takes_of_the_machine(tmp_path: Path, target: Path) -> None:
    options = ("--max-memory", "64M", "--log-level", "warn")
    done = nimad(tmp_path, "quarantine", "retry", "--target", target, *options)
    assert done.code == ExitCode.INTERRUPTED
    assert "--max-memory" in done.error
    forced = nimad(tmp_path, "quarantine", "retry", "--target", target, *options, "--force")
    assert forced.code == ExitCode.QUARANTINED, forced.err
    assert "INFO" not in forced.out
    nobody = nimad(tmp_path, "quarantine", "retry", "--target", target, "--json", "--user", "nobody of this name")
    assert json.loads(nobody.out)["exit_code"] == nobody.code == ExitCode.USAGE
