"""docs/TROUBLESHOOTING.md: each entry is a message of the program, and says which provocation produces it.

A provocation is a function below, which is run here, or a test elsewhere, which is run there and looks for words of the
message. A message without an entry, an entry without a provocation, and an entry whose message is no more: each fails.
"""

import os
import re
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import nimad_program
import pytest
from releases import CHECKOUT
from support.memories import change, make_memory, node
from support.message_catalogue import Message, asserts, messages

from nimad.cli.main import main
from nimad.config import Settings, defaults, toml_file
from nimad.errors import NimadError
from nimad.events import run as e
from nimad.events import service as s
from nimad.events import sync as f
from nimad.host import filesystems
from nimad.host.rights import UserAccount
from nimad.report.messages.run_messages import lines
from nimad.service import setup
from nimad.source.sqlite_file import Identity
from nimad.state.paths import Files
from nimad.state.target_state import State

DOCUMENT = (CHECKOUT / "docs/TROUBLESHOOTING.md").read_text(encoding="utf-8")
#: Words of a message that has no entry, and why: these need a broken disk, a race or a bug of somebody's.
WITHOUT_ENTRY = {
    "does not keep": "a disk that loses what was synced, after publishing",
    "cannot be caught up: the engine does not read its own log": "a bug of the engine's",
    "has bytes free, and an index needs": "the words say it all",
    "are not the same with an index": "a bug of the engine's",
    "cannot open it with an index": "a bug of an engine's; the file stays as it was",
    "has storage version": "two releases of the engine; docs/design/engines.md has them",
    "was not closed cleanly; run again": "a bug of the engine's",
    "cannot be renamed to": "a race with another program; the words say it all",
    "needs up to": "the words say it all",
    "takes down every worker that loads it": "as with the other row at which --strict stops",
    "of memories, set aside": "the summary; what it counts is listed below it",
    "write with another engine (--engine), or run": "as with the other row at which --strict stops",
    "may not write where the target is to be": "permissions that change in the middle of a run",
    "may not take the address space": "the words say it all",
    "before it did anything; free some memory": "a machine that is out of memory altogether",
    "counts where counts": "two engines that disagree, of which no case is known",
    "root may not become": "root in a container without the right to change users",
    "cannot be opened by root": "a network file system that is closed to root",
    "name a file of yours or of root's": "the words say it all",
    "another nimad is already working": "a lock file in which somebody wrote; the words say it all",
    "takes more memory to read than it may": "the words say it all",
    "ended without an answer": "a process that is killed in the middle of setup",
    "holds rows of already, which this run is to leave out": "the words say it all",
    "so a new target could hold less than": "the words say it all",
    "cannot be read ; check the disk": "a failing disk; the words say it all",
    "check its permissions and its folder's": "a folder that changes between two looks",
    "changes faster than it can be read": "a race; run again",
    "cannot be made ; look at it with": "something in the way of a temporary name",
    "the copy of what can be read cannot be written": "a disk that is full in the middle",
    "keep a copy of it, then start over": "damage on both sides at once",
    "cannot be written ; see: df -h": "the words say it all",
    "systemd could not be told": "a systemd that does not answer",
    "in quarantine; nothing was published. Compare every row": "a difference that --verify counts cannot explain",
    "a sample needs nodes": "from Python only",
    "NIMA has no schema shape": "from Python only",
    "cannot open what wrote (storage version": "an agent that went back to an older engine; the command is in it",
    "had to be repaired": "a disk that fails again and again",
    "make a target of it with:": "the command is in it",
    "make one with:": "the command is in it",
    "beside the target, where": "a damaged memory on a full disk; the words say it all",
    "would stand in a folder of": "root with settings of somebody else's; the command is in it",
    "and is as it was": "the words say it all",
    "are among the": "two agents; the words say it all",
    "as they are there, and nothing was published": "a disk that loses what was synced, or a bug of the engine's",
    "is on a file system that is read-only": "the words say it all",
    "and a backup of SQLite needs": "the words say it all",
    "rows of after they were written to it": "a disk that loses what was synced",
    "stop the agent and run again": "the words say it all",
    "and nothing was written to it; restore a backup": "damage that shows only when it is written to",
    "may not be written to by this user; run as its owner": "as when SQLite itself says so",
    "may not be removed by this user": "the words say it all",
    "name another file with --output": "the words say it all",
    "name a file in it with --output": "the words say it all",
    "name another one with --output, or - for stdout": "the words say it all",
    "must begin with the name of a program": "the words say it all",
    "type more of it": "the words say it all",
    "is in use by": "the program is named in it",
    "could not be compared:": "a machine that is out of memory altogether",
    "is a LadybugDB file without memories": "the words say it all",
    "was written by another release of LadybugDB than is here": "two releases of the engine; the cure is in it",
    "must be at least": "the words say it all",
    "must be at most": "the words say it all",
    "is not root's alone, and root does not run it": "the cure is in it",
    "allow it with: chmod a+r": "the command is in it",
    "has more dots, than any of its lines needs": "the words say it all",
    "lists lie in lists too many times": "the words say it all",
    "which no file can have; name another": "the words say it all",
}
#: Messages of so few words of their own that an entry for each would say nothing.
LEAST_WORDS = 4


