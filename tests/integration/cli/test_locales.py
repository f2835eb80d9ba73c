"""Any language of the system: nimad migrates in all of them, prints what the terminal has, and writes UTF-8.

Every command is played in a Turkish system, in one whose terminal has ISO-8859-1, and in the locale C. The whole suite
is by `make test-locales`.
"""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from support import locales
from support.commands import TIMEOUT_S, command, environment
from support.locales import ASCII, LATIN, TURKISH
from support.memories import assert_same, edge, make_memory, node, turn, vector

from nimad.config import Settings
from nimad.diagnostics.checks import language
from nimad.diagnostics.checks.finding import Examined, Finding, Verdict
from nimad.engines.interpreter import LOCALE

#: What every terminal of these has, what those of ISO-8859-1 have too, and what only UTF-8 has.
NODES = [
    node(1, text="plain", who="Ada", embedding=vector(1.0, 0.0)),
    node(2, text="für Zoë: ıİ → ✅ 🐦", who="Zoë 🐦", layer="ünknown", embedding=vector(0.0, 1.0)),
    node(3, text="kept", who="Işıl", timestamp="öğlen ☃"),
]
#: Each command of a life, with the exit code that it has everywhere; what the doctor finds is up to the machine.
LIFE: Mapping[tuple[str, ...], int] = {
    ("config",): 0,
    ("doctor", "--source", "SOURCE"): -1,
    ("migrate", "--source", "SOURCE"): 1,
    ("status", "--source", "SOURCE"): 1,
    ("health", "--source", "SOURCE", "--verbose"): 0,
    ("verify", "--source", "SOURCE"): 1,
    ("search", "--target", "TARGET", "für Zoë"): 0,
    ("search", "--target", "TARGET", "--like", "1"): 0,
    ("quarantine", "list", "--target", "TARGET"): 0,
    ("quarantine", "show", "--target", "TARGET", "3"): 0,
    ("report", "--target", "TARGET", "--text"): 0,
    ("report", "--target", "TARGET", "--output", "-"): 0,
    ("report", "--target", "TARGET"): 0,
    ("pause", "--target", "TARGET"): 0,
    ("resume", "--target", "TARGET"): 0,
    ("clean", "--source", "SOURCE"): 0,
    ("rollback", "--source", "SOURCE"): 0,
    ("--help",): 0,
}


