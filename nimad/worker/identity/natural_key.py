"""Natural keys: which memory or turn a row is, whatever its id.

An id says it for a while only. nima-core gives the id of a memory that it deleted to its next one, and a backup that is
put back has SQLite give out ids a second time. Turn, layer and moment tell memories apart; name and moment, turns.
"""

import hashlib
import marshal
from collections.abc import Mapping, Sequence
from typing import Any

from nimad.source.rows import ConvertedRows, column_names
from nimad.source.schema import NODES, TURNS, Schema, Table
from nimad.source.values import cell

#: turn_id (None for one that says nothing), layer and timestamp; of a turn without the layer.
NaturalKey = tuple[Any, ...]

COLUMNS: Mapping[str, tuple[str, ...]] = {NODES: ("turn_id", "layer", "timestamp"), TURNS: ("turn_id", "timestamp")}
_HALF = 4
#: What nima-core ends a text with that it cut.
CUT_END = "..."
#: No embedding is part of it, and so nothing that a memory's own schema says.
_ANY = Schema(Table(NODES, "id", ()), None, None, 0)


def natural_key_of(values: Sequence[Any]) -> NaturalKey:
    return (values[0] or None, *values[1:])


def of_source(table: Table, values: Sequence[Any]) -> NaturalKey:
    """Of SQLite's values of these columns, as a target has them."""
    columns = {column.target: column for column in table.columns}
    return natural_key_of(
        [
            cell(columns[name], value, _ANY).value if name in columns else None
            for name, value in zip(COLUMNS[table.name], values, strict=True)
        ]
    )


def fingerprints_of(table: Table, rows: Sequence[tuple[Any, ...]]) -> dict[int, bytes]:
    """By key, the marks of whole rows of SQLite."""
    if table.name not in COLUMNS:
        return {}
    names = column_names(table)
    at = {column.target: names.index(column.name) for column in table.columns}
    wanted = [at.get(name) for name in COLUMNS[table.name]]
    found = {}
    for row in rows:
        found[row[0]] = fingerprint(of_source(table, [None if index is None else row[index] for index in wanted]))
    return found


def same(table: str, one: NaturalKey, other: NaturalKey) -> bool:
    """Whether two rows are the same memory, or turn; where only one of them says its turn, the rest decides."""
    if one[0] and other[0]:
        if table == TURNS:
            return bool(one[0] == other[0])
        return all(a == b or a is None or b is None for a, b in zip(one, other, strict=True))
    return one[1:] == other[1:]


def fingerprint(its: NaturalKey) -> bytes:
    """What the ledger keeps of it: four bytes of the turn, none where there is none, and four of the rest."""
    return (_half(its[0]) if its[0] else bytes(_HALF)) + _half(its[1:])


def has_fingerprint(table: str, its: NaturalKey, marked: bytes) -> bool:
    """`same`, where one of the two is a mark."""
    return is_same_fingerprint(table, fingerprint(its), marked)


def is_same_fingerprint(table: str, now: bytes, marked: bytes) -> bool:
    """`same`, of two marks."""
    none = bytes(_HALF)
    if none not in (now[:_HALF], marked[:_HALF]):
        return now == marked or (table == TURNS and now[:_HALF] == marked[:_HALF])
    return now[_HALF:] == marked[_HALF:]


def _half(value: Any) -> bytes:
    return hashlib.blake2b(marshal.dumps(value, 2), digest_size=_HALF).digest()


def match_score(
    table: str,
    one: NaturalKey,
    other: NaturalKey,
    texts: tuple[str | None, str | None],
    *,
    own: bool,
    alone: bool = False,
) -> int:
    """How much a row of the source is one that the agent wrote to the target; 0: not at all.

    nima-core cuts texts, so the target's may be the beginning of the source's. `own`: under its own id; `alone`: and no
    other row is of that layer and moment. An id is given again, but not in the same millisecond, so then it is the same
    memory, whatever its text has become.
    """
    moment = one[-1] == other[-1]
    named = bool(one[0] and other[0])
    if (named and one[0] != other[0]) or one[1:-1] != other[1:-1]:
        return 0
    if table == TURNS:
        return 1 + moment if named or (moment and (own or one[-1] is not None)) else 0
    text = _begins(*texts, own=own)
    alike = (moment or text) if named else (moment and (text or (own and alone and one[-1] is not None)))
    return 1 + 4 * moment + text if alike else 0


def _begins(whole: str | None, there: str | None, *, own: bool) -> int:
    if whole == there:
        return 2 if whole or own else 0
    return 1 if there and whole is not None and whole.startswith(there.removesuffix(CUT_END) or there) else 0


def values_of(judged: ConvertedRows, position: int, names: Sequence[str]) -> tuple[Any, ...]:
    """Some of a row's values by their columns' names in the target; None for a column that the source lacks."""
    table = judged.rows.table
    at = {column.target: len(table.ends) + index for index, column in enumerate(table.columns)}
    return tuple(judged.columns[at[name]][position] if name in at else None for name in names)
