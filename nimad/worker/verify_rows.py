"""Verification of every row and column of the target against SQLite.

Both sides are read anew, range by range, and compared value for value (floats of embeddings bit for bit), which
says more than a checksum would at the same cost: both sides have to be read for either. What SQLite gave is
compared as it is, without the conversion that loading used, so a conversion that cut something cannot hide.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nimad.source import rows as source_rows
from nimad.source.ranges import Range
from nimad.source.rows import ConvertedRows, Reject, Rows
from nimad.source.schema import EDGES, NODES, TARGET_TABLES, TURNS, Schema, Table, ValueKind
from nimad.source.sqlite_file import SourceFile
from nimad.state import ledger, quarantine
from nimad.target import copy_rows, parameters, read_back
from nimad.target.database import Database
from nimad.worker import convert
from nimad.worker.protocol import Job

#: How many contradictions an answer names; the number of them is always whole.
NAMED_DAMAGES = 100
#: How many values that differ it names at most, to be written again.
NAMED_VALUES = 10_000

_Keys = Range | Sequence[int]


@dataclass
class VerifyFindings:
    """What a verification found, by the source's table names. Rows are named by key."""

    compared: dict[str, int] = field(default_factory=dict)
    changed: dict[str, list[int]] = field(default_factory=dict)  # the source changed them since they were copied
    missing: dict[str, list[int]] = field(default_factory=dict)  # in the source, not in the target
    removed: dict[str, list[int]] = field(default_factory=dict)  # copied, and since deleted from the source
    damaged: list[tuple[str, int, str]] = field(default_factory=list)  # table, id, what contradicts itself
    wrong: list[tuple[str, int, str]] = field(default_factory=list)  # table, id, column of the target
    quarantine: Path | None = None
    rejected: list[str] = field(default_factory=list)  # keys of the quarantine's lines
    salvaged: bool = False  # the source lacks rows that it may once have had

    def set_aside(self, rejects: Sequence[Reject]) -> None:
        """List what the target cannot hold; at once, for it may be as much as all rows."""
        if self.quarantine is not None:
            self.rejected += quarantine.add(self.quarantine, rejects)

    def to_json(self) -> dict[str, Any]:
        return {
            "compared": self.compared,
            "changed": self.changed,
            "missing": self.missing,
            "removed": self.removed,
            "damaged": self.damaged[:NAMED_DAMAGES],
            "damages": len(self.damaged),
            "wrong": self.wrong[:NAMED_VALUES],
            "wrongs": len(self.wrong),
            "rejected": self.rejected,
        }


@dataclass(frozen=True)
class _Side:
    """What a range holds in the target: keys in order, and columns to be compared by position."""

    keys: Sequence[int]
    columns: Sequence[tuple[str, ValueKind, Sequence[Any]]]


def verify(job: Job, database: Database) -> VerifyFindings:
    """Compare all rows up to `job.bounds`, or just the rows `job.ids` of `job.table`."""
    found = VerifyFindings(salvaged=job.salvaged, quarantine=Path(job.quarantine) if job.quarantine else None)
    schema = job.needs()
    nodes: set[int] = set()
    digests = ledger.read_digests(Path(job.ledger)) if job.ledger else {}
    for table in schema.tables():
        if job.table and table.name != job.table:
            continue
        if table.name != NODES and not nodes:
            nodes = read_back.node_ids(database)
        noted = digests.get(table.name, {})
        compared, beyond = 0, None
        for keys, rows in _chunks(job, table):
            judged = _expected(convert.convert(job, rows, schema), nodes, found)
            compared += len(judged.rows)
            beyond = keys.upto if isinstance(keys, Range) else None
            side = _READERS[table.name](database, schema, keys)
            _compare(judged, side, database, noted, found)
            if table.name == TURNS:
                _compare_links(judged, nodes, database, keys, noted, found)
        found.compared[table.name] = compared
        if not job.ids:
            _look_beyond(table, beyond, database, noted, found)
            _find_strays(job, table, found)
    return found


def _chunks(job: Job, table: Table) -> Iterator[tuple[_Keys, Rows]]:
    source = SourceFile(job.source_path())
    if job.ids:
        yield job.ids, source.read(lambda c: source_rows.read_ids(c, table, job.ids))
        return
    if table.name in job.bounds:
        whole = None, job.bounds[table.name]
        yield from source_rows.read_slices(source, table, whole, job.chunk_rows, job.chunk_bytes)


def _expected(judged: ConvertedRows, nodes: set[int], found: VerifyFindings) -> ConvertedRows:
    """What the target should hold of these rows; what it cannot hold is listed."""
    dangling: Sequence[Reject] = ()
    if judged.rows.table.name == EDGES:
        judged, dangling = copy_rows.with_both_ends(judged, nodes)
    found.set_aside([*judged.rejects, *dangling])
    return judged


def _read_nodes(database: Database, schema: Schema, keys: _Keys) -> _Side:
    return _side(read_back.nodes(database, schema, keys), schema.nodes, skip=1)


def _read_turns(database: Database, schema: Schema, keys: _Keys) -> _Side:
    return _side(read_back.turns(database, schema, keys), schema.table(TURNS), skip=1)


def _read_edges(database: Database, schema: Schema, keys: _Keys) -> _Side:
    table = schema.table(EDGES)
    batch = read_back.edges(database, schema, keys)
    side = _side(batch, table, skip=3)
    ends = [(name, ValueKind.INT64, batch[1 + index]) for index, name in enumerate(table.ends)]
    return _Side(side.keys, [*ends, *side.columns])


def _side(batch: read_back.Columns, table: Table, *, skip: int) -> _Side:
    columns = [(c.target, c.kind, batch[skip + index]) for index, c in enumerate(table.columns)]
    return _Side(batch[0], columns)


