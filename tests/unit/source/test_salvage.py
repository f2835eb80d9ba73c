"""Damaged pages: a row that SQLite still yields is copied as it is, any other lies in a range that is named.

The oracle reads the damaged file with sqlite3 alone; which page holds what, the tests read from the bytes.
"""

import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support.memories import edge, make_memory, node, turn
from test_bad_input import everything_in

from nimad.errors import CannotWriteError, SourceDamagedError, SourceError
from nimad.sample import SHAPES, Sample, write_sample
from nimad.source import salvage as module
from nimad.source import schema as s
from nimad.source.quick_check import damage, unclaimed
from nimad.source.ranges import FIRST_KEY, LAST_KEY
from nimad.source.salvage import SalvagedRows, salvage
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import survey

TABLES = ("memory_nodes", "memory_edges", "memory_turns")
Ranges = list[tuple[int, int]]

# The bytes of an SQLite file (sqlite.org/fileformat.html, 1.6)

INDEX_INNER, INNER, LEAF = 2, 5, 13


@dataclass
class Pages:
    """A memory's bytes, page by page, to be looked into and damaged."""

    data: bytearray

    @classmethod
    def of(cls, path: Path) -> "Pages":
        return cls(bytearray(path.read_bytes()))

    @property
    def size(self) -> int:
        return int.from_bytes(self.data[16:18], "big")

    def number(self, at: int, length: int) -> int:
        return int.from_bytes(self.data[at : at + length], "big")

    def varint(self, at: int) -> tuple[int, int]:
        """A number of seven bits a byte, and where it ends; none here is long enough to have a ninth byte."""
        value = 0
        while True:
            value = value << 7 | self.data[at] & 0x7F
            at += 1
            if self.data[at - 1] < 0x80:
                return value, at

    def start(self, page: int) -> int:
        return (page - 1) * self.size

    def cells(self, page: int) -> list[int]:
        """Where each cell of a page begins."""
        start = self.start(page)
        head = start + (12 if self.data[start] in (INNER, INDEX_INNER) else 8)
        return [start + self.number(head + 2 * n, 2) for n in range(self.number(start + 3, 2))]

    def children(self, page: int) -> list[int]:
        """The pointers of an inner page, as places in the file."""
        return [*self.cells(page), self.start(page) + 8]

    def tree(self, page: int) -> Iterator[int]:
        """The pages of a table in the order of their ids."""
        yield page
        if self.data[self.start(page)] == INNER:
            for at in self.children(page):
                yield from self.tree(self.number(at, 4))

    def leaves(self, page: int) -> list[int]:
        return [leaf for leaf in self.tree(page) if self.data[self.start(leaf)] == LEAF]

    def ids(self, page: int) -> list[int]:
        """The ids of a leaf, or of all leaves below an inner page."""
        return [self.varint(self.varint(cell)[1])[0] for leaf in self.leaves(page) for cell in self.cells(leaf)]

    def leaf_of(self, root: int, row_id: int) -> int:
        return next(leaf for leaf in self.leaves(root) if row_id in self.ids(leaf))

    def id_at(self, page: int, row_id: int) -> int:
        """Where a leaf holds this id."""
        return next(at for cell in self.cells(page) if self.varint(at := self.varint(cell)[1])[0] == row_id)

    def overflow_at(self, cell: int) -> int:
        """Where a leaf's cell has the number of the page on which it goes on."""
        payload, at = self.varint(cell)
        _, at = self.varint(at)
        smallest = (self.size - 12) * 32 // 255 - 23
        local = smallest + (payload - smallest) % (self.size - 4)
        return at + (local if local <= self.size - 35 else smallest)

    def zero(self, page: int) -> None:
        self.write(self.start(page), bytes(self.size))

    def write(self, at: int, data: bytes) -> None:
        self.data[at : at + len(data)] = data

    def save(self, path: Path) -> Path:
        path.write_bytes(self.data)
        return path


def root_of(path: Path, name: str) -> int:
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    return int(root)


# Memories


