"""The text of a memory stays in it: no command tells it, and no file of ours but the quarantine has any of it."""

import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.commands import Ran, nimad
from support.following import agent
from support.memories import change, edge, make_memory, node, turn

#: In every value of a memory that is text, or where a value of another type belongs.
MARK = "xyzzy"
SECRET = f"my password is {MARK}"
#: What writes its whole environment and its words to the file that is its first word.
TELL = "import json, os, sys; open(sys.argv[1], 'a').write(json.dumps([dict(os.environ), sys.argv[2:]]))"
#: Files of ours that hold values: the quarantine, and what a rollback carries; the target; SQLite's own.
_ENGINES = (".ladybug", ".lbug", ".sqlite", ".wal", ".shm", "-wal", "-shm")
_MAY_HOLD = (".quarantine.jsonl", ".rollback-", ".backup-", *_ENGINES)


def secret_nodes() -> Iterator[dict[str, object]]:
    """Good nodes and bad ones: in each column in turn, text where it does not belong."""
    whole = {"text": SECRET, "summary": SECRET, "affect_json": json.dumps({SECRET: 1}), "session_key": SECRET}
    for key in range(1, 6):
        yield node(key, **whole, turn_id=f"{MARK}-{key}", conversation_id=SECRET)
    bad = ("timestamp", "fe_score", "strength", "decay_rate", "last_accessed", "is_ghost", "dismissal_count")
    for key, column in enumerate(bad, start=6):
        yield node(key, **whole, **{column: SECRET})
    yield node(20, **whole, embedding=SECRET.encode())
    yield node(21, **whole, embedding=SECRET)
    yield node(22, **{**whole, "text": SECRET.encode() + b"\xff"})


@dataclass
class Told:
    """Everything that was said and written, by where."""

    folder: Path
    said: dict[str, str] = field(default_factory=dict)

    def run(self, *words: str | Path, **more: str) -> Ran:
        done = nimad(self.folder, *words, **more)
        self.said[" ".join(map(str, words[:3]))] = done.out + done.err
        assert done.code != 70, done.err
        return done

    def leaks(self) -> list[str]:
        found = [where for where, text in self.said.items() if MARK in text]
        for path in sorted(self.folder.rglob("*")):
            tells = path.name.endswith((".json", ".html", ".runs.jsonl"))
            may_hold = not tells and any(part in path.name for part in _MAY_HOLD)
            if path.is_file() and not may_hold and MARK.encode() in path.read_bytes():
                found.append(path.name)
        return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("secrets")
    source = make_memory(
        folder / "graph.sqlite",
        nodes=secret_nodes(),
        edges=[edge(1, 1, 2), edge(2, 1, 999), edge(3, 2, 3, weight=SECRET), edge(4, SECRET, 3)],
        turns=[turn(1, 1, 2, 3), turn(2, SECRET, 2, 3), turn(3, 1, 2, 3, timestamp=SECRET, affect_json=SECRET)],
        schema=[
            "ALTER TABLE memory_nodes ADD COLUMN mood INTEGER",
            "CREATE TABLE notes (id INTEGER, text TEXT)",
        ],
    )
    change(source, "UPDATE memory_nodes SET mood = ? WHERE id IN (1, 2)", SECRET)
    change(source, "INSERT INTO notes VALUES (1, ?)", SECRET)
    words = json.dumps([sys.executable, "-c", TELL, str(folder / "hooks.txt")])
    (folder / "nimad.toml").write_text(
        f'[metrics]\nfile = "{folder}/nima.prom"\n[log]\nlevel = "DEBUG"\n'
        f"[hooks]\non_complete = {words}\non_failure = {words}\non_quarantine = {words}\n"
    )
    told, target = Told(folder), folder / "graph.ladybug"
    both = ("--source", source, "--target", target, "--config", folder / "nimad.toml")
    told.run("migrate", "--dry-run", *both)
    told.run("migrate", "--strict", *both)
    told.run("migrate", *both, "--restart")
    told.run("migrate", "--json", *both, "--replace")
    change(source, "UPDATE memory_nodes SET text = ?, strength = 0.5 WHERE id = 2", f"{SECRET} indeed")
    with agent(target) as connection:  # what the target alone has
        connection.execute(
            "CREATE (:MemoryNode {id: 900, layer: 'input', turn_id: $text, text: $text, timestamp: 5})",
            {"text": SECRET},
        )
        connection.execute("CREATE (:InsightNode {id: 'i', content: $text})", {"text": SECRET})
    for command in ("verify", "health", "rollback"):
        told.run(command, *both)
        told.run(command, "--json", *both)
    for command in ("doctor", "status", "clean"):
        told.run(command, *both)
    # A generated column that fails, in an error that quotes the text.
    change(source, "ALTER TABLE memory_nodes ADD COLUMN path TEXT AS (json_extract('{}', text))")
    told.run("migrate", *both, "--replace")
    for form in ((), ("--text",), ("--json",)):
        told.run("report", *form, "--target", target)
    for form in ((), ("--json",)):
        told.run("quarantine", "list", *form, "--target", target)
    return told


def test_no_command_and_no_file_tells_the_text_of_a_memory(told: Told) -> None:
    assert told.leaks() == []


@pytest.mark.long
def test_who_asks_for_the_text_gets_it(told: Told) -> None:
    """Or the test above could not fail."""
    target = told.folder / "graph.ladybug"
    assert MARK in nimad(told.folder, "search", "password", "--target", target).out
    shown = nimad(told.folder, "quarantine", "show", "6", "--target", target)
    assert MARK in shown.out
    with closing(sqlite3.connect(told.folder / "graph.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM memory_nodes WHERE text LIKE '%xyzzy%'").fetchone()[0] > 5