_READERS: Mapping[str, Callable[[Database, Schema, _Keys], _Side]] = {
    NODES: _read_nodes,
    EDGES: _read_edges,
    TURNS: _read_turns,
}


def _look_up(rows: Rows, database: Database, found: VerifyFindings) -> None:
    """See that each node and turn is found by its key too: reading ranges never touches that index."""
    if rows.table.name == EDGES or not rows.keys:
        return
    hits = read_back.found_by_key(database, TARGET_TABLES[rows.table.name], rows.keys)
    if hits != len(rows.keys):
        missed = len(rows.keys) - hits
        found.damaged.append((rows.table.name, rows.keys[0], f"{missed} rows from here on are not found by their key"))


def _compare(
    judged: ConvertedRows, side: _Side, database: Database, noted: Mapping[int, bytes], found: VerifyFindings
) -> None:
    table = judged.rows.table.name
    here, there = set(judged.rows.keys), set(side.keys)
    if len(side.keys) != len(there):
        repeated = {key for key, following in zip(side.keys, side.keys[1:], strict=False) if key == following}
        found.damaged.extend((table, key, "the row is there more than once") for key in sorted(repeated))
        return
    _note(found.missing, table, sorted(here - there))
    _sort_extra(table, sorted(there - here), noted, found)
    if here != there:
        judged = copy_rows.select(judged, [key in there for key in judged.rows.keys])
        kept = [position for position, key in enumerate(side.keys) if key in here]
        side = _Side([side.keys[p] for p in kept], [(n, k, [values[p] for p in kept]) for n, k, values in side.columns])
    _look_up(judged.rows, database, found)
    offset = len(judged.columns) - len(side.columns)
    for (name, kind, got), expected in zip(side.columns, judged.columns[offset:], strict=True):
        if kind is ValueKind.VECTOR and not database.has_arrow:
            expected = [None if value is None else parameters.quieted(value) for value in expected]  # noqa: PLW2901
        for position in _differing(expected, got):
            _sort_difference(judged.rows, position, name, noted, found)


def _sort_extra(table: str, keys: Sequence[int], noted: Mapping[int, bytes], found: VerifyFindings) -> None:
    """A row that only the target has: the source deleted it since, or it was never the source's.

    Without a ledger the two cannot be told apart, and the source is right. What was copied before its page was damaged
    stays: this is the last copy.
    """
    if found.salvaged:
        return
    _note(found.removed, table, [key for key in keys if key in noted or not noted])
    found.damaged.extend((table, key, "not a row of the source") for key in keys if noted and key not in noted)


def _sort_difference(rows: Rows, position: int, column: str, noted: Mapping[int, bytes], found: VerifyFindings) -> None:
    """A value that differs: the source changed the row since it was copied, or it arrived wrong."""
    key = rows.keys[position]
    if noted.get(key) == source_rows.digest(rows.values[position]):
        found.wrong.append((rows.table.name, key, column))
    else:
        _note(found.changed, rows.table.name, [key])


def _note(lists: dict[str, list[int]], table: str, keys: Sequence[int]) -> None:
    if keys:
        listed = lists.setdefault(table, [])
        listed.extend(key for key in keys if key not in listed[-1:])


def _differing(expected: Sequence[Any], there: Sequence[Any]) -> Iterator[int]:
    if there == expected:  # one comparison for the whole column, which nearly always is the last
        return
    yield from (position for position, pair in enumerate(zip(expected, there, strict=True)) if pair[0] != pair[1])


def _compare_links(
    judged: ConvertedRows,
    nodes: set[int],
    database: Database,
    keys: _Keys,
    noted: Mapping[int, bytes],
    found: VerifyFindings,
) -> None:
    pairs, dangling = copy_rows.link_pairs(judged, nodes)
    found.set_aside(dangling)
    positions = {key: position for position, key in enumerate(judged.rows.keys)}

    def digests(turn: int) -> bytes:
        return source_rows.digest(judged.rows.values[positions[turn]])

    for link, expected in pairs.items():
        there = read_back.links(database, link, keys)
        if there == sorted(expected):
            continue
        # Nobody changed this turn since it was copied, and yet it lacks a link: its node came after the turn.
        lacking = {turn for turn, _ in expected} - {turn for turn, _ in there}
        late = {turn for turn in lacking if noted.get(turn) == digests(turn)}
        _note(found.missing, TURNS, sorted(late - set(found.missing.get(TURNS, ()))))
        for turn in sorted({pair[0] for pair in set(there) ^ set(expected)} | _repeated(there)):
            if turn in positions and turn not in found.missing.get(TURNS, ()):
                _sort_difference(judged.rows, positions[turn], link, noted, found)


def _repeated(pairs: Sequence[tuple[int, int]]) -> set[int]:
    return {pair[0] for pair in pairs if pairs.count(pair) > 1} if len(set(pairs)) != len(pairs) else set()


def _look_beyond(
    table: Table, last: int | None, database: Database, noted: Mapping[int, bytes], found: VerifyFindings
) -> None:
    """Rows of the target above the highest key that the source has, and so in none of the ranges."""
    if table.name == EDGES and (nameless := read_back.edges_without_id(database)):
        found.damaged.append((EDGES, -1, f"{nameless} edges without an id, which are not of the source"))
    everything = Range(table.name, last, 2**63 - 1, 0, 0)
    extra = read_back.keys(database, TARGET_TABLES[table.name], everything)
    _sort_extra(table.name, sorted(extra), noted, found)


def _find_strays(job: Job, table: Table, found: VerifyFindings) -> None:
    rows = SourceFile(job.source_path()).read(lambda c: source_rows.read_strays(c, table))
    found.set_aside(source_rows.convert_strays(rows))
