"""A memory with damaged pages: every row is in the target as SQLite reads it, or listed; or nothing is made.

What is expected is found without nimad's code: SQLite itself is asked for every row of the pristine memory by its id in
the damaged file, and the file's pages are told apart by a reading of sqlite.org/fileformat.html of these tests' own.
"""

import errno
import hashlib
import os
import random
import re
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.arrival import as_text, in_json
from support.documented import Became, becomes, dimension, integer
from support.memories import (
    DEFAULTS,
    LINKS,
    TABLES,
    Hurried,
    Memory,
    assert_same,
    edge,
    insert,
    make_memory,
    node,
    read_quarantine,
    read_source,
    read_target,
    same_value,
    turn,
    vector,
)
from support.torture import assert_nothing_left, beside, interrupted, left_behind
from support.torture import opened as target_opened

import nimad
from nimad.errors import DifferenceError, ExitCode, NimadError, SourceDamagedError, StoppedError
from nimad.events.result import Outcome
from nimad.events.run import BatchLoaded
from nimad.report.messages.run_messages import lines
from nimad.source import blank_pages
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import survey

PAGE = 1024
SEEDS = range(50)
#: Every one of so many seeds is part of a default run.
STRIDE = 5
#: Types of b-tree pages (fileformat.html, 1.6), and bytes of the header of such a page before its cell pointers.
INTERIOR_INDEX, INTERIOR_TABLE, LEAF_INDEX, LEAF_TABLE = 2, 5, 10, 13
HEADER = {INTERIOR_INDEX: 12, INTERIOR_TABLE: 12, LEAF_INDEX: 8, LEAF_TABLE: 8}
ENDS = ("source_id", "target_id")