def plain(path: Path) -> Path:
    """Small pages, so that there are many, and a tree of three levels. One id in 30 is gone."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA page_size = 512")
        connection.execute("PRAGMA user_version = 1")  # the file begins to be
    ids = [number for number in range(1, 1_500) if number % 30]
    return make_memory(
        path,
        nodes=[node(number, summary="x" * 200 if number % 7 == 0 else None) for number in ids],
        edges=[edge(number, number, number + 1) for number in range(1, 600)],
        turns=[turn(number, number) for number in range(1, 600)],
    )


def long_texts(path: Path) -> Path:
    texts = {number: "word " * (4_000 if number % 5 == 0 else 20) for number in range(1, 200)}
    return make_memory(path, nodes=[node(number, text=text) for number, text in texts.items()])


def sampled(path: Path) -> Path:
    write_sample(path, Sample(nodes=600, dimension=32))
    return path


@pytest.fixture(scope="module")
def memories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("memories")
    return {make.__name__: make(folder / f"{make.__name__}.sqlite") for make in (plain, long_texts, sampled)}


@pytest.fixture
def pages(memories: dict[str, Path]) -> Pages:
    return Pages.of(memories["plain"])


@pytest.fixture
def nodes(memories: dict[str, Path]) -> int:
    return root_of(memories["plain"], "memory_nodes")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "graph.sqlite"


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "salvaged.sqlite"


# The oracle


def opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    connection.text_factory = lambda raw: ("text", raw)  # told from a blob, valid or not
    return connection


def asked(connection: sqlite3.Connection, query: str, *values: Any) -> str | None:
    """A row as text, which tells 1 from 1.0; "unreadable" when SQLite says so."""
    try:
        row = connection.execute(query, values).fetchone()
    except (sqlite3.DatabaseError, MemoryError, OverflowError):
        return "unreadable"
    return None if row is None else repr(row)


def by_id(connection: sqlite3.Connection, table: str, row_id: int) -> str | None:
    return asked(connection, f"SELECT * FROM {table} NOT INDEXED WHERE id = ?", row_id)


def in_order(connection: sqlite3.Connection, table: str, start: int) -> Iterator[str]:
    """The rows that stand behind an id, whatever theirs are, up to the first broken page."""
    part = f"FROM {table} NOT INDEXED WHERE id >= ? ORDER BY id LIMIT 1 OFFSET ?"
    place = 0
    while asked(connection, f"SELECT id {part}", start, place) not in (None, "unreadable"):
        yield str(asked(connection, f"SELECT * {part}", start, place))
        place += 1


def rows_of(path: Path, table: str) -> dict[int, str]:
    with closing(opened(path)) as connection:
        return {row[0]: repr(row) for row in connection.execute(f"SELECT * FROM {table}")}


def check(damaged: Path, pristine: Path, to: Path) -> SalvagedRows:
    """Salvage, and compare the copy with what sqlite3 gives for each id of the pristine memory."""
    salvaged = salvage(SourceFile(damaged), to)
    for table in TABLES:
        if table not in salvaged.rows:
            assert salvaged.lost[table] == [(FIRST_KEY, LAST_KEY)]
            continue
        copied = rows_of(to, table)
        assert salvaged.rows[table] == len(copied)
        check_table(damaged, table, rows_of(pristine, table), copied, salvaged)
    return salvaged


def check_table(
    damaged: Path, table: str, pristine: dict[int, str], copied: dict[int, str], salvaged: SalvagedRows
) -> None:
    lost = salvaged.lost.get(table, ())
    assert_apart(list(lost))
    with closing(opened(damaged)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        for row_id in pristine.keys() | copied.keys():
            is_lost = any(first <= row_id <= last for first, last in lost)
            found = by_id(connection, table, row_id)
            if found in (None, "unreadable"):
                assert is_lost != (row_id in copied), f"{table} {row_id}"
            else:
                assert copied.get(row_id) == found, f"{table} {row_id}"
                assert not is_lost, f"{table} {row_id} can be read"
        not_found = {row_id for row_id, row in copied.items() if by_id(connection, table, row_id) != row}
        assert not_found == set(salvaged.odd.get(table, ()))
        starts = [FIRST_KEY, *(last + 1 for _, last in lost if last < LAST_KEY)] if not_found else []
        seen = {row for start in starts for row in in_order(connection, table, start)}
        assert {copied[row_id] for row_id in not_found} <= seen


def assert_apart(ranges: Ranges) -> None:
    assert all(first <= last for first, last in ranges)
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(ranges))


def whole_leaf(pages: Pages, leaves: Sequence[int], index: int) -> tuple[int, int]:
    """The ids that may have been on a leaf, by those on the leaves beside it."""
    first = pages.ids(leaves[index - 1])[-1] + 1 if index else FIRST_KEY
    last = pages.ids(leaves[index + 1])[0] - 1 if index + 1 < len(leaves) else LAST_KEY
    return first, last


# Damage at random


def damage_at_random(pages: Pages, random: Random, first_page: int) -> None:
    how = random.choice(("zero", "noise", "bytes", "bytes", "bits"))
    for page in random.sample(range(first_page, len(pages.data) // pages.size + 1), random.choice((1, 2, 4, 8))):
        start = pages.start(page)
        if how == "zero":
            pages.zero(page)
        elif how == "noise":
            pages.write(start, random.randbytes(pages.size))
        elif how == "bytes":
            for _ in range(10):
                pages.write(start + random.randrange(pages.size), random.randbytes(1))
        else:
            for _ in range(4):
                pages.data[start + random.randrange(pages.size)] ^= 1 << random.randrange(8)


@pytest.mark.parametrize("seed", range(48))
def test_whatever_pages_are_damaged_no_row_is_lost_without_a_word(
    memories: dict[str, Path], seed: int, path: Path, to: Path
) -> None:
    pristine = memories[sorted(memories)[seed % 3]]
    pages = Pages.of(pristine)
    damage_at_random(pages, Random(seed), first_page=2)
    check(pages.save(path), pristine, to)


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_schema_ends_in_a_copy_or_in_an_error(
    memories: dict[str, Path], seed: int, path: Path, to: Path
) -> None:
    pages = Pages.of(memories["sampled"])
    random = Random(seed)
    for _ in range(1 + seed % 4):
        pages.write(random.randrange(100, pages.size), random.randbytes(1))
    pages.save(path)
    try:
        salvaged = salvage(SourceFile(path), to)
    except SourceError:
        assert not to.exists()
        return
    assert salvaged.rows["memory_nodes"] == len(rows_of(to, "memory_nodes")) > 0


# Damage in one place


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("index", [0, 7, -1], ids=["first", "middle", "last"])
def test_a_broken_leaf_costs_the_ids_that_were_on_it(
    memories: dict[str, Path], table: str, index: int, path: Path, to: Path
) -> None:
    pages = Pages.of(memories["plain"])
    leaves = pages.leaves(root_of(memories["plain"], table))
    expected = whole_leaf(pages, leaves, index % len(leaves))
    ids = pages.ids(leaves[index])
    pages.zero(leaves[index])
    salvaged = check(pages.save(path), memories["plain"], to)

    assert salvaged.lost == {table: [expected]}
    assert set(rows_of(to, table)) == set(rows_of(memories["plain"], table)) - set(ids)
    assert (salvaged.odd, list(salvaged.rejects)) == ({}, [])


def test_a_broken_inner_page_costs_the_ids_below_it(
    memories: dict[str, Path], pages: Pages, nodes: int, path: Path, to: Path
) -> None:
    inner = [pages.number(at, 4) for at in pages.children(nodes)]
    assert pages.data[pages.start(inner[1])] == INNER
    expected = whole_leaf(pages, inner, 1)
    assert expected[1] - expected[0] > 100
    pages.zero(inner[1])
    assert check(pages.save(path), memories["plain"], to).lost == {"memory_nodes": [expected]}


def test_a_broken_overflow_page_costs_one_row(memories: dict[str, Path], path: Path, to: Path) -> None:
    pages = Pages.of(memories["long_texts"])
    leaf = pages.leaf_of(root_of(memories["long_texts"], "memory_nodes"), 100)
    cell = pages.cells(leaf)[pages.ids(leaf).index(100)]
    pages.zero(pages.number(pages.overflow_at(cell), 4))
    assert check(pages.save(path), memories["long_texts"], to).lost == {"memory_nodes": [(100, 100)]}

    pages = Pages.of(memories["long_texts"])
    pages.write(pages.overflow_at(cell), b"\xff\xff\xff\xff")
    to.unlink()
    assert check(pages.save(path), memories["long_texts"], to).lost == {"memory_nodes": [(100, 100)]}


def test_many_rows_that_cannot_be_read_take_no_longer_than_others(tmp_path: Path, path: Path, to: Path) -> None:
    rows = (node(number, text="long " * 1_000) for number in range(1, 2_001))
    pristine = make_memory(tmp_path / "pristine.sqlite", nodes=rows)
    pages = Pages.of(pristine)
    for leaf in pages.leaves(root_of(pristine, "memory_nodes")):
        for cell in pages.cells(leaf)[1:]:
            pages.write(pages.overflow_at(cell), bytes(4))
    salvaged = salvage(SourceFile(pages.save(path)), to)
    lost = sum(last - first + 1 for first, last in salvaged.lost["memory_nodes"])
    assert (salvaged.rows["memory_nodes"] + lost, lost > 500) == (2_000, True)


@pytest.mark.parametrize("wrong", [90, 1_380, 16_000], ids=["below", "above", "far above"])
def test_a_row_whose_id_is_wrong_keeps_it_when_no_other_has_it(
    memories: dict[str, Path], pages: Pages, nodes: int, wrong: int, path: Path, to: Path
) -> None:
    leaf = pages.leaf_of(nodes, 700)
    at = pages.id_at(leaf, 700)
    pages.write(at, bytes([wrong >> 7 | 0x80, wrong & 0x7F]))
    salvaged = check(pages.save(path), memories["plain"], to)

    assert (700, 700) in salvaged.lost["memory_nodes"]
    assert wrong in salvaged.odd["memory_nodes"]
    assert rows_of(to, "memory_nodes")[wrong] == rows_of(memories["plain"], "memory_nodes")[700].replace(
        "(700,", f"({wrong},", 1
    )


@pytest.mark.parametrize("wrong", [101, 1_400], ids=["below", "above"])
def test_a_row_whose_id_is_anothers_is_handed_back_whole(
    memories: dict[str, Path], pages: Pages, nodes: int, wrong: int, path: Path, to: Path
) -> None:
    leaf = pages.leaf_of(nodes, 700)
    pages.write(pages.id_at(leaf, 700), bytes([wrong >> 7 | 0x80, wrong & 0x7F]))
    salvaged = check(pages.save(path), memories["plain"], to)

    assert (700, 700) in salvaged.lost["memory_nodes"]
    (reject,) = salvaged.rejects
    assert (reject.table, reject.id, reject.part, reject.reason) == (
        *("memory_nodes", wrong, "row"),
        "another row has the same id",
    )
    assert reject.row["text"] == "memory 700"
    assert rows_of(to, "memory_nodes")[wrong] == rows_of(memories["plain"], "memory_nodes")[wrong]


@pytest.mark.parametrize("instead", [3, 30], ids=["an earlier one", "a later one"])
def test_a_pointer_to_another_leaf_costs_the_ids_of_the_right_one(
    memories: dict[str, Path], pages: Pages, nodes: int, instead: int, path: Path, to: Path
) -> None:
    inner = pages.number(pages.children(nodes)[1], 4)
    leaves = [pages.number(at, 4) for at in pages.children(inner)]
    expected = whole_leaf(pages, leaves, 10)
    pages.write(pages.children(inner)[10], leaves[instead].to_bytes(4, "big"))
    salvaged = check(pages.save(path), memories["plain"], to)

    assert expected in [(first, last) for first, last in salvaged.lost["memory_nodes"]]
    assert set(rows_of(to, "memory_nodes")) == set(rows_of(memories["plain"], "memory_nodes")) - set(
        Pages.of(memories["plain"]).ids(leaves[10])
    )


def test_pages_that_run_in_circles_come_to_an_end(
    memories: dict[str, Path], pages: Pages, nodes: int, path: Path, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REPEATS", 5_000)
    inner = pages.number(pages.children(nodes)[1], 4)
    for at in pages.children(inner)[5:9]:
        pages.write(at, nodes.to_bytes(4, "big"))
    check(pages.save(path), memories["plain"], to)


def test_ids_far_apart_and_below_zero_are_found_again(tmp_path: Path, path: Path, to: Path) -> None:
    far = [-(2**62), -5, *range(1, 400), 10**6, *range(10**12, 10**12 + 400, 2), 2**62, LAST_KEY]
    pristine = make_memory(tmp_path / "pristine.sqlite", nodes=[node(number) for number in far])
    root = root_of(pristine, "memory_nodes")
    whole = Pages.of(pristine)
    leaves = whole.leaves(root)
    for index, leaf in enumerate(leaves):
        pages = Pages.of(pristine)
        pages.zero(leaf)
        to.unlink(missing_ok=True)
        lost = check(pages.save(path), pristine, to).lost["memory_nodes"]
        assert lost == [whole_leaf(whole, leaves, index)]


def test_one_row_alone_at_the_far_end_is_found(tmp_path: Path, path: Path, to: Path) -> None:
    long = "x" * 3_000  # one row a leaf
    pristine = make_memory(tmp_path / "pristine.sqlite", nodes=[node(n, text=long) for n in (1, 2, 3, 2**61 + 12_345)])
    pages = Pages.of(pristine)
    leaves = pages.leaves(root_of(pristine, "memory_nodes"))
    pages.zero(leaves[2])
    assert check(pages.save(path), pristine, to).lost == {"memory_nodes": [(3, 2**61 + 12_344)]}


def test_a_table_of_which_nothing_reads_is_lost_from_end_to_end(
    memories: dict[str, Path], pages: Pages, path: Path, to: Path
) -> None:
    pages.zero(root_of(memories["plain"], "memory_edges"))
    salvaged = check(pages.save(path), memories["plain"], to)
    assert salvaged.lost == {"memory_edges": [(FIRST_KEY, LAST_KEY)]}
    assert (salvaged.rows["memory_edges"], salvaged.rows["memory_turns"]) == (0, 599)


def test_a_table_whose_schema_cannot_be_read_is_lost_and_not_forgotten(pages: Pages, path: Path, to: Path) -> None:
    at = pages.data.index(b"CREATE TABLE memory_edges")
    pages.write(at, b"CREATE TABLE (")
    salvaged = salvage(SourceFile(pages.save(path)), to)
    assert salvaged.lost == {"memory_edges": [(FIRST_KEY, LAST_KEY)]}
    assert salvaged.rows == {"memory_nodes": 1_450, "memory_turns": 599}


@pytest.mark.parametrize("what", ["the nodes' root", "the schema", "the nodes' line in the schema"])
def test_where_no_node_can_be_read_it_says_so_and_leaves_nothing(
    memories: dict[str, Path], what: str, path: Path, to: Path
) -> None:
    pages = Pages.of(memories["sampled"])
    if what == "the nodes' root":
        pages.zero(root_of(memories["sampled"], "memory_nodes"))
    elif what == "the schema":
        pages.write(100, bytes(pages.size - 100))
    else:
        pages.write(pages.data.index(b"CREATE TABLE memory_nodes"), b"CREATE TABLE (")
    with pytest.raises(
        SourceDamagedError, match=r"graph\.sqlite is damaged .*; restore a backup of it, .*: cp .*\.recover"
    ):
        salvage(SourceFile(pages.save(path)), to)
    assert not to.exists()


def test_of_a_file_that_is_cut_the_front_is_saved(
    memories: dict[str, Path], pages: Pages, path: Path, to: Path
) -> None:
    del pages.data[len(pages.data) // 2 // pages.size * pages.size :]
    salvaged = check(pages.save(path), memories["plain"], to)
    assert 300 < salvaged.rows["memory_nodes"] < 1_450


def test_rows_that_a_writer_has_in_its_log_are_there(memories: dict[str, Path], path: Path, to: Path) -> None:
    pages = Pages.of(memories["sampled"])
    leaf = [*pages.tree(root_of(memories["sampled"], "memory_edges"))][3]
    pages.zero(leaf)
    pages.save(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("INSERT INTO memory_nodes (id, text) VALUES (5000, 'late')")
        salvaged = salvage(SourceFile(path), to)
        assert path.with_name(path.name + "-wal").stat().st_size > 0
    assert "late" in rows_of(to, "memory_nodes")[5_000]
    assert len(salvaged.lost["memory_edges"]) == 1


# The copy


class TwiceRead(SourceFile):
    """As when the source changes while it is read."""

    def read(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        super().read(work)
        return super().read(work)


def test_the_source_is_only_read_and_the_copy_is_private_and_new(
    pages: Pages, nodes: int, tmp_path: Path, to: Path
) -> None:
    folder = tmp_path / "memory"
    folder.mkdir()
    pages.zero([*pages.tree(nodes)][20])
    path = pages.save(folder / "graph.sqlite")
    before = everything_in(folder)
    first = salvage(SourceFile(path), to)
    assert everything_in(folder) == before
    assert stat.S_IMODE(to.stat().st_mode) == 0o600
    assert [name.name for name in tmp_path.iterdir()].count(to.name) == 1
    assert {piece.name for piece in tmp_path.iterdir()} == {"memory", to.name}

    with pytest.raises(CannotWriteError, match=r"salvaged\.sqlite cannot be made"):
        salvage(SourceFile(path), to)
    to.unlink()
    to.symlink_to(folder / "elsewhere.sqlite")
    with pytest.raises(CannotWriteError):
        salvage(SourceFile(path), to)
    to.unlink()
    assert salvage(TwiceRead(path), to) == first


def test_values_keep_their_type_and_every_bit(tmp_path: Path, to: Path) -> None:
    odd: list[Any] = [
        None,
        7,
        -(2**63),
        0.1,
        -0.0,
        1e300,
        float("inf"),
        "7",
        "0.50",
        "a\x00b",
        "",
        b"",
        b"\xff7",
        "größe",
    ]
    pristine = make_memory(
        tmp_path / "pristine.sqlite",
        schema=[f"ALTER TABLE memory_nodes ADD COLUMN {name}" for name in ("free", "real REAL", "number NUMERIC")],
        nodes=[
            node(n, text=value, fe_score=value, timestamp=value, embedding=value, free=value, real=value, number=value)
            for n, value in enumerate(odd, start=1)
        ],
    )
    with closing(sqlite3.connect(pristine, isolation_level=None)) as connection:
        connection.execute(
            "INSERT INTO memory_nodes (id, text, free) VALUES (50, CAST(x'ff41' AS TEXT), CAST(x'fe' AS TEXT))"
        )
    salvage(SourceFile(pristine), to)
    assert rows_of(to, "memory_nodes") == rows_of(pristine, "memory_nodes")


def test_a_value_that_its_columns_type_would_change_is_not_changed(tmp_path: Path, to: Path) -> None:
    columns = "id INTEGER PRIMARY KEY, any ANY, text TEXT"
    pristine = make_memory(
        tmp_path / "pristine.sqlite",
        own_schema=True,
        schema=[f"CREATE TABLE memory_nodes ({columns}) STRICT"],
        nodes=[{"id": 1, "any": "007", "text": "x"}, {"id": 2, "any": 1.0, "text": "7"}],
    )
    salvage(SourceFile(pristine), to)
    assert rows_of(to, "memory_nodes") == rows_of(pristine, "memory_nodes")


KEYS = {
    "id INTEGER PRIMARY KEY": "id",
    "ID integer primary key autoincrement": "ID",
    "id INTEGER PRIMARY KEY DESC": "id",
    "id TEXT PRIMARY KEY": "id",
    "id INT": "id",
    "number INTEGER PRIMARY KEY": "rowid",
    "note TEXT": "rowid",
    "rowid TEXT, note TEXT": "_rowid_",
}


@pytest.mark.parametrize("columns", KEYS)
def test_each_kind_of_key_and_column_is_the_same_table_again(tmp_path: Path, columns: str, to: Path) -> None:
    more = (
        'text TEXT NOT NULL DEFAULT \'-\', embedding BLOB UNIQUE, "odd ""name""" VARCHAR(20), seen DATETIME, '
        "free, mixed, "
        "fe_score REAL CHECK (fe_score < 1), parent INTEGER REFERENCES memory_nodes, "
        "size INTEGER GENERATED ALWAYS AS (length(text)) STORED"
    )
    schema = [f"CREATE TABLE memory_nodes ({columns}, {more})", "CREATE INDEX by_text ON memory_nodes (text)"]
    rows = [{"text": f"memory {n}", "seen": n, "free": n, "mixed": "x" if n % 2 else n} for n in range(1, 300)]
    pristine = make_memory(tmp_path / "pristine.sqlite", own_schema=True, schema=schema, nodes=rows)
    salvaged = salvage(SourceFile(pristine), to)

    assert (salvaged.rows, salvaged.lost) == ({"memory_nodes": 299}, {})
    tables = [SourceFile(path).read(lambda c: s.read_table(c, s.NODES, s.NODE_KINDS)) for path in (pristine, to)]
    assert tables[0] is not None
    assert tables[0].key == KEYS[columns]
    assert tables[0] == tables[1]
    contents = []
    for path in (pristine, to):
        with closing(opened(path)) as connection:
            contents.append(
                [repr(row) for row in connection.execute("SELECT _rowid_, * FROM memory_nodes NOT INDEXED")]
            )
    assert contents[0] == contents[1]


