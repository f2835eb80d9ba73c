"""Whether every memory arrived: SQLite, the target and the quarantine held against each other without nimad's code.

>>> write(path, "memory_nodes", [{"id": 1, "text": Raw(b"caf\\xe9")}])
>>> assert_arrived(path, target)

Each value of SQLite is in the target as it was, or as a number or text that says the same; or its entry in the
quarantine has it whole, and the target has NULL, the default, or what is nearest.
"""

import base64
import json
import math
import sqlite3
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from support.memories import DEFAULTS, LINKS, Memory, Row, read_quarantine, read_target, same_value

ENDS = {"memory_nodes": (), "memory_edges": ("source_id", "target_id"), "memory_turns": tuple(LINKS)}


class Raw(bytes):
    """Text of SQLite whose bytes may be no UTF-8."""


def write(path: Path, table: str, rows: Iterable[Row], *schema: str) -> None:
    """Run SQL, and insert rows whose texts may be `Raw`."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        for statement in schema:
            connection.execute(statement)
        for row in rows:
            marks = ", ".join("CAST(? AS TEXT)" if isinstance(value, Raw) else "?" for value in row.values())
            names = ", ".join(f'"{name}"' for name in row)
            connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(map(_plain, row.values())))
        connection.execute("COMMIT")


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, Raw) else value


def assert_arrived(source: Path, target: Path, *, there: Memory | None = None) -> Memory:
    """Fail unless every memory with an integer id is in the target, and each value there or in the quarantine."""
    found, entries = there or read_target(target), read_quarantine(target)
    aside = {(entry["table"], _key(entry["id"]), entry["part"]): entry for entry in entries}
    nodes = dict(_rows(source, "memory_nodes"))
    assert set(found.nodes) == {key for key in nodes if isinstance(key, int)}, "a memory is missing"
    for key, row in nodes.items():
        _assert_row("memory_nodes", key, row, found.nodes.get(key), aside)
    for table, side in (("memory_edges", found.edges), ("memory_turns", found.turns)):
        for key, row in _rows(source, table):
            if not isinstance(key, int) or not _is_drawn(table, row, nodes):
                assert (table, _key(key), "row") in aside
                assert key not in side
            else:
                _assert_row(table, key, row, side[key], aside)
    for end, link in LINKS.items():
        wanted = {}
        for key, row in _rows(source, "memory_turns"):
            node = _integer(row.get(end))
            if isinstance(key, int) and node in nodes:
                wanted[key] = node
            elif isinstance(key, int) and row.get(end) is not None:
                assert ("memory_turns", key, link) in aside
        assert dict(found.links[link]) == wanted
    return found


def _is_drawn(table: str, row: Row, nodes: Mapping[Any, Row]) -> bool:
    return table != "memory_edges" or all(_integer(row[end]) in nodes for end in ENDS[table])


def _integer(value: Any) -> int | None:
    """The integer that a value says, as far as these tests go."""
    try:
        number = float(value) if isinstance(value, (int, float, str)) and "_" not in str(value) else math.nan
    except ValueError:
        return None
    if isinstance(value, int):
        return value
    return int(number) if math.isfinite(number) and number == int(number) and abs(number) < 2**53 else None


def _rows(source: Path, table: str) -> list[tuple[Any, dict[str, Any]]]:
    with closing(sqlite3.connect(source)) as connection:
        connection.text_factory = as_text
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            return []
        cursor = connection.execute(f"SELECT * FROM {table}")
        names = [each[0] for each in cursor.description]
        return [((row := dict(zip(names, values, strict=True)))["id"], row) for values in cursor]


def as_text(raw: bytes) -> str | Raw:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return Raw(raw)


def _key(key: Any) -> Any:
    return key if isinstance(key, (int, str)) else json.dumps(key)


def _assert_row(table: str, key: Any, row: Row, there: Row | None, aside: Mapping[Any, Mapping[str, Any]]) -> None:
    if not isinstance(key, int):
        return
    assert there is not None
    for name, value in row.items():
        if name == "id" or name in ENDS[table]:
            continue
        default = DEFAULTS.get(name) if table == "memory_nodes" and name != "recall_count" else None
        got, entry = there[name], aside.get((table, key, name))
        place = f"{table} {key}, {name}: {got!r} where SQLite has {value!r}"
        if entry is None:
            assert _says_the_same(got, default if value is None else value), place
        else:
            assert entry["row"][name] == in_json(value), place
            assert got == default or got == _nearest(value, got), place
            assert got == default or not same_value(got, value), place
            assert not isinstance(value, str) or len(value) < 4 or value not in entry["reason"], "the value is quoted"


def _says_the_same(got: Any, value: Any) -> bool:
    if isinstance(got, bytes) and isinstance(value, (str, bytes)) and value.strip()[:1] in ("[", b"[") and got != value:
        numbers = json.loads(value)  # of as many as there are, where it is the only embedding
        return bool(got == struct.pack(f"<{len(numbers)}f", *numbers))
    if isinstance(got, bool):
        return value in (0, 1) or float(value) == got
    if isinstance(got, (int, float)) and isinstance(value, str):
        return float(value) == float(got)
    if isinstance(got, str) and not isinstance(value, str):
        return got == (value.decode() if isinstance(value, bytes) else repr(value))
    if isinstance(got, bytes) and isinstance(value, (str, Raw)):
        return got == (value.encode() if isinstance(value, str) else bytes(value))
    if isinstance(got, (int, float)) and isinstance(value, (int, float)):
        return (got == value and same_value(float(got), float(value))) or (isinstance(got, int) and got == value)
    return same_value(got, value)


def _nearest(value: Any, got: Any) -> Any:
    """What may stand in place of a value that has no place: readable text, or the milliseconds of a moment."""
    if isinstance(got, str) and isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(got, int) and isinstance(value, float) and math.isfinite(value):
        return int(value)
    return got if isinstance(got, int) and isinstance(value, str) else None


def in_json(value: Any) -> Any:
    """A value of SQLite as the quarantine has it."""
    if isinstance(value, Raw):
        return {"text_base64": base64.b64encode(value).decode()}
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return {"float": repr(value)} if isinstance(value, float) and not math.isfinite(value) else value


def parts(target: Path) -> dict[tuple[str, Any, str], str]:
    """Reasons of the quarantine by table, id and part."""
    return {(entry["table"], entry["id"], entry["part"]): entry["reason"] for entry in read_quarantine(target)}


def columns_without_types(table: str, names: Sequence[str]) -> str:
    """A table whose columns have no affinity, so that any value stays what it is."""
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, {quoted})"