# A memory, and its pages


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 nodes on some 200 pages: leaves of several rows, inner pages, overflow pages, and an index of turns."""
    path = tmp_path_factory.mktemp("pristine") / "graph.sqlite"
    make_memory(
        path,
        nodes=[
            node(
                key,
                text=f"memory {key} " * (200 if key % 10 == 0 else key % 12),
                summary="naïve 🙂" if key % 4 else None,
                embedding=vector(*(key + 0.25 * place for place in range(8))) if key % 3 else None,
                fe_score=key / 7,
                is_ghost=key % 2,
            )
            for key in range(1, 151)
        ],
        edges=[edge(key, key, 151 - key) for key in range(1, 101)],
        turns=[turn(key, key, None if key % 3 else key + 1, key + 2) for key in range(1, 101)],
        journal="DELETE",
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE}")
        connection.execute("VACUUM")
    return path


@pytest.fixture
def source(tmp_path: Path, pristine: Path) -> Path:
    """A copy in a folder of its own, in which nothing else may ever stand."""
    folder = tmp_path / "source"
    folder.mkdir()
    return Path(shutil.copy(pristine, folder / "graph.sqlite"))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder / "graph.ladybug"


@dataclass(frozen=True)
class Page:
    """One page of a table or an index: its number, its type, and the overflow pages that its cells begin."""

    number: int
    kind: int
    depth: int
    overflows: tuple[int, ...] = ()


def pages_of(path: Path, name: str) -> list[Page]:
    """Every page of a sound table or index, its root first."""
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    return list(_pages(path.read_bytes(), root, 0))


def _pages(data: bytes, number: int, depth: int) -> Iterator[Page]:
    start = (number - 1) * PAGE
    at = start + (100 if number == 1 else 0)
    kind, cells = data[at], int.from_bytes(data[at + 3 : at + 5], "big")
    pointers = at + HEADER[kind]
    places = [start + int.from_bytes(data[pointers + 2 * n : pointers + 2 * n + 2], "big") for n in range(cells)]
    if kind == LEAF_TABLE:
        yield Page(number, kind, depth, tuple(page for place in places if (page := _overflow(data, place))))
        return
    yield Page(number, kind, depth)
    if kind in (INTERIOR_TABLE, INTERIOR_INDEX):
        children = [int.from_bytes(data[place : place + 4], "big") for place in places]
        for below in (*children, int.from_bytes(data[at + 8 : at + 12], "big")):
            yield from _pages(data, below, depth + 1)


def _overflow(data: bytes, cell: int) -> int:
    """The first overflow page of a row, 0 where all of it is on its leaf."""
    size, place = _varint(data, cell)
    _, place = _varint(data, place)
    most, least = PAGE - 35, (PAGE - 12) * 32 // 255 - 23
    if size <= most:
        return 0
    here = least + (size - least) % (PAGE - 4)
    place += here if here <= most else least
    return int.from_bytes(data[place : place + 4], "big")


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for count in range(9):
        byte = data[place + count]
        if count == 8:
            return value << 8 | byte, place + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + count + 1
    raise AssertionError


def overwrite(path: Path, page: int, content: bytes = bytes(PAGE), at: int = 0) -> None:
    """Put bytes on a page, in the file as it stands: it stays the same file."""
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE + at)
        file.write(content)


def flip_bytes(path: Path, seed: int) -> None:
    """Flip from 1 to 40 bytes, on from 1 to 4 pages."""
    numbers = random.Random(seed)
    pages = [numbers.randrange(path.stat().st_size // PAGE) for _ in range(numbers.randint(1, 4))]
    with path.open("r+b") as file:
        for _ in range(numbers.choice((1, 3, 10, 40))):
            at = numbers.choice(pages) * PAGE + numbers.randrange(PAGE)
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ numbers.randint(1, 255)]))


# What SQLite reads of it


@dataclass(frozen=True)
class Damaged:
    """A damaged memory. `by_id`: by table, the rows that SQLite finds by their ids."""

    path: Path
    by_id: Mapping[str, Mapping[int, dict[str, Any]]]
    starts: Mapping[str, Sequence[int]]  # ids of the pristine memory

    def now(self, table: str, key: int) -> dict[str, Any] | None:
        """The row that SQLite finds by an id that nobody thought of."""
        with opened(self.path) as connection:
            return next(iter(rows(connection, f"{select(connection, table)} WHERE id = {key}")), None)

    def met(self, table: str, key: int) -> list[dict[str, Any]]:
        """Rows of an id that SQLite meets on its way through the pages, which it begins at any id and place.

        One row at a time, because Python's cursor reads one ahead, so that an error also takes the row before it.
        """
        with opened(self.path) as connection:
            for start in self.starts[table]:
                for place in range(len(self.starts[table])):
                    where = f"WHERE id >= {start} LIMIT 1 OFFSET {place}"
                    found = rows(connection, f"SELECT id FROM {table} NOT INDEXED {where}")
                    if [row["id"] for row in found] == [key]:
                        return list(rows(connection, f"{select(connection, table)} {where}"))
        return []


def read_damaged(path: Path, pristine: Memory) -> Damaged:
    known = {"memory_nodes": pristine.nodes, "memory_edges": pristine.edges, "memory_turns": pristine.turns}
    by_id: dict[str, dict[int, dict[str, Any]]] = {}
    with opened(path) as connection:
        for table in TABLES:
            query, ids = f"{select(connection, table)} WHERE id", set(known[table])
            for start in known[table]:  # from each id on, because the first broken page ends a way
                ids |= {row["id"] for row in rows(connection, f"{query} >= {start}") if isinstance(row.get("id"), int)}
            by_id[table] = {key: found[0] for key in ids if (found := list(rows(connection, f"{query} = {key}")))}
    return Damaged(path, by_id, {table: [*ids] for table, ids in known.items()})


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.text_factory = as_text
        connection.execute("PRAGMA writable_schema = ON")  # else one broken line of the schema hides all tables
        yield connection


def select(connection: sqlite3.Connection, table: str) -> str:
    """A query for all columns whose names are text, which SQL is: no other can be spelled."""
    names = [row["name"] for row in rows(connection, f"PRAGMA table_info({table})")]
    quoted = ['"' + name.replace('"', '""') + '"' for name in names if type(name) is str]
    return f"SELECT {', '.join(quoted) or '*'} FROM {table} NOT INDEXED"


def rows(connection: sqlite3.Connection, query: str) -> list[dict[str, Any]]:
    """Rows up to the first that SQLite cannot read."""
    found = []
    with suppress(sqlite3.Error, MemoryError, OverflowError):
        cursor = connection.execute(query)
        names = [column[0] for column in cursor.description]
        for row in cursor:
            found.append(dict(zip(names, row, strict=True)))  # noqa: PERF401 - what came before an error counts
    return found


# What is to be in the target


class Listed:
    """What the quarantine file says: whole rows, parts of rows, and ranges of ids, by table."""

    def __init__(self, target: Path) -> None:
        self.entries = read_quarantine(target)
        self.ranges = [(entry["table"], *_ends(str(entry["id"]))) for entry in self.entries if entry["part"] == "range"]
        self.parts = {(entry["table"], entry["id"], entry["part"]): entry["row"] for entry in self.entries}

    def part(self, table: str, key: int, part: str) -> bool:
        return (table, key, part) in self.parts

    def values_of(self, table: str, key: int) -> set[str]:
        """The columns and links whose values are set aside alone, of one row."""
        return {part for name, row_key, part in self.parts if (name, row_key) == (table, key)} - {"row", "id"}

    def lost(self, table: str, key: int) -> bool:
        return any(name == table and first <= key <= last for name, first, last in self.ranges)


def _ends(text: str) -> tuple[int, int]:
    """`7`, `7-9`, `from 7`, `up to 9` or `any`: without an end that is known, all ids there are on that side."""
    if text == "any":
        return -(2**63), 2**63 - 1
    if text.startswith(("from ", "up to ")):
        number = int(text.rsplit(maxsplit=1)[-1])
        return (number, 2**63 - 1) if text.startswith("from ") else (-(2**63), number)
    first, last = re.fullmatch(r"(-?\d+)(?:-(-?\d+))?", text).groups()  # type: ignore[union-attr]
    return int(first), int(last or first)


def assert_accounted_for(pristine: Path, source: Path, target: Path) -> Damaged:
    """Every row of the pristine memory is in the target as SQLite reads it by its id, or listed; nothing else is."""
    before = read_source(pristine)
    damaged, there, listed = read_damaged(source, before), read_target(target), Listed(target)
    assert dimension_of(there) == dimension([row["embedding"] for row in damaged.by_id["memory_nodes"].values()])
    everything = {
        "memory_nodes": (before.nodes, there.nodes),
        "memory_edges": (before.edges, there.edges),
        "memory_turns": (before.turns, there.turns),
    }
    for table, (known, kept) in everything.items():
        for key in known:
            is_listed = listed.part(table, key, "row") or listed.lost(table, key)
            assert key in kept or is_listed, f"{table} {key} is neither in the target nor listed"
        for key, row in damaged.by_id[table].items():
            if table == "memory_edges" and any(integer(row[end]) not in there.nodes for end in ENDS):
                assert key not in kept
                assert listed.part(table, key, "row"), f"{table} {key} can be read, and is not listed"
            else:
                assert key in kept, f"{table} {key} can be read, and is not in the target"
        for key, row in kept.items():
            found = damaged.by_id[table].get(key) or damaged.now(table, key)
            candidates = [found] if found else damaged.met(table, key)
            assert candidates, f"{table} {key} is in the target, and SQLite finds no such row"
            assert found or listed.part(table, key, "id"), f"{table} {key} is not found by that id, and not listed"
            differing = [differences(table, key, row, candidate, there, listed) for candidate in candidates]
            assert [] in differing, f"{table} {key}: {differing}"
    return damaged


def dimension_of(there: Memory) -> int:
    return int(there.types["MemoryNode"]["embedding"].removeprefix("FLOAT[").removesuffix("]"))


def differences(
    table: str, key: int, got: Mapping[str, Any], wanted: Mapping[str, Any], there: Memory, listed: Listed
) -> list[str]:
    """In what a row of the target, and its values in quarantine, are not what SQLite's row becomes."""
    found, aside = [], set()
    for name, value in wanted.items():
        if name == "id":
            continue
        part, holds = name, got.get(name)
        if table == "memory_turns" and name in LINKS:
            part, node_id = LINKS[name], integer(value)
            holds = [end for turn_id, end in there.links[part] if turn_id == key]
            became = Became([node_id]) if node_id in there.nodes else Became([], aside=value is not None)
        elif table == "memory_edges" and name in ENDS:
            became = Became(integer(value))
        else:
            became = becomes(table, name, value, dimension=dimension_of(there))
        if not same_value(holds, became.value):
            found.append(f"{name}: {holds!r:.80} where SQLite has {value!r:.80}")
        if became.aside:
            aside.add(part)
            if listed.parts.get((table, key, part), {}).get(name) != in_json(value):
                found.append(f"{name}: {value!r:.80} is not in quarantine")
    defaults = DEFAULTS if table == "memory_nodes" else {}
    added = set(got) - set(wanted) - {"edge_id"}
    odd = [name for name in added if not same_value(got[name], defaults.get(name))]
    found += [f"{name}: {got[name]!r:.80} where SQLite has no such column" for name in odd]
    return found + [f"{part}: is in quarantine without need" for part in listed.values_of(table, key) - aside]