@pytest.mark.parametrize("shape", SHAPES)
def test_each_released_shape_is_the_same_memory_again(tmp_path: Path, shape: str, to: Path) -> None:
    write_sample(tmp_path / "graph.sqlite", Sample(nodes=50, shape=shape, dimension=8))
    salvage(SourceFile(tmp_path / "graph.sqlite"), to)
    assert survey(SourceFile(to)).schema == survey(SourceFile(tmp_path / "graph.sqlite")).schema
    assert survey(SourceFile(to)).tables == survey(SourceFile(tmp_path / "graph.sqlite")).tables


def test_without_an_integer_primary_key_what_is_lost_has_rowids(tmp_path: Path, path: Path, to: Path) -> None:
    schema = ["CREATE TABLE memory_nodes (id TEXT PRIMARY KEY, text TEXT)"]
    rows = [{"id": f"n{n}", "text": f"memory {n} " * 5} for n in range(1, 500)]
    pristine = make_memory(tmp_path / "pristine.sqlite", own_schema=True, schema=schema, nodes=rows)
    pages = Pages.of(pristine)
    leaves = pages.leaves(root_of(pristine, "memory_nodes"))
    expected = whole_leaf(pages, leaves, 2)
    pages.zero(leaves[2])
    pages.zero(root_of(pristine, "sqlite_autoindex_memory_nodes_1"))
    salvaged = salvage(SourceFile(pages.save(path)), to)

    assert salvaged.lost == {"memory_nodes": [expected]}
    with closing(opened(to)) as connection:
        kept = [row for (row,) in connection.execute("SELECT rowid FROM memory_nodes")]
    assert kept == [n for n in range(1, 500) if not expected[0] <= n <= expected[1]]


