"""NIMA's variables: `NIMA_DB_PATH` for a LadybugDB file, errors that stem from one, and the side of the agent."""

import os
import shutil
from pathlib import Path

import pytest
from support.memories import make_memory, node

from nimad.config import Settings, backend, load
from nimad.config.variables import explained
from nimad.diagnostics.checks import agent
from nimad.diagnostics.checks.finding import Examined, Finding, Verdict
from nimad.host.disk import ENGINE_MAGIC

NODES = [node(1), node(2), node(3)]
VARIABLE = "environment NIMA_DB_PATH"


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """The folder of a memory, in a home."""
    folder = tmp_path / ".nima/memory"
    folder.mkdir(parents=True)
    make_memory(folder / "graph.sqlite", nodes=NODES)
    return folder


def settings(home: Path, **named: str) -> Settings:
    variables = {name: value for name, value in named.items() if name.startswith("NIMA")}
    options = {name: value for name, value in named.items() if name not in variables}
    return load(options, {"HOME": str(home), **variables}, None)


# NIMA_DB_PATH


@pytest.mark.parametrize("name", ["ladybug.lbug", "old.kuzu", "MEMORY.LBUG", "x.ladybugdb", "x.kz", "x.lbdb"])
def test_a_name_that_ends_like_a_ladybugdb_file_is_the_target(memory: Path, tmp_path: Path, name: str) -> None:
    found = settings(tmp_path, NIMA_DB_PATH=f"~/.nima/memory/{name}")
    assert (found.target, found.origin("target")) == (memory / name, VARIABLE)
    assert (found.source, found.origin("source")) == (memory / "graph.sqlite", "default")
    (note,) = found.notes
    assert note == (
        f"NIMA_DB_PATH names a LadybugDB file, so {memory / name} is the target; "
        f"the source is {memory}/graph.sqlite (default)"
    )


def test_the_guides_name_in_the_agents_home_is_the_link(memory: Path, tmp_path: Path) -> None:
    found = settings(tmp_path, NIMA_DB_PATH="~/.nima/memory/graph.ladybug")
    assert (found.target, found.link) == (memory / "ladybug.lbug", memory / "graph.ladybug")


def test_what_a_file_holds_counts_more_than_its_ending(memory: Path, tmp_path: Path) -> None:
    (memory / "engine.sqlite").write_bytes(ENGINE_MAGIC + b"\x31" + bytes(4096))
    shutil.copy(memory / "graph.sqlite", memory / "sqlite.lbug")
    engine = settings(tmp_path, NIMA_DB_PATH=str(memory / "engine.sqlite"))
    assert (engine.target, engine.source) == (memory / "engine.sqlite", memory / "graph.sqlite")
    sqlite = settings(tmp_path, NIMA_DB_PATH=str(memory / "sqlite.lbug"))
    assert (sqlite.source, sqlite.origin("source"), sqlite.notes) == (memory / "sqlite.lbug", VARIABLE, ())


@pytest.mark.parametrize("what", ["empty", "folder", "pipe"])
def test_what_tells_nothing_is_judged_by_its_ending_and_never_waited_for(
    memory: Path, tmp_path: Path, what: str
) -> None:
    for name, is_target in (("x.lbug", True), ("x.db", False)):
        if what == "pipe":
            os.mkfifo(memory / name)
        else:
            (memory / name).mkdir() if what == "folder" else (memory / name).touch()
        found = settings(tmp_path, NIMA_DB_PATH=str(memory / name))
        assert (found.origin("target") == VARIABLE) is is_target
        assert (found.origin("source") == VARIABLE) is not is_target


def test_what_stands_without_it_stands_as_the_source(tmp_path: Path) -> None:
    moved = settings(tmp_path, NIMA_DB_PATH="/x/ladybug.lbug", NIMA_HOME="~/elsewhere")
    assert (moved.source, moved.origin("source")) == (
        tmp_path / "elsewhere/memory/graph.sqlite",
        "environment NIMA_HOME",
    )
    (tmp_path / "nimad.toml").write_text('[source]\npath = "/s/my.sqlite"\n')
    by_file = load({}, {"HOME": str(tmp_path), "NIMA_DB_PATH": "/x/l.lbug"}, tmp_path / "nimad.toml")
    assert (by_file.source, by_file.target) == (Path("/s/my.sqlite"), Path("/x/l.lbug"))
    typed = settings(tmp_path, NIMA_DB_PATH="/x/ladybug.lbug", source="/t/my.sqlite")
    assert (typed.source, typed.target) == (Path("/t/my.sqlite"), Path("/x/ladybug.lbug"))
    assert (typed.log_file, len(typed.notes)) == (Path("/t/migration.log"), 1)