def run(source: Path, target: Path, **settings: Any) -> int:
    """Migrate; the exit code. Not a byte in the source's folder may change, whatever happens."""
    before = contents(source.parent)
    log = target.with_name("migration.log")
    try:
        result = nimad.migrate(nimad.Settings(source=source, target=target, log_file=log, **settings), clock=Hurried())
        code = result.exit_code
    except NimadError as error:
        print(error)
        code = error.exit_code
    assert contents(source.parent) == before
    return code


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def assert_as_it_should_end(pristine: Path, source: Path, target: Path, code: int) -> None:
    """By the exit code: all there and nothing listed; something listed; nothing to be read and nothing made."""
    assert code in (ExitCode.COMPLETE, ExitCode.QUARANTINED, ExitCode.IO_ERROR)
    if code == ExitCode.IO_ERROR:
        assert contents(target.parent) == {}
        assert read_damaged(source, read_source(pristine)).by_id["memory_nodes"] == {}, "there are nodes to be saved"
        return
    assert_nothing_left(target)
    damaged = assert_accounted_for(pristine, source, target)
    assert code == (ExitCode.QUARANTINED if read_quarantine(target) else ExitCode.COMPLETE)
    if code == ExitCode.COMPLETE:
        assert len(read_target(target).nodes) == len(damaged.by_id["memory_nodes"]) == 150