@pytest.mark.parametrize("key", ["id INTEGER PRIMARY KEY", "name TEXT PRIMARY KEY"])
def test_a_table_without_rowids_is_read_from_both_ends(tmp_path: Path, path: Path, to: Path, key: str) -> None:
    schema = [f"CREATE TABLE memory_nodes ({key}, text TEXT) WITHOUT ROWID"]
    name = key.split(maxsplit=1)[0]
    rows = [{name: n if name == "id" else f"n{n:04}", "text": f"memory {n} " * 30} for n in range(1, 200)]
    pristine = make_memory(tmp_path / "p.sqlite", own_schema=True, schema=schema, nodes=rows)
    assert salvage(SourceFile(pristine), tmp_path / "whole").lost == {}
    pages = Pages.of(pristine)
    inner = pages.number(pages.children(root_of(pristine, "memory_nodes"))[0], 4)
    leaf = pages.number(pages.children(inner)[3], 4)
    pages.zero(leaf)
    salvaged = salvage(SourceFile(pages.save(path)), to)

    assert salvaged.lost == {"memory_nodes": [(FIRST_KEY, LAST_KEY)]}
    with closing(sqlite3.connect(to)) as connection:
        kept = [text for (text,) in connection.execute(f"SELECT text FROM memory_nodes ORDER BY {name}")]
    texts = [row["text"] for row in rows]
    assert 150 < len(kept) < 199
    assert (kept[0], kept[-1]) == (texts[0], texts[-1])
    assert set(kept) < set(texts)