def test_another_word_for_the_target_wins_over_it(tmp_path: Path) -> None:
    both = settings(tmp_path, NIMA_DB_PATH="/x/ladybug.lbug", NIMA_LADYBUG_DB="/y/ladybug.lbug")
    assert (both.target, both.origin("target")) == (Path("/y/ladybug.lbug"), "environment NIMA_LADYBUG_DB")
    (note,) = both.notes
    assert note.startswith("NIMA_DB_PATH names a LadybugDB file, /x/ladybug.lbug, which is not the source; ")
    assert settings(tmp_path, NIMA_DB_PATH="/x/l.lbug", NIMA_LADYBUG_DB="/x/l.lbug").notes == ()
    typed = settings(tmp_path, NIMA_DB_PATH="/x/l.lbug", source="/s.sqlite", target="/t.lbug")
    assert (typed.source, typed.target, typed.notes) == (Path("/s.sqlite"), Path("/t.lbug"), ())


# Errors


def test_an_error_about_what_was_typed_names_no_variable(tmp_path: Path) -> None:
    found = settings(tmp_path, NIMA_DB_PATH="/x/a.sqlite", source="/y/b.sqlite")
    assert explained("there is no memory at /y/b.sqlite", found) == "there is no memory at /y/b.sqlite"
    moved = settings(tmp_path, NIMA_HOME="/n")
    assert explained("there is no folder /n/memory/ladybug.lbug", moved).endswith(" comes from NIMA_HOME")


# The side that the agent's Python programs use


def noted(tmp_path: Path, text: str | bytes, **env: str) -> backend.Backend:
    file = tmp_path / ".env"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return backend.read(env, file)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NIMA_DB_BACKEND=ladybug\n", "ladybug"),
        ("export NIMA_DB_BACKEND=ladybug", "ladybug"),
        (" export\tNIMA_DB_BACKEND = 'ladybug'  # since June\r\n", "ladybug"),
        ('NIMA_DB_BACKEND="LadyBug"#x', "LadyBug"),
        ("NIMA_DB_BACKEND=sqlite # not ladybug", "sqlite"),
        ("NIMA_DB_BACKEND=lady#bug", "lady#bug"),
        ("NIMA_DB_BACKEND=sqlite\nNIMA_DB_BACKEND=ladybug\n", "ladybug"),
        ("\ufeffX=1\n\n# c\nOTHER='a\nNIMA_DB_BACKEND=sqlite", "sqlite"),
        (b"KEY=\xff\xfe\nNIMA_DB_BACKEND=sqlite\n", "sqlite"),
        ("#NIMA_DB_BACKEND=ladybug\nMY_NIMA_DB_BACKEND=ladybug\nNIMA_DB_BACKEND ladybug\n", None),
        ("NIMA_DB_BACKEND=\nNIMA_DB_BACKEND=  # none\nNIMA_DB_BACKEND=''", None),
        ("", None),
    ],
)
def test_lines_of_the_file_are_read_as_a_shell_reads_them(tmp_path: Path, text: str | bytes, value: str | None) -> None:
    assert [each.value for each in noted(tmp_path, text).variables] == ([] if value is None else [value])


