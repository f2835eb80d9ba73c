"""What cannot be: one line that names the file or the option and the next step, an exit code, and nothing written."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.commands import Ran, nimad

from nimad.sample import Sample, write_sample

NODES = 60

#: Makes a memory in a folder unfit, and returns the words of the command; `graph.sqlite` lies there already.
Arrange = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Case:
    """`said`: what the message has to name, the file or option first and the next step last."""

    name: str
    arrange: Arrange
    code: int
    said: tuple[str, ...]
    restricted: bool = False  # by permissions, which root otherwise passes over


def typed(*words: str) -> Arrange:
    return lambda _: ["migrate", "--source", "graph.sqlite", *words]


# The source


def missing(_: Path) -> list[str]:
    return ["migrate", "--source", "no/such.sqlite"]


def nothing_at_home(folder: Path) -> list[str]:
    (folder / "graph.sqlite").unlink()
    return ["migrate"]


def empty(folder: Path) -> list[str]:
    (folder / "graph.sqlite").write_bytes(b"")
    return typed()(folder)


def not_sqlite(folder: Path) -> list[str]:
    (folder / "graph.sqlite").write_text('{"memories": []}\n' * 1_000)
    return typed()(folder)


def other_tables(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "other.sqlite")) as connection:
        connection.execute("CREATE TABLE bookmarks (id INTEGER PRIMARY KEY, url TEXT)")
    return ["migrate", "--source", "other.sqlite"]


def a_folder(folder: Path) -> list[str]:
    (folder / "memory").mkdir()
    return ["migrate", "--source", "memory"]


def a_pipe(folder: Path) -> list[str]:
    os.mkfifo(folder / "pipe")
    return ["migrate", "--source", "pipe"]


def unreadable(folder: Path) -> list[str]:
    (folder / "graph.sqlite").chmod(0)
    return typed()(folder)


def unreachable(folder: Path) -> list[str]:
    (folder / "private").mkdir()
    (folder / "graph.sqlite").rename(folder / "private/graph.sqlite")
    (folder / "private").chmod(0)
    return ["migrate", "--source", "private/graph.sqlite"]


def cut(share: float) -> Arrange:
    def arrange(folder: Path) -> list[str]:
        path = folder / "graph.sqlite"
        os.truncate(path, int(path.stat().st_size * share))
        return typed()(folder)

    return arrange


def cut_in_the_header(folder: Path) -> list[str]:
    os.truncate(folder / "graph.sqlite", 50)
    return typed()(folder)


def malformed(first: float, pages: int) -> Arrange:
    def arrange(folder: Path) -> list[str]:
        path = folder / "graph.sqlite"
        data = bytearray(path.read_bytes())
        size = int.from_bytes(data[16:18], "big")
        start = int(len(data) // size * first) * size
        for position in range(start, start + pages * size):
            data[position] ^= 0xFF
        path.write_bytes(data)
        return typed()(folder)

    return arrange


# The target


def read_only_folder(folder: Path) -> list[str]:
    (folder / "locked").mkdir()
    (folder / "locked").chmod(0o555)
    return typed("--target", "locked/graph.ladybug")(folder)


def another_file_in_the_way(folder: Path) -> list[str]:
    (folder / "graph.ladybug").write_text("my notes about beetles\n")
    return typed()(folder)


def a_folder_in_the_way(folder: Path) -> list[str]:
    (folder / "graph.ladybug").mkdir()
    return typed("--replace")(folder)


def a_pipe_in_the_way(folder: Path) -> list[str]:
    os.mkfifo(folder / "graph.ladybug")  # whoever opened it would wait for ever
    return typed()(folder)


def a_link_to_nothing(folder: Path) -> list[str]:
    (folder / "graph.ladybug").symlink_to("elsewhere.ladybug")
    return typed()(folder)


def a_link_where_we_write(folder: Path) -> list[str]:
    (folder / "precious").write_text("somebody else's\n")
    (folder / "graph.ladybug.state.json").symlink_to("precious")
    return typed()(folder)


def not_utf8(folder: Path) -> list[str]:
    """The engine takes no such path, however well SQLite can read it."""
    odd = folder / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    shutil.copy(folder / "graph.sqlite", odd)
    return ["migrate", "--source", f"{odd.name}/graph.sqlite"]


# Configuration


def openclaw(text: str | bytes) -> Arrange:
    def arrange(folder: Path) -> list[str]:
        (folder / ".openclaw").mkdir()
        (folder / ".openclaw/openclaw.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        return typed("--auto")(folder)

    return arrange


def toml(text: str) -> Arrange:
    def arrange(folder: Path) -> list[str]:
        (folder / "nimad.toml").write_text(text)
        return typed("--config", "nimad.toml")(folder)

    return arrange


def unreadable_config(folder: Path) -> list[str]:
    (folder / "nimad.toml").touch(mode=0)
    return typed("--config", "nimad.toml")(folder)


CASES = [
    Case("source missing", missing, 2, ("no/such.sqlite", "--source")),
    Case("no memory at home", nothing_at_home, 2, (".nima/memory/graph.sqlite", "--source")),
    Case("source empty", empty, 2, ("graph.sqlite is empty", "--source")),
    Case("source not SQLite", not_sqlite, 2, ("graph.sqlite is not an SQLite file", "--source")),
    Case("source without memory_nodes", other_tables, 2, ("other.sqlite has no table memory_nodes", "--source")),
    Case("source a folder", a_folder, 2, ("/memory is not a file", "--source")),
    Case("source a pipe", a_pipe, 2, ("/pipe is not a file", "--source")),
    Case("source unreadable", unreadable, 77, ("graph.sqlite may not be read", "run as"), restricted=True),
    Case("source out of reach", unreachable, 77, ("graph.sqlite cannot be opened by", "run it as"), restricted=True),
    Case("source cut by a third", cut(2 / 3), 74, ("graph.sqlite is truncated", "restore a backup", "cp /")),
    Case("source cut by a byte", cut(0.999_999), 74, ("graph.sqlite is truncated", "restore a backup")),
    Case("source cut in its header", cut_in_the_header, 74, ("graph.sqlite is truncated", "restore a backup")),
    Case("source with a bad schema", malformed(1 / 130, 1), 74, ("graph.sqlite is damaged", "restore a backup")),
    Case("target folder missing", typed("--target", "not yet/g.ladybug"), 73, ("/not yet ", "mkdir -p '/", "t yet'")),
    Case("target folder read-only", read_only_folder, 73, ("/locked ", "--target"), restricted=True),
    Case("target another file", another_file_in_the_way, 73, ("graph.ladybug is in the way", "--replace")),
    Case("target a folder", a_folder_in_the_way, 73, ("graph.ladybug is no plain file", "--target")),
    Case("target a pipe", a_pipe_in_the_way, 73, ("graph.ladybug is no plain file", "--target")),
    Case("target a link to nothing", a_link_to_nothing, 73, ("graph.ladybug is in the way", "--replace")),
    Case("link for the state file", a_link_where_we_write, 77, ("graph.ladybug.state.json", "symbolic link", "remove")),
    Case("target the source", typed("--target", "graph.sqlite"), 2, ("--target is the same file", "name another")),
    Case("path not UTF-8", not_utf8, 2, ("graph.sqlite is not UTF-8", "rename")),
    Case("batch size 0", typed("--batch-size", "0"), 2, ("--batch-size must be at least 1, not 0", "500")),
    Case("batch size negative", typed("--batch-size", "-5"), 2, ("--batch-size must be at least 1, not -5", "500")),
    Case("batch size of 21 digits", typed("--batch-size", "9" * 21), 2, ("--batch-size", "9" * 21)),
    Case("offset past the end", typed("--start-offset", "61"), 2, ("--start-offset 61", "60 nodes", "leave it out")),
    Case("offset of 21 digits", typed("--start-offset", "9" * 21), 2, ("--start-offset", "60 nodes", "leave it out")),
    Case("offset negative", typed("--start-offset", "-1"), 2, ("--start-offset must be at least 0, not -1",)),
    Case("max batch below batch", typed("--max-batch-size", "499"), 2, ("--batch-size is 500", "499", "raise")),
    Case("max batch negative", typed("--max-batch-size", "-1"), 2, ("max batch size of -1", "raise")),
    Case("fixed batch 0", typed("--fixed-batch=0"), 2, ("-batch", "at least 1, not 0")),
    Case("log level unknown", typed("--log-level", "LOUD"), 2, ("--log-level must be one of DEBUG,", "LOUD")),
    Case(
        "OpenClaw malformed",
        openclaw('{\n  plugins: { entries: {\n    "nima-memory": = }\n'),
        78,
        (".openclaw/openclaw.json: line 3, column 20: ", "correct it"),
    ),
    Case("OpenClaw cut", openclaw('{\n "plugins": {'), 78, ("openclaw.json: line 2, column 14: ", "correct it")),
    Case("OpenClaw empty", openclaw(""), 78, ("openclaw.json: line 1, column 1: ", "empty", "correct it")),
    Case("OpenClaw not UTF-8", openclaw(b'{\n"a": "\xff"}'), 78, ("openclaw.json: line 2, column 7: ", "UTF-8")),
    Case(
        "OpenClaw wrong type",
        openclaw('{"plugins": {"entries": {"nima-memory": {\n"database": {"migration_batch_size": "many"}}}}}'),
        78,
        ("openclaw.json: line 2, column 14: ", "migration_batch_size must be a whole number", "correct it"),
    ),
    Case("config malformed", toml("[batch]\nsize = = 5\n"), 78, ("nimad.toml: line 2, column 8: ", "correct it")),
    Case("config unknown key", toml("[batch]\n\nsise = 5\n"), 78, ("nimad.toml", "'sise'", "line 3", "'size'")),
    Case("config impossible value", toml("[batch]\nsize = 0\n"), 78, ("nimad.toml line 2", "at least 1, not 0", "500")),
    Case("config missing", typed("--config", "no.toml"), 78, ("no.toml: no such file", "--config")),
    Case("config unreadable", unreadable_config, 77, ("nimad.toml: not allowed", "readable"), restricted=True),
]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "graph.sqlite"
    write_sample(path, Sample(nodes=NODES, dimension=384))
    return path


@pytest.fixture
def folder(sample: Path, tmp_path: Path) -> Path:
    shutil.copy(sample, tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def restricted() -> list[str]:
    """Words before a command that make permissions hold for it: none for a user, less capabilities for root.

    Giving root another user's number instead would lock it out of its own interpreter wherever that is in /root.
    """
    if os.geteuid():
        return []
    setpriv = shutil.which("setpriv")
    assert setpriv, "these tests need setpriv (util-linux) when root runs them"
    lost = "-dac_override,-dac_read_search"
    prefix = [setpriv, f"--bounding-set={lost}", f"--inh-caps={lost}"]
    trial = subprocess.run([*prefix, sys.executable, "-c", "import nimad.cli"], capture_output=True, check=False)
    assert trial.returncode == 0, trial.stderr.decode()
    return prefix


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_one_line_an_exit_code_and_no_change(case: Case, folder: Path, restricted: list[str]) -> None:
    words = case.arrange(folder)
    before = everything_in(folder)
    done = nimad(folder, *words, prefix=restricted if case.restricted else ())
    after = everything_in(folder)
    assert_words_in_order(done.error, case.said)
    assert done.code == case.code
    assert "Traceback" not in done.out
    assert after == before


def assert_words_in_order(text: str, words: tuple[str, ...]) -> None:
    rest = text
    for word in words:
        assert word in rest, f"{word!r} is not there, or out of order: {text}"
        rest = rest.partition(word)[2]


def everything_in(folder: Path) -> dict[str, tuple[int | bytes, ...]]:
    """Every name below the folder with its mode, owner, size, times and content."""
    found: dict[str, tuple[int | bytes, ...]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and os.access(path, os.R_OK) else b""
        times = (status.st_mtime_ns, status.st_ctime_ns) if path != folder else ()
        found[str(path)] = (status.st_mode, status.st_uid, status.st_ino, status.st_size, *times, content)
    return found


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["migrate", "--bach-size", "5"], "--bach-size"),
        (["migrate", "--batch-size", "many"], "--batch-size"),
        (["migrate", "--fixed-batch=²"], "--fixed-batch"),
        (["migrate", "--fixed-batch=-3"], "-3"),
        (["migrate", "--verify", "some"], "--verify"),
        (["migrate", "graph.sqlite"], "graph.sqlite"),
        (["migrat"], "migrat"),
        (["search"], "--like"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_parsed_is_refused_with_a_word_on_help(folder: Path, words: list[str], named: str) -> None:
    before = everything_in(folder)
    done = nimad(folder, *words)
    assert done.code == 2
    assert named in done.err
    assert "--help" in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert everything_in(folder) == before


# Looking at a target


@pytest.fixture(scope="module")
def migrated(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("migrated")
    shutil.copy(sample, folder)
    done = nimad(folder, "migrate", "--source", "graph.sqlite", "--nodes-only", "--verify", "none")
    assert done.code == 0
    return folder


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "no.ladybug", "x"], ("no.ladybug", "--target")),
        (["--target", "graph.sqlite", "x"], ("graph.sqlite",)),
        (["--target", "graph.ladybug", "--limit", "-1", "x"], ("--limit",)),
        (["--target", "graph.ladybug", "--like", "9" * 21], ("--like",)),
    ],
    ids=["target missing", "target no LadybugDB file", "limit negative", "id of 21 digits"],
)
def test_a_search_that_cannot_be_is_a_usage_error(migrated: Path, words: list[str], said: tuple[str, ...]) -> None:
    before = everything_in(migrated)
    done: Ran = nimad(migrated, "search", *words)
    assert done.code == 2
    assert_words_in_order(done.err, said)
    assert "attempts" not in done.err
    assert "Traceback" not in done.err
    assert everything_in(migrated) == before