def test_rows_that_a_constraint_forbids_are_kept(memories: dict[str, Path], path: Path, to: Path) -> None:
    path.write_bytes(memories["plain"].read_bytes())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        for name, constraint in {"layer": "UNIQUE", "who": "NOT NULL", "text": "CHECK (text IS NULL)"}.items():
            connection.execute(
                "UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name = 'memory_nodes'",
                (f"{name} TEXT", f"{name} TEXT {constraint}"),
            )
    assert salvage(SourceFile(path), to).rows["memory_nodes"] == 1_450
    assert rows_of(to, "memory_nodes") == rows_of(memories["plain"], "memory_nodes")


# What is found wrong


def found(path: Path) -> list[str]:
    schema = survey(SourceFile(path)).schema
    return damage(SourceFile(path), schema)


@pytest.mark.parametrize("name", ["plain", "long_texts", "sampled"])
def test_a_whole_memory_has_no_damage(memories: dict[str, Path], name: str) -> None:
    assert (found(memories[name]), unclaimed(SourceFile(memories[name]))) == ([], [])


@pytest.mark.parametrize("index", [0, 1, 7, -1])
def test_a_broken_page_is_damage_of_its_table(memories: dict[str, Path], index: int, path: Path) -> None:
    schema = survey(SourceFile(memories["plain"])).schema
    pages = Pages.of(memories["plain"])
    pages.zero([*pages.tree(root_of(memories["plain"], "memory_turns"))][index])
    lines = damage(SourceFile(pages.save(path)), schema)
    assert lines
    assert all(line.startswith("memory_turns: ") for line in lines)