@pytest.mark.parametrize(
    ("text", "env", "is_ladybug", "by"),
    [
        ("", {}, False, None),
        ("NIMA_DB_BACKEND=ladybug", {}, True, "NIMA_DB_BACKEND=ladybug (FILE line 1)"),
        ("NIMA_DB_BACKEND=ladybug", {"NIMA_DB_BACKEND": "sqlite"}, False, "NIMA_DB_BACKEND=sqlite (environment)"),
        ("\nNIMA_STORE=Ladybug", {}, True, "NIMA_STORE=Ladybug (FILE line 2)"),
        ("NIMA_STORE=ladybug\nNIMA_DB_BACKEND=sqlite", {}, False, "NIMA_DB_BACKEND=sqlite (FILE line 2)"),
        ("NIMA_LADYBUG_ENABLED=True", {}, True, "NIMA_LADYBUG_ENABLED=True (FILE line 1)"),
        ("NIMA_LADYBUG_ENABLED=false", {}, False, None),
        ("NIMA_LADYBUG_ENABLED=1", {}, False, None),
        ("NIMA_LADYBUG_ENABLED=true", {"NIMA_STORE": "sqlite"}, False, "NIMA_STORE=sqlite (environment)"),
        ("NIMA_STORE=ladybug", {"NIMA_DB_BACKEND": "kuzu"}, True, "NIMA_STORE=ladybug (FILE line 1)"),
    ],
)
def test_the_first_variable_that_says_something_decides(
    tmp_path: Path, text: str, env: dict[str, str], is_ladybug: bool, by: str | None
) -> None:
    found = noted(tmp_path, text, **env)
    assert found.is_ladybug is is_ladybug
    assert (None if found.decisive is None else str(found.decisive)) == (by and by.replace("FILE", f"{tmp_path}/.env"))


def test_only_a_short_regular_file_is_read_and_none_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    assert backend.read({}, file) == backend.Backend(file, ())
    os.mkfifo(file)
    assert backend.read({"NIMA_STORE": "ladybug"}, file).is_ladybug
    assert backend.read({}, file).unread == f"{file} is not a regular file, and not read"
    file.unlink()
    file.mkdir()
    assert backend.read({}, file).unread.startswith(f"{file} ")
    file.rmdir()
    long = noted(tmp_path, "NIMA_DB_BACKEND=ladybug\n" + "# long\n" * 10_000)
    assert (long.variables, long.unread) == ((), f"{file} is longer than 64 KiB, and not read")
    (tmp_path / "real").write_text("NIMA_DB_BACKEND=ladybug\n")
    file.unlink()
    file.symlink_to("real")
    assert backend.read({}, file).is_ladybug


def test_a_value_that_may_be_a_secret_is_not_repeated(tmp_path: Path) -> None:
    (variable,) = noted(tmp_path, f"NIMA_STORE={'s' * 41}\n").variables
    assert str(variable) == f"NIMA_STORE=... ({tmp_path}/.env line 1)"
    assert str(backend.Variable("NIMA_STORE", "a\x1b[2J", "environment")) == "NIMA_STORE=... (environment)"


def shown(home: Path, monkeypatch: pytest.MonkeyPatch, **env: str) -> list[Finding]:
    for name in [name for name in os.environ if name.startswith("NIMA")]:
        monkeypatch.delenv(name)
    for name, value in {"HOME": str(home), **env}.items():
        monkeypatch.setenv(name, value)
    return list(agent.python_side(Examined(Settings(source=home / ".nima/memory/graph.sqlite"))))


def test_the_doctor_says_which_side_the_agents_programs_use(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = memory.parent / ".env"
    (nothing,) = shown(tmp_path, monkeypatch)
    assert nothing.verdict is Verdict.OK
    assert nothing.text == f"NIMA_DB_BACKEND is not set, here or in {file}: the agent's Python programs use SQLite"
    file.write_text("export NIMA_DB_BACKEND='ladybug'\n")
    (lacking,) = shown(tmp_path, monkeypatch)
    assert lacking.verdict is Verdict.WARNING
    assert lacking.text.startswith(
        f"NIMA_DB_BACKEND=ladybug ({file} line 1): the agent's Python programs use LadybugDB"
    )
    assert " migrate --source " in lacking.remedy
    (memory / "graph.ladybug").touch()
    (there,) = shown(tmp_path, monkeypatch)
    assert there.verdict is Verdict.OK
    decided, overruled = shown(tmp_path, monkeypatch, NIMA_STORE="sqlite")
    assert decided.text == there.text
    assert overruled.text == f"NIMA_STORE=sqlite (environment) is overruled by NIMA_DB_BACKEND=ladybug ({file} line 1)"
    unknown, _ = shown(tmp_path, monkeypatch, NIMA_DB_BACKEND="kuzu")
    assert unknown.verdict is Verdict.WARNING
    assert unknown.text.endswith("is passed over: NIMA_DB_BACKEND is to be sqlite or ladybug")