# Anywhere


@pytest.mark.sampled
@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.long] if seed % STRIDE else []) for seed in SEEDS]
)
def test_whatever_bytes_are_flipped_every_row_is_accounted_for(
    pristine: Path, source: Path, target: Path, seed: int
) -> None:
    flip_bytes(source, seed)
    assert_as_it_should_end(pristine, source, target, run(source, target))


# Here and there


def leaves(path: Path, table: str = "memory_nodes") -> list[Page]:
    return [page for page in pages_of(path, table) if page.kind == LEAF_TABLE]


def test_a_leaf_of_zeros_costs_its_own_rows(pristine: Path, source: Path, target: Path) -> None:
    overwrite(source, leaves(source)[7].number)
    code = run(source, target)
    assert code == ExitCode.QUARANTINED
    damaged = assert_accounted_for(pristine, source, target)
    lost = 150 - len(damaged.by_id["memory_nodes"])
    assert 0 < lost < 30
    listed = Listed(target)
    assert sum(last - first + 1 for table, first, last in listed.ranges if table == "memory_nodes") == lost
    assert len(read_target(target).nodes) == 150 - lost


#: Leaves of nodes that are overwritten, of all of them: which, and with what.
BLANK: dict[str, tuple[Callable[[list[int]], list[int]], bytes]] = {
    "zeros here and there": (lambda pages: [page for place, page in enumerate(pages) if place % 4], bytes(PAGE)),
    "zeros from one place on": (lambda pages: pages[len(pages) // 4 :], bytes(PAGE)),
    "ones, as of erased flash": (lambda pages: pages[: -len(pages) // 4], b"\xff" * PAGE),
}


@pytest.mark.sampled
@pytest.mark.parametrize("kind", BLANK)
def test_where_most_pages_are_blank_nothing_is_published_unless_it_is_asked_for(
    source: Path, target: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No row of them is left that could be set aside."""
    chosen, content = BLANK[kind]
    for name in ("memory_edges", "memory_turns"):
        for page in leaves(source, name):
            overwrite(source, page.number, content)
    pages = leaves(source)
    gone = chosen([page.number for page in pages])
    for page in pages:
        if page.number in gone:
            for number in (page.number, *page.overflows):
                overwrite(source, number, content)
    assert run(source, target) == ExitCode.INTERRUPTED
    said = capsys.readouterr().out
    assert re.search(r"\d+ of the \d+ pages of \S+ are blank, and with them some \d+ memories", said)
    assert "of --max-set-aside, so nothing is published; restore a backup of it" in said
    assert not target.exists()
    assert run(source, target, max_set_aside="100%") == ExitCode.QUARANTINED
    left = {key for key in range(1, 151) if found_by_id(source, key)}
    assert set(read_target(target).nodes) == left
    assert 0 < len(left) < 75


def found_by_id(path: Path, key: int) -> bool:
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as connection, suppress(sqlite3.DatabaseError):
        return connection.execute("SELECT * FROM memory_nodes WHERE id = ?", (key,)).fetchone() is not None
    return False


def test_a_few_blank_pages_keep_nothing_back_however_many_ids_were_never_used(
    tmp_path: Path, source: Path, target: Path
) -> None:
    rows = [node(key * 10**9, text=f"memory {key} " * 20) for key in range(1, 151)]
    path = make_memory(tmp_path / "apart.sqlite", "1.0", nodes=rows, journal="DELETE")
    path.replace(source)
    with source.open("r+b") as file:
        size = int.from_bytes(file.read(18)[16:], "big")
        file.seek(source.stat().st_size // size // 2 * size)
        file.write(bytes(size))
    assert run(source, target) == ExitCode.QUARANTINED
    assert 120 < len(read_target(target).nodes) < 150


def test_blank_pages_of_a_table_of_the_users_own_keep_no_memory_back(source: Path, target: Path) -> None:
    """Whose they were, a page of it that is used nowhere does not say, so that any table may have lost rows."""
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
        connection.executemany("INSERT INTO notes (text) VALUES (?)", [(f"note {n} " * 100,) for n in range(90)])
    *gone, _, _ = [page.number for page in pages_of(source, "notes")]
    for number in gone:
        overwrite(source, number, bytes(PAGE))
    assert run(source, target, max_set_aside="10%") == ExitCode.QUARANTINED
    assert len(read_target(target).nodes) == 150


def test_pages_are_counted_past_sectors_that_cannot_be_read_and_until_a_stop(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, read = threading.Event(), os.pread

    def fails(file: int, size: int, at: int) -> bytes:
        if size > PAGE:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(file, size, at)

    looked = SourceFile(source, stop)
    nodes = survey(looked).nodes
    monkeypatch.setattr(os, "pread", fails)
    assert blank_pages.count_blank(looked, nodes, [(1, 5)]).blank == 0
    stop.set()
    with pytest.raises(StoppedError):
        blank_pages.count_blank(looked, nodes, [(1, 5)])


def test_a_broken_overflow_page_costs_its_own_row(pristine: Path, source: Path, target: Path) -> None:
    page = next(page for page in leaves(source) if page.overflows)
    overwrite(source, page.overflows[0], b"\xff" * 4)  # where the next page of the chain is named
    assert run(source, target) == ExitCode.QUARANTINED
    damaged = assert_accounted_for(pristine, source, target)
    assert len(damaged.by_id["memory_nodes"]) == 149


@pytest.mark.long
def test_a_broken_index_costs_no_row(pristine: Path, source: Path, target: Path) -> None:
    """SQLite's word on such a page does not say whose it is, so that the table as a whole may be listed."""
    overwrite(source, pages_of(source, "sqlite_autoindex_memory_turns_1")[-1].number)
    code = run(source, target)
    assert code in (ExitCode.COMPLETE, ExitCode.QUARANTINED)
    assert_as_it_should_end(pristine, source, target, code)
    entries = [(entry["table"], entry["part"], entry["id"]) for entry in read_quarantine(target)]
    assert entries in ([], [("memory_turns", "range", "any")])
    assert_same(pristine, target)


def test_a_broken_inner_page_costs_the_rows_below_it(tmp_path: Path, source: Path, target: Path) -> None:
    deepen(source)
    before = Path(shutil.copy(source, tmp_path / "before.sqlite"))
    inner = next(page for page in pages_of(source, "memory_nodes") if page.kind == INTERIOR_TABLE and page.depth)
    overwrite(source, inner.number)
    assert run(source, target) == ExitCode.QUARANTINED
    damaged = assert_accounted_for(before, source, target)
    assert 0 < len(damaged.by_id["memory_nodes"]) < len(read_source(before).nodes) - 10


def deepen(path: Path) -> None:
    """Add nodes until the tree has a level between its root and its leaves."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        insert(connection, "memory_nodes", (node(key, text="more " * 150) for key in range(151, 601)))
        connection.execute("COMMIT")


def test_without_the_root_of_the_nodes_nothing_is_made(pristine: Path, source: Path, target: Path) -> None:
    overwrite(source, pages_of(source, "memory_nodes")[0].number)
    assert run(source, target) == ExitCode.IO_ERROR
    assert_as_it_should_end(pristine, source, target, ExitCode.IO_ERROR)


@pytest.mark.sampled
@pytest.mark.parametrize("table", ["memory_edges", "memory_turns"])
def test_without_the_root_of_another_table_the_nodes_go_through(
    pristine: Path, source: Path, target: Path, table: str
) -> None:
    overwrite(source, pages_of(source, table)[0].number)
    assert run(source, target) == ExitCode.QUARANTINED
    assert_accounted_for(pristine, source, target)
    assert len(read_target(target).nodes) == 150


@pytest.mark.sampled
@pytest.mark.parametrize("table", ["memory_edges", "memory_turns"])
def test_a_broken_line_of_the_schema_costs_its_own_table(
    pristine: Path, source: Path, target: Path, table: str
) -> None:
    line = f"CREATE TABLE {table}".encode()
    source.write_bytes(source.read_bytes().replace(line, line.replace(b"memory", b"\xd0emory")))
    for _ in range(2):  # made, and made already
        assert run(source, target) == ExitCode.QUARANTINED
        assert listed(target) == [(table, "range", "any")]
    assert_accounted_for(pristine, source, target)
    there = read_target(target)
    assert (len(there.nodes), len(there.edges) + len(there.turns)) == (150, 100)


# In time


@pytest.mark.long
def test_rows_that_were_copied_before_their_page_broke_stay(pristine: Path, source: Path, target: Path) -> None:
    log = target.with_name("migration.log")
    interrupted(source, BatchLoaded, nth=2, target=target, log_file=log, batch_size=40, fixed_batch=True)
    broken = next(page for page in leaves(source) if page != leaves(source)[0])
    overwrite(source, broken.number)
    assert run(source, target) == ExitCode.QUARANTINED

    before = read_source(pristine)
    lost = set(before.nodes) - set(read_damaged(source, before).by_id["memory_nodes"])
    assert lost, "the page held rows"
    assert max(lost) <= 80, "and they were copied already"
    there, listed = read_target(target), Listed(target)
    for key, row in before.nodes.items():
        assert not differences("memory_nodes", key, there.nodes[key], row, there, listed)
    assert all(listed.lost("memory_nodes", key) for key in lost)
    assert set(there.nodes) == set(before.nodes)
    assert set(there.edges) == set(before.edges)
    assert set(there.turns) == set(before.turns)


@pytest.mark.long
def test_rows_that_were_copied_before_their_page_broke_are_not_set_aside_with_a_damaged_target(
    source: Path, target: Path
) -> None:
    """A target started over from what is left of the source would be complete by all accounts, and lack them."""
    log = target.with_name("migration.log")
    interrupted(source, BatchLoaded, nth=2, target=target, log_file=log, batch_size=40, fixed_batch=True)
    overwrite(source, leaves(source)[1].number)
    staging = beside(target, ".migrating")
    with target_opened(staging) as ask:
        ask("MATCH (n:MemoryNode {id: 1}) SET n.text = 'damaged'")
        copied = ask("MATCH (n:MemoryNode) RETURN count(*)")
    for _ in range(2):
        with pytest.raises(DifferenceError, match=r"memory_nodes id 1: text.* keep a copy of it") as caught:
            nimad.migrate(nimad.Settings(source=source, target=target, log_file=log), clock=Hurried())
        assert str(staging) in str(caught.value)
    assert not target.exists()
    assert left_behind(target) == [staging.name, *(staging.name + end for end in (".ledger", ".quarantine.jsonl"))]
    with target_opened(staging) as ask:
        assert ask("MATCH (n:MemoryNode) RETURN count(*)") >= copied


# What is said of it


def said_of(source: Path, target: Path, **settings: Any) -> tuple[nimad.Result, list[str]]:
    """Migrate; the figures, and every line for people."""
    heard: list[str] = []
    log = target.with_name("migration.log")
    wanted = nimad.Settings(source=source, target=target, log_file=log, **settings)
    result = nimad.migrate(wanted, lambda event: heard.extend(text for _, text in lines(event)), clock=Hurried())
    return result, heard


def test_ranges_that_cannot_be_read_are_counted_as_such_and_no_full_success_is_claimed(
    source: Path, target: Path
) -> None:
    for leaf in (leaves(source)[3], leaves(source)[12]):
        overwrite(source, leaf.number)
    result, said = said_of(source, target)
    there = len(read_target(target).nodes)
    first, second = (shown for table, part, shown in listed(target) if (table, part) == ("memory_nodes", "range"))
    assert (result.quarantined, result.quarantined_parts, result.unread_ranges) == tally_of(target)
    assert result.unread_nodes == 150 - there > 0
    assert result.success_rate == round(there / 1.5, 1) < 100
    assert f"Total nodes: {there}, and up to {150 - there} that cannot be read" in said
    assert f"Cannot be read: 2 id ranges of memory_nodes: {first}, {second}" in said
    assert f"Success rate: at least {there / 1.5:.1f}%" in said
    assert any(re.search(r"Quarantined: .* and 2 id ranges that cannot be read, listed in", line) for line in said)
    again = nimad.migrate(nimad.Settings(source=source, target=target, log_file=target.with_name("migration.log")))
    assert (again.outcome, again.exit_code, again.unread_ranges) == ("already complete", 1, 2)


def listed(target: Path) -> list[tuple[str, str, str]]:
    return [(entry["table"], entry["part"], entry["id"]) for entry in read_quarantine(target)]


def tally_of(target: Path) -> tuple[int, int, int]:
    """Whole rows, parts of rows and ranges in the quarantine file."""
    parts = [part for _, part, _ in listed(target)]
    rows, ranges = parts.count("row"), parts.count("range")
    return rows, len(parts) - rows - ranges, ranges


def test_where_nobody_knows_how_much_is_lost_no_rate_is_claimed(source: Path, target: Path) -> None:
    """The last page of a table has no id behind it that would bound what was lost."""
    overwrite(source, leaves(source)[-1].number)
    result, said = said_of(source, target)
    assert (result.unread_nodes, result.success_rate) == (None, None)
    assert "Success rate: unknown, because the number of unreadable nodes is unknown" in said
    assert any(line.endswith(", and an unknown number that cannot be read") for line in said)


def test_one_row_of_very_many_that_is_lost_is_not_rounded_away() -> None:
    result = nimad.Result(outcome=Outcome.COMPLETE, target="x", total_nodes=100_000, migrated=99_999)
    assert result.success_rate == 99.9


def test_tables_that_are_left_out_are_named_all_the_same(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
        connection.execute("INSERT INTO notes VALUES ('of the agent')")
    overwrite(source, leaves(source)[3].number)
    _, said = said_of(source, target)
    assert "Left out: notes (1 rows; not migrated)" in said


@pytest.mark.sampled
@pytest.mark.parametrize("is_damaged", [False, True])
@pytest.mark.parametrize(
    ("name", "broken", "told"),
    [
        (
            b"nima_pruner_runs",
            b"nima_pruner_\x80uns",
            "nima_pruner_\ufffduns (",
        ),
        (b"session_key", b"session_\xf8ey", "memory_nodes.session_\ufffdey ("),
    ],
    ids=["a table", "a column"],
)
def test_a_name_that_is_no_text_costs_no_memory(
    pristine: Path, source: Path, target: Path, is_damaged: bool, name: bytes, broken: bytes, told: str
) -> None:
    source.write_bytes(source.read_bytes().replace(name, broken))
    if is_damaged:
        overwrite(source, leaves(source)[3].number)
    result, said = said_of(source, target)
    assert result.exit_code == (ExitCode.QUARANTINED if is_damaged else ExitCode.COMPLETE)
    assert any(line.startswith(f"Left out: {told}") for line in said)
    assert_accounted_for(pristine, source, target)


# A dry run


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_dry_run_of_a_damaged_memory_foretells_what_a_real_run_does(
    source: Path, target: Path, temporary: Path
) -> None:
    for leaf in (leaves(source)[3], leaves(source)[12]):
        overwrite(source, leaf.number)
    before = contents(source.parent)
    result, said = said_of(source, target, dry_run=True)
    assert result.exit_code == ExitCode.COMPLETE
    assert contents(source.parent) == before
    assert (contents(target.parent), contents(temporary)) == ({}, {})
    assert sum(line.startswith("Cannot be read: memory_nodes id ") for line in said) == 2
    (foretold,) = [line for line in said if line.startswith("Would be quarantined: ") and "cannot be read" in line]
    _, came = said_of(source, target)
    assert any(line.startswith(foretold.replace("Would be q", "Q") + ", listed in ") for line in came)


def test_a_dry_run_without_room_for_temporary_files_says_what_a_real_run_does(
    source: Path, target: Path, temporary: Path
) -> None:
    overwrite(source, leaves(source)[3].number)
    temporary.rmdir()
    with pytest.raises(SourceDamagedError) as caught:
        said_of(source, target, dry_run=True)
    assert caught.value.exit_code == ExitCode.IO_ERROR
    assert "a real run copies what can be read and lists the rest" in str(caught.value)
    assert "TMPDIR=FOLDER" in str(caught.value)
    assert contents(target.parent) == {}


def test_a_damaged_memory_is_named_once(source: Path, target: Path) -> None:
    """What SQLite says of it is quoted, and not our own explanation of that, with its own advice."""
    source.write_bytes(source.read_bytes()[:100] + b"\xff" * PAGE + source.read_bytes()[100 + PAGE :])
    with pytest.raises(NimadError) as caught:
        said_of(source, target, dry_run=True)
    assert str(caught.value).startswith(f"{source} is damaged")
    assert str(caught.value).count("is damaged") == 1
    explanation = str(caught.value).partition(" with: ")[0]  # then come commands, which name it too
    assert explanation.count(str(source)) <= 2