def test_a_broken_index_is_damage_and_costs_no_row(memories: dict[str, Path], path: Path, to: Path) -> None:
    schema = survey(SourceFile(memories["plain"])).schema
    pages = Pages.of(memories["plain"])
    index = root_of(memories["plain"], "sqlite_autoindex_memory_turns_1")
    pages.zero(pages.number(pages.children(index)[1], 4))
    assert damage(SourceFile(pages.save(path)), schema)[0].startswith("memory_turns: ")
    salvaged = check(path, memories["plain"], to)
    assert (salvaged.lost, salvaged.rows["memory_turns"]) == ({}, 599)


def test_a_broken_full_text_index_is_no_damage(memories: dict[str, Path], path: Path) -> None:
    pages = Pages.of(memories["sampled"])
    pages.zero(root_of(memories["sampled"], "memory_fts_data"))
    assert found(pages.save(path)) == []


def test_a_value_that_a_check_forbids_is_no_damage(path: Path) -> None:
    make_memory(path, "1.0", nodes=[node(1)], schema=["PRAGMA ignore_check_constraints = ON"])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE memory_nodes SET layer = 'dream'")
        assert connection.execute("PRAGMA ignore_check_constraints = OFF")
        assert "CHECK" in connection.execute("PRAGMA quick_check").fetchone()[0]
    assert found(path) == []