@dataclass(frozen=True)
class Entry:
    """What a heading quotes, and by what it is provoked. `now`: what is said today in place of an old message."""

    heading: str
    provocation: str
    text: str
    old: bool

    @property
    def said(self) -> str:
        """The message as the program says it: the first that the text of an old one quotes."""
        if not self.old:
            return self.heading
        found = re.search(r"«`(.+?)`»", self.text)
        assert found, f"{self.heading}: does not quote what is said today, as «`…`»"
        return found[1]


def entries() -> list[Entry]:
    old, found = False, []
    for part in re.split(r"^(?=##)", DOCUMENT, flags=re.MULTILINE):
        if part.startswith("## "):
            old = part.startswith("## The old guide")
        if heading := re.match(r"### `(.+)`\n", part):
            named = re.search(r"<!-- provoked by: (.+) -->", part)
            found.append(Entry(heading[1], named[1] if named else "", part, old))
    return found


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.heading[:60])
def test_an_entry_is_a_message_of_the_program_and_names_its_provocation(entry: Entry) -> None:
    assert entry.provocation, "write «<!-- provoked by: … -->» below its heading"
    if not entry.old:
        assert any(message.fits(entry.heading) for message in messages()), "no message of the program is like this"
    if "::" in entry.provocation:
        assert asserts(entry.provocation, entry.said), "the test that it names does not look for any of its words"
    else:
        assert entry.provocation in PROVOCATIONS, f"there is no provocation {entry.provocation}"


def test_every_message_has_an_entry() -> None:
    headings = [entry.said for entry in entries()]
    spoken = [each for each in messages() if len(re.findall(r"[\w-]{2,}", each.words)) >= LEAST_WORDS]
    lacking = [
        f"{each.file}:{each.line}: {each.words}"
        for each in spoken
        if not any(each.fits(heading) for heading in headings)
        and not any(words in each.words for words in WITHOUT_ENTRY)
    ]
    assert lacking == [], "write an entry for each into docs/TROUBLESHOOTING.md, with a provocation"


def _goes_without(message: Message) -> bool:
    return any(words in message.words for words in WITHOUT_ENTRY)


def test_what_goes_without_an_entry_is_still_said() -> None:
    assert [words for words in WITHOUT_ENTRY if not any(words in each.words for each in messages())] == []


def test_no_entry_stands_twice() -> None:
    headings = [entry.heading for entry in entries()]
    assert len(headings) == len(set(headings)) > 80


# Provocations