def nimad(folder: Path, locale: str, *words: str | Path, **more: str) -> tuple[int, bytes, bytes]:
    """Run the command in a system of this language; return its exit code and the bytes on stdout and stderr."""
    kept = {name: value for name, value in environment(folder).items() if not name.startswith(("LC_", "LANG"))}
    kept.pop("PYTHONIOENCODING", None)
    done = subprocess.run(
        command(*words),
        cwd=folder,
        env=kept | locales.environment(locale) | more,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def life(folder: Path, locale: str) -> dict[tuple[str, ...], bytes]:
    """Play every command on a memory in this folder; return what each printed."""
    nodes, edges, turns = NODES, [edge(1, 1, 2)], [turn(1, 1, None, 2)]
    source = make_memory(folder / "graph.sqlite", nodes=nodes, edges=edges, turns=turns)
    places = {"SOURCE": str(source), "TARGET": str(folder / "graph.ladybug")}
    said = {}
    for words, code in LIFE.items():
        ended, out, err = nimad(folder, locale, *(places.get(word, word) for word in words))
        assert (ended if code >= 0 else code, err) == (code, b""), (words, err.decode(errors="replace"))
        said[words] = out
    return said


@pytest.mark.sampled
@pytest.mark.parametrize(("locale", "encoding"), [(TURKISH, "utf-8"), (LATIN, "iso8859-1"), (ASCII, "utf-8")])
def test_every_command_is_at_home_in_every_language(tmp_path: Path, locale: str, encoding: str) -> None:
    folder = tmp_path / "ünï ☃"
    folder.mkdir()
    said = life(folder, locale)
    page = said.pop(("report", "--target", "TARGET", "--output", "-"))
    assert "Zoë 🐦" in page.decode("utf-8") or "ünknown" in page.decode("utf-8")
    for words, out in said.items():
        assert out.decode(encoding), words
    assert (f"{TURKISH}, in which" in " ".join(said["doctor", "--source", "SOURCE"].decode(encoding).split())) is (
        locale == TURKISH
    )
    told = said["health", "--source", "SOURCE", "--verbose"].decode(encoding)
    snowman, bird = ("?", "?") if encoding == "iso8859-1" else ("☃", "🐦")
    assert f"Zoë {bird}" in told
    assert "ünknown" in told
    assert f"{tmp_path}/ünï {snowman}/" in said["status", "--source", "SOURCE"].decode(encoding)
    assert "Published: " in said["migrate", "--source", "SOURCE"].decode(encoding)
    # Whatever the terminal has: names on the disk and what stands in files are UTF-8.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ünï ☃"]
    assert f"Published: {folder}/graph.ladybug (" in (folder / "migration.log").read_text(encoding="utf-8")
    (quarantined,) = (folder / "graph.ladybug.quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(quarantined)["id"] == 3
    assert str(folder / "graph.sqlite") in json.dumps(
        json.loads((folder / "graph.ladybug.state.json").read_bytes()), ensure_ascii=False
    )
    assert (folder / "graph.ladybug.report.html").read_text(encoding="utf-8")
    with closing(sqlite3.connect(folder / "graph.sqlite")) as connection:
        connection.execute("UPDATE memory_nodes SET timestamp = 0 WHERE id = 3")
        connection.commit()
    ended, _, err = nimad(folder, locale, "quarantine", "retry", "--target", folder / "graph.ladybug")
    assert (ended, err) == (0, b"")
    assert_same(folder / "graph.sqlite", folder / "graph.ladybug")


# A Turkish system


def test_a_hook_speaks_the_owners_language_and_workers_their_own(tmp_path: Path) -> None:
    """The engine looks its functions up in upper case, and a Turkish i has another one: no batch would be loaded."""
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1), node(2)], edges=[edge(1, 1, 2)])
    settings = tmp_path / "nimad.toml"
    settings.write_text(f"[hooks]\non_complete = ['sh', '-c', 'env >{tmp_path}/heard']\n")
    words = ("migrate", "--source", source, "--config", settings)
    ended, out, err = nimad(tmp_path, TURKISH, *words, LANG="tr_TR.UTF-8", PYTHONIOENCODING="iso8859-9")
    assert (ended, err) == (0, b""), out.decode("iso8859-9")
    assert b"Retries: 0" in out
    assert_same(source, tmp_path / "graph.ladybug")
    heard = (tmp_path / "heard").read_text().splitlines()
    assert f"LC_ALL={TURKISH}" in heard
    assert "LANG=tr_TR.UTF-8" in heard
    assert not [line for line in heard if line.startswith("PYTHON")]