def test_a_table_overwritten_with_a_page_of_another_is_seen_in_the_file_only(
    pages: Pages, nodes: int, path: Path, to: Path
) -> None:
    """SQLite takes the one page for the whole table, and no error tells that the others ever were there."""
    leaf = [*pages.tree(nodes)][5]
    pages.write(pages.start(nodes), bytes(pages.data[pages.start(leaf) : pages.start(leaf) + pages.size]))
    assert found(pages.save(path)) == []
    assert any("never used" in line for line in unclaimed(SourceFile(path)))
    assert salvage(SourceFile(path), to).lost == {}


@pytest.mark.parametrize("index", [0, 1, 7, -1], ids=["root", "inner", "middle", "last"])
def test_rows_that_a_page_denies_are_lost_although_there_is_no_error(
    memories: dict[str, Path], pages: Pages, nodes: int, index: int, path: Path, to: Path
) -> None:
    page = [*pages.tree(nodes)][index]
    pages.write(pages.start(page) + 3, (len(pages.cells(page)) // 2).to_bytes(2, "big"))
    denied = set(rows_of(memories["plain"], "memory_nodes")) - set(rows_of(pages.save(path), "memory_nodes"))
    salvaged = check(path, memories["plain"], to)

    ((first, last),) = salvaged.lost["memory_nodes"]
    assert first <= min(denied) <= max(denied) <= last
    assert (last == LAST_KEY) == (index == -1)