@dataclass
class Desk:
    """A folder with a memory in it, and somebody who types commands there."""

    folder: Path
    type_in: Callable[..., str]
    monkeypatch: pytest.MonkeyPatch

    @property
    def source(self) -> Path:
        return self.folder / "graph.sqlite"

    @property
    def target(self) -> Path:
        return self.folder / "graph.ladybug"

    def migrate(self, *words: str) -> str:
        return self.type_in("migrate", "--source", str(self.source), "--reader-python", "none", *words)

    def configured(self, text: str | bytes) -> str:
        """`nimad config` with this settings file."""
        path = self.folder / "nimad.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return self.type_in("config", "--config", str(path))

    def openclaw(self, text: str) -> str:
        (self.folder / ".openclaw").mkdir()
        (self.folder / ".openclaw/openclaw.json").write_text(text)
        return self.migrate("--auto")

    def set_up(self, account: UserAccount | None = None, program: str = sys.executable) -> str:
        """What stands against a set-up for the owner of a home in this folder, which is taken for the machine."""
        (self.folder / "machine").mkdir(exist_ok=True)
        owner = account or UserAccount("pi", os.getuid(), os.getgid(), str(self.folder), known=True)
        try:
            setup.set_up(owner, None, [program], self.folder / "machine")
        except NimadError as error:
            return str(error)
        raise AssertionError("it was set up")

    def at_home(self) -> None:
        """The memory lies where a user has it."""
        (self.folder / ".nima/memory").mkdir(parents=True)
        self.source.rename(self.folder / ".nima/memory/graph.sqlite")

    def made_from(self, source: Path) -> None:
        """As if the target had been made from this source."""
        self.target.write_bytes(b"")
        state = State(Files(self.target), Identity(str(source), 1), phase="complete", published={"MemoryNode": 1})
        state.write()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    make_memory(tmp_path / "graph.sqlite", nodes=[node(1), node(2)])
    for name in [name for name in os.environ if name.startswith(("NIMA", "OPENCLAW"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def type_in(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["nimad", *words])
        with suppress(SystemExit):
            main()
        said = capsys.readouterr()
        return said.out + said.err

    return Desk(tmp_path, type_in, monkeypatch)


Provocation = Callable[[Desk], str]
PROVOCATIONS: dict[str, Provocation] = {}


def provocation(function: Provocation) -> Provocation:
    PROVOCATIONS[function.__name__] = function
    return function


@pytest.mark.parametrize(
    "entry", [each for each in entries() if "::" not in each.provocation], ids=lambda entry: entry.provocation
)
def test_a_provocation_produces_its_message(entry: Entry, desk: Desk) -> None:
    said = PROVOCATIONS[entry.provocation](desk)
    # Where the words of the heading stand for others, as FILE does, the message has whatever they stand for.
    fitting = [message for message in messages() if message.fits(entry.said)]
    patterns = [".*".join(map(re.escape, message.text.split("\0"))) for message in fitting] or [re.escape(entry.said)]
    assert any(re.search(pattern, said) for pattern in patterns), said


# The memory


@provocation
def no_memory(desk: Desk) -> str:
    desk.source.unlink()
    return desk.migrate()


@provocation
def a_folder_for_a_memory(desk: Desk) -> str:
    desk.source.unlink()
    desk.source.mkdir()
    return desk.migrate()


@provocation
def an_empty_memory(desk: Desk) -> str:
    desk.source.write_bytes(b"")
    return desk.migrate()


@provocation
def another_kind_of_file(desk: Desk) -> str:
    desk.source.write_text("{}" * 1_000)
    return desk.migrate()


@provocation
def another_database(desk: Desk) -> str:
    desk.source.unlink()
    with closing(sqlite3.connect(desk.source)) as connection:
        connection.execute("CREATE TABLE bookmarks (id INTEGER PRIMARY KEY)")
    return desk.migrate()


@provocation
def half_a_memory(desk: Desk) -> str:
    os.truncate(desk.source, desk.source.stat().st_size // 2)
    return desk.migrate("--dry-run")


@provocation
def half_a_header(desk: Desk) -> str:
    os.truncate(desk.source, 50)
    return desk.migrate()


@provocation
def a_name_too_long(desk: Desk) -> str:
    return desk.type_in("migrate", "--source", "x" * 300)


@provocation
def a_transaction_that_was_cut_off(desk: Desk) -> str:
    """A journal that SQLite has to play back first: a copy of one, taken in the middle of a transaction."""
    desk.source.unlink()
    make_memory(desk.source, journal="DELETE", nodes=[node(key) for key in range(1, 200)])
    journal, copy = desk.source.with_name("graph.sqlite-journal"), b""
    with closing(sqlite3.connect(desk.source, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.execute("UPDATE memory_nodes SET text = text || 'x'")
        copy, half = journal.read_bytes(), desk.source.read_bytes()
        connection.execute("ROLLBACK")
    desk.source.write_bytes(half)
    journal.write_bytes(copy)
    return desk.migrate()


@provocation
def a_memory_that_is_locked(desk: Desk) -> str:
    desk.source.unlink()
    make_memory(desk.source, journal="DELETE", nodes=[node(1)])
    desk.monkeypatch.setattr("nimad.source.sqlite_file.BUSY_TIMEOUT_S", 0.1)
    with closing(sqlite3.connect(desk.source, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        return desk.migrate("--dry-run")


# Settings


@provocation
def a_settings_file_that_is_missing(desk: Desk) -> str:
    return desk.type_in("config", "--config", "no/such.toml")


@provocation
def a_folder_for_a_settings_file(desk: Desk) -> str:
    return desk.type_in("config", "--config", str(desk.folder))


@provocation
def a_settings_file_in_circles(desk: Desk) -> str:
    (desk.folder / "round.toml").symlink_to("round.toml")
    return desk.type_in("config", "--config", "round.toml")


@provocation
def a_settings_file_that_is_closed(desk: Desk) -> str:
    path = desk.folder / "nimad.toml"
    path.touch(mode=0)
    before = os.geteuid()
    os.seteuid(before or 12_345)
    try:
        toml_file.read(path)
    except NimadError as error:
        return str(error)
    finally:
        os.seteuid(before)
    raise AssertionError("it was read")


@provocation
def latin_letters(desk: Desk) -> str:
    return desk.configured('[log]\nfile = "/home/josé"\n'.encode("latin-1"))


@provocation
def an_unknown_key(desk: Desk) -> str:
    return desk.configured("[batch]\nsizes = 5\n")


@provocation
def an_unknown_table(desk: Desk) -> str:
    return desk.configured("[batches]\nsize = 5\n")


@provocation
def a_number_in_quotes(desk: Desk) -> str:
    return desk.configured('[batch]\nsize = "5"\n')


@provocation
def a_value_for_a_table(desk: Desk) -> str:
    return desk.configured("batch = 5\n")


@provocation
def half_a_line(desk: Desk) -> str:
    return desk.configured("[batch\n")


@provocation
def half_of_it(desk: Desk) -> str:
    return desk.configured('[limits]\nmemory = "half"\n')


@provocation
def half_of_it_typed(desk: Desk) -> str:
    return desk.migrate("--max-memory", "half")


@provocation
def a_variable_that_cannot_be(desk: Desk) -> str:
    desk.monkeypatch.setenv("NIMA_LADYBUG_DB", str(desk.source))
    return desk.migrate()


@provocation
def a_variable_that_leads_nowhere(desk: Desk) -> str:
    desk.monkeypatch.setenv("NIMA_LADYBUG_DB", str(desk.folder / "no/such/folder/agent.lbug"))
    return desk.migrate()


@provocation
def a_word_that_is_none(desk: Desk) -> str:
    return desk.configured('[service]\ntrigger = "midnight"\n')


@provocation
def a_name_elsewhere(desk: Desk) -> str:
    return desk.migrate("--also", "../ladybug.lbug")


@provocation
def a_name_that_is_taken(desk: Desk) -> str:
    return desk.migrate("--also", "graph.sqlite")


@provocation
def a_name_in_latin_letters(desk: Desk) -> str:
    with pytest.raises(NimadError) as raised:
        Settings(source=desk.folder / os.fsdecode("josé.sqlite".encode("latin-1")))
    return str(raised.value)


@provocation
def the_home_of_nobody(desk: Desk) -> str:
    return desk.type_in("migrate", "--source", "~nobody-here/graph.sqlite")


@provocation
def no_home(desk: Desk) -> str:
    def unknown(_: type[Path]) -> Path:
        raise RuntimeError("as for a number that the system has no name for")

    desk.monkeypatch.setattr(Path, "home", classmethod(unknown))
    try:
        defaults.home_of({})
    except NimadError as error:
        return str(error)
    raise AssertionError("it has one")


@provocation
def a_number_for_openclaws_backend(desk: Desk) -> str:
    return desk.openclaw('{"plugins": {"entries": {"nima-memory": {"config": {"database": {"backend": 5}}}}}}')


# The target


@provocation
def no_folder_for_the_target(desk: Desk) -> str:
    return desk.migrate("--target", "no/such/graph.ladybug")


@provocation
def a_folder_at_a_name_of_ours(desk: Desk) -> str:
    Path(f"{desk.target}.lock").mkdir()
    return desk.migrate()


@provocation
def a_stick_that_holds_no_large_file(desk: Desk) -> str:
    small = filesystems.FileSystem("vfat", largest_file=1_000)
    desk.monkeypatch.setattr(filesystems, "of", lambda _: small)
    return desk.migrate()


@provocation
def a_link_in_the_way(desk: Desk) -> str:
    desk.target.symlink_to("nowhere")
    return desk.migrate()


@provocation
def a_search_of_half_a_target(desk: Desk) -> str:
    desk.made_from(desk.source)
    desk.target.rename(f"{desk.target}.migrating")
    return desk.type_in("search", "x", "--target", str(desk.target))


@provocation
def a_search_of_half_a_target_of_nobody(desk: Desk) -> str:
    Path(f"{desk.target}.migrating").touch()
    return desk.type_in("search", "x", "--target", str(desk.target))


@provocation
def a_search_of_nothing(desk: Desk) -> str:
    return desk.type_in("search", "x", "--target", str(desk.target))


@provocation
def a_search_of_another_file(desk: Desk) -> str:
    return desk.type_in("search", "x", "--target", str(desk.source))


@provocation
def a_comparison_of_a_folder(desk: Desk) -> str:
    desk.target.mkdir()
    return desk.type_in("verify", "--source", str(desk.source), "--target", str(desk.target))


@provocation
def a_comparison_of_another_file(desk: Desk) -> str:
    desk.target.write_text('{"phase": "complete"}\n')
    return desk.type_in("verify", "--source", str(desk.source), "--target", str(desk.target))


@provocation
def two_reports_in_one(desk: Desk) -> str:
    return desk.type_in("report", "--text", "--json")


@provocation
def half_a_target_of_nobody(desk: Desk) -> str:
    Path(f"{desk.target}.migrating").write_bytes(b"something")
    return desk.migrate("--verify", "counts")


@provocation
def a_retry_of_another_memory(desk: Desk) -> str:
    desk.made_from(desk.folder / "other.sqlite")
    return desk.type_in("quarantine", "retry", "--source", str(desk.source), "--target", str(desk.target))


@provocation
def a_variable_that_names_another_memory(desk: Desk) -> str:
    desk.made_from(desk.folder / "other.sqlite")
    desk.monkeypatch.setenv("NIMA_DB_PATH", str(desk.source))
    return desk.type_in("migrate", "--target", str(desk.target), "--replace", "--reader-python", "none")


@provocation
def too_little_memory(desk: Desk) -> str:
    return desk.migrate("--max-memory", "64M")


@provocation
def an_offset_past_the_end(desk: Desk) -> str:
    return desk.migrate("--start-offset", "99")


@provocation
def a_row_that_strict_stops_at(desk: Desk) -> str:
    change(desk.source, "UPDATE memory_nodes SET text = ? WHERE id = 2", b"\xff")
    return desk.migrate("--strict", "--dry-run")


def _without_ids(desk: Desk) -> None:
    for statement in ("DROP TABLE memory_nodes", "CREATE TABLE memory_nodes (id, text)"):
        change(desk.source, statement)
    change(desk.source, "INSERT INTO memory_nodes VALUES (NULL, 'a')")


@provocation
def a_dry_run_of_memories_without_ids(desk: Desk) -> str:
    _without_ids(desk)
    return desk.migrate("--dry-run")


@provocation
def memories_without_ids(desk: Desk) -> str:
    _without_ids(desk)
    return desk.migrate()


@provocation
def embeddings_without_sense(desk: Desk) -> str:
    with closing(sqlite3.connect(desk.source, isolation_level=None)) as connection:
        for _ in range(100):
            connection.execute(
                "INSERT INTO memory_nodes (timestamp, layer, text, embedding) VALUES (1, 'a', 'b', ?)",
                (os.urandom(64),),
            )
    return desk.migrate("--dry-run")


@provocation
def an_index_of_nothing(desk: Desk) -> str:
    return desk.type_in("index", "--target", str(desk.target))


@provocation
def an_interpreter_that_is_none(desk: Desk) -> str:
    return desk.type_in("migrate", "--source", str(desk.source), "--reader-python", str(desk.folder))


# What a log warns of


def _warning(event: e.Event) -> str:
    return "\n".join(text for _, text in lines(event))


def _warnings(**events: e.Event) -> None:
    """Provocations that need a fault in the middle of a run; that it comes to the event is for tests/faults."""
    for name, event in events.items():
        PROVOCATIONS[name] = lambda _, event=event: _warning(event)  # type: ignore[misc]


_warnings(
    a_complaint_of_the_engine=e.EngineComplained("Releasing physical memory failed"),
    a_batch_that_failed_for_good=e.BatchFailed(4, 4, "the worker was ended by SIGSEGV", None, 2_500),
    values_that_are_written_again=e.WrittenAgain(2, ["memory_nodes id 5: text"]),
    a_value_that_never_comes_back=e.Refused("memory_nodes", 5, "text", "text: it comes back as another value"),
    a_batch_that_vanished=e.BatchLost("memory_nodes", 500, 0),
    a_batch_that_is_looked_into=e.Isolating("memory_nodes", 500, "the worker was ended by SIGSEGV"),
    a_row_that_takes_workers_down=e.Isolated("memory_nodes", 17, "the worker was ended by SIGSEGV", 2),
    a_value_that_takes_workers_down=e.Isolated("memory_nodes", 17, "the worker was ended by SIGSEGV", 2, "text"),
    a_target_that_was_set_aside=e.SetAside(("graph.ladybug.migrating.20260102",), "a torn page", whole=True),
    a_log_that_was_set_aside=e.SetAside(("graph.ladybug.migrating.wal.20260102",), "a torn page", whole=False),
    a_damaged_memory=e.Salvaged(("page 7",), {"memory_nodes": 9}, {"memory_nodes": [(4, 5)]}),
    a_file_that_stays_large=e.NotCompacted("no room", ""),
    something_set_aside=e.Quarantined("graph.ladybug.quarantine.jsonl", 1, 0, 0, ()),
    a_run_without_verification=e.Verifying("none"),
    memories_that_came_late=e.LateArrivals(3),
    a_reader_that_is_none=e.EngineChosen("ladybug", 49, "", (), ("/usr/bin/python3: nothing is there",)),
    late_arrivals_that_wait=f.LeftAlone("the target is open in another program"),
    columns_that_the_target_cannot_hold=f.ColumnsLeftOut(("memory_nodes.fe_score (it is STRING)",)),
    a_target_that_is_gone=s.TargetGone("graph.ladybug"),
    a_name_without_room=e.NotNamed("ladybug.lbug", "graph.ladybug", "Operation not permitted"),
    a_name_that_is_gone=s.NameMissing("graph.ladybug", "nimad migrate"),
    a_hook_that_failed=e.HookRan("on_failure", 1, "", "", 0.1),
    a_run_that_is_put_off=s.Postponed("too little memory", 60.0),
    a_reload_that_was_refused=s.ReloadRefused("nimad.toml: unknown key"),
)


# Users and the service


@provocation
def a_user_who_is_not_there(desk: Desk) -> str:
    return desk.migrate("--user", "nobody-here")


@provocation
def a_set_up_for_whom(desk: Desk) -> str:
    return desk.type_in("setup")


@provocation
def a_set_up_without_a_memory(desk: Desk) -> str:
    return desk.set_up()


@provocation
def a_set_up_for_another(desk: Desk) -> str:
    if os.geteuid() != 0:
        pytest.skip("only root asks for another")
    desk.at_home()
    return desk.set_up(UserAccount("pi", 12_345, 12_345, str(desk.folder), known=True))


@provocation
def a_set_up_in_tmp(desk: Desk) -> str:
    desk.at_home()
    desk.monkeypatch.setattr(setup, "HIDDEN", _named_tmp(desk.folder))
    return desk.set_up()


def _named_tmp(folder: Path) -> tuple[str, ...]:
    """The folder that is emptied at times, whichever it is that the tests have."""
    top = Path("/", *folder.parts[1:2])
    return (str(top),) if top.name.endswith("tmp") else (f"{folder}",)


@provocation
def a_set_up_for_a_number(desk: Desk) -> str:
    return desk.set_up(UserAccount("4711", 4711, 4711))


@provocation
def a_set_up_with_a_log_nowhere(desk: Desk) -> str:
    desk.at_home()
    desk.monkeypatch.setattr(setup, "HIDDEN", ())
    settings = desk.folder / "machine/etc/nima/nimad.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('[log]\nfile = "~/no/such/migration.log"\n')
    return desk.set_up()


@provocation
def a_set_up_where_nothing_can_be_written(desk: Desk) -> str:
    desk.at_home()
    desk.monkeypatch.setattr(setup, "HIDDEN", ())
    (desk.folder / "machine").mkdir()
    (desk.folder / "machine/etc").touch()
    return desk.set_up()


@provocation
def no_systemctl(desk: Desk) -> str:
    try:
        setup._systemd(str(desk.folder / "systemctl"))
    except NimadError as error:
        return str(error)
    raise AssertionError("it is there")


# The scripts of the old guide


@provocation
def no_nimad(desk: Desk) -> str:
    desk.monkeypatch.setenv("PATH", str(desk.folder))
    desk.monkeypatch.setattr(nimad_program, "PLACES", ("~/nowhere/nimad",))
    with pytest.raises(nimad_program.NotInstalledError) as raised:
        nimad_program.find()
    return str(raised.value)


@provocation
def another_program_for_nimad(desk: Desk) -> str:
    desk.monkeypatch.setenv("NIMAD", str(desk.source))
    with pytest.raises(nimad_program.NotInstalledError) as raised:
        nimad_program.find()
    return str(raised.value)


@provocation
def the_old_snippet(desk: Desk) -> str:
    import ladybug

    try:
        ladybug.connect(desk.target)
    except AttributeError as error:
        return str(error)
    raise AssertionError("it is there")