def findings(folder: Path) -> list[Finding]:
    source = make_memory(folder / "graph.sqlite", nodes=[node(1)])
    return list(language.language(Examined(Settings(source=source, reader_python=Path("none")))))


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A system without a language: a file that names one may be written here."""
    for name in [name for name in os.environ if name.startswith(("LC_", "LANG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(language, "FILES", (tmp_path / "locale",))
    return tmp_path / "locale"


def test_the_doctor_tells_a_language_in_which_the_agents_engine_fails(
    tmp_path: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCPATH", locales.environment(TURKISH)["LOCPATH"])
    nowhere.write_text(f'# Made by localectl\nLANG="{TURKISH}"\nLC_TIME=de_DE.UTF-8\n')
    (told,) = findings(tmp_path)
    assert told.verdict is Verdict.WARNING
    assert told.text.startswith(f"{nowhere} has {TURKISH}, in which ladybug")
    assert "function LiST_CONTAiNS does not exist" in told.text
    assert f"start the agent with LC_ALL={LOCALE}" in told.remedy
    assert f"sudo update-locale LC_CTYPE={LOCALE}" in told.remedy


@pytest.mark.parametrize("named", ["", LATIN, TURKISH, "no_SUCH"], ids=["none", "latin", "not made", "unknown"])
def test_the_doctor_has_nothing_against_other_languages(
    tmp_path: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("LOCPATH", str(tmp_path) if named == TURKISH else locales.environment(LATIN)["LOCPATH"])
    nowhere.write_text(f"LANG={named}\n")
    (told,) = findings(tmp_path)
    assert told.verdict is Verdict.OK, told.text


# Terminals without UTF-8


def test_a_name_that_is_no_utf_8_is_told_escaped(tmp_path: Path) -> None:
    """As it comes from a disk of a time when file names were ISO-8859-1."""
    strange = os.fsdecode(b"f\xfcr")
    for locale in (LATIN, ASCII):
        ended, out, err = nimad(tmp_path, locale, "health", "--db", strange)
        assert (ended, err) == (1, b"")
        assert b"f\\udcfcr" in out


@pytest.mark.sampled
@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "koi8-r", "iso8859-1:strict"])
def test_what_an_encoding_lacks_has_a_stand_in(tmp_path: Path, encoding: str) -> None:
    make_memory(tmp_path / "graph.sqlite", nodes=NODES[:1])
    words = ("migrate", "--source", "graph.sqlite", "--target", "für →☃.lbug", "--dry-run")
    ended, out, err = nimad(tmp_path, ASCII, *words, PYTHONIOENCODING=encoding)
    assert (ended, err) == (0, b"")
    assert "NIMA Memory Migration: SQLite -> LadybugDB" in out.decode(encoding.partition(":")[0])
    ended, _, err = nimad(tmp_path, ASCII, "verify", *words[1:5], PYTHONIOENCODING=encoding)
    assert ended
    umlaut = "ü" if encoding.startswith("iso") else "?"
    assert f"f{umlaut}r ->?.lbug" in err.decode(encoding.partition(":")[0])


def test_a_program_that_reads_names_in_another_encoding_is_told_so(tmp_path: Path) -> None:
    """`nimad.migrate` cannot begin the program again that called it."""
    make_memory(tmp_path / "graph.sqlite", nodes=NODES[:1]).rename(tmp_path / "für.sqlite")
    program = "import nimad, pathlib; nimad.Settings(source=pathlib.Path(next(pathlib.Path('.').glob('f*'))))"
    kept = environment(tmp_path) | locales.environment(LATIN)
    asked = [sys.executable, "-c", program]
    done = subprocess.run(asked, cwd=tmp_path, env=kept, capture_output=True, check=False)
    assert "is iso8859-1 to Python and UTF-8 to the engine; start Python with -X utf8" in done.stderr.decode("latin-1")
    assert subprocess.run([*asked[:1], "-Xutf8", *asked[1:]], cwd=tmp_path, env=kept, check=False).returncode == 0


def test_what_can_be_read_of_a_damaged_memory_is_the_same_in_a_turkish_system(tmp_path: Path) -> None:
    """Python does not know INSERT for a statement that writes there, and counts none of its rows."""
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(key, text="x" * 900) for key in range(1, 60)])
    with source.open("r+b") as file:
        file.seek(-2 * 4_096, os.SEEK_END)
        file.write(bytes(range(256)) * 16)
    counts = {}
    for locale in (TURKISH, ASCII):
        target = tmp_path / f"{locale}.ladybug"
        ended, out, err = nimad(tmp_path, locale, "migrate", "--source", source, "--target", target, "--json")
        assert ended == 1, err
        finished = [json.loads(line) for line in out.splitlines() if b'"Finished"' in line]
        counts[locale] = {key: finished[0]["result"][key] for key in ("migrated", "quarantined", "unread_nodes")}
    assert counts[TURKISH] == counts[ASCII]
    assert counts[ASCII]["migrated"] > 40
