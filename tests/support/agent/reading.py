"""Both sides as plain memories, read without nimad: what a test of both compares."""

import sqlite3
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.agent.steps import COLUMNS, Key
from support.environments import OURS, Engine, opened

#: A memory's columns, without its id; None where it has nothing, no entry where its side has no such column.
Memory = Mapping[str, Any]

LINKS = {"input_node_id": "has_input", "contemplation_node_id": "has_contemplation", "output_node_id": "has_output"}
#: Tables of LadybugDB that the agent fills by itself.
DREAMS = ("InsightNode", "PatternNode", "DreamNode")


@dataclass(frozen=True)
class Side:
    """What one side holds, each thing by its name; whatever is there twice counts twice."""

    memories: dict[Key, Memory] = field(default_factory=dict)
    copies: Counter[Key] = field(default_factory=Counter)
    edges: Counter[tuple[Key, Key, str]] = field(default_factory=Counter)
    turns: Counter[str] = field(default_factory=Counter)
    links: Counter[tuple[str, str, Key]] = field(default_factory=Counter)
    dreams: frozenset[tuple[str, str]] = frozenset()


def key_of(memory: Memory) -> Key:
    """The name of a memory on both sides."""
    return (memory["turn_id"], memory["layer"]) if memory["turn_id"] else ("", memory["text"])


def plain(memory: Memory) -> dict[str, Any]:
    """A memory of either side in the same Python types."""
    found = {name: memory[name] for name in COLUMNS if name in memory}
    blob = found.get("embedding")
    if isinstance(blob, bytes):
        found["embedding"] = struct.unpack(f"<{len(blob) // 4}f", blob)
    elif blob is not None:
        found["embedding"] = tuple(blob)
    if found.get("is_ghost") is not None:
        found["is_ghost"] = bool(found["is_ghost"])
    return found


def read_sqlite(path: Path) -> Side:
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        nodes = connection.execute("SELECT * FROM memory_nodes").fetchall()
        edges = connection.execute("SELECT source_id, target_id, relation FROM memory_edges").fetchall()
        turns = connection.execute("SELECT * FROM memory_turns").fetchall()
    keys = {row["id"]: key_of(row) for row in map(dict, nodes)}
    return Side(
        {key_of(memory): plain(memory) for memory in map(dict, nodes)},
        Counter(keys.values()),
        Counter((keys[a], keys[b], relation) for a, b, relation in edges if a in keys and b in keys),
        Counter(row["turn_id"] for row in turns),
        Counter(
            (row["turn_id"], kind, keys[row[column]])
            for row in turns
            for column, kind in LINKS.items()
            if row[column] in keys
        ),
    )


def read_ladybug(path: Path, engine: Engine = OURS) -> Side:
    with opened(engine, path) as ask:
        names = ("id", *COLUMNS)
        rows = ask(f"MATCH (n:MemoryNode) RETURN {', '.join(f'n.{name}' for name in names)}")
        memories = [dict(zip(names, row, strict=True)) for row in rows]
        keys = {memory["id"]: key_of(memory) for memory in memories}
        edges = ask("MATCH (a:MemoryNode)-[r:relates_to]->(b:MemoryNode) RETURN a.id, b.id, r.relation")
        links = [
            (turn, kind, keys[node])
            for kind in LINKS.values()
            for turn, node in ask(f"MATCH (t:Turn)-[:{kind}]->(n:MemoryNode) RETURN t.turn_id, n.id")
        ]
        tables = {row[1] for row in ask("CALL show_tables() RETURN *")}
        return Side(
            {key_of(memory): plain(memory) for memory in memories},
            Counter(keys.values()),
            Counter((keys[a], keys[b], relation) for a, b, relation in edges),
            Counter(row[0] for row in ask("MATCH (t:Turn) RETURN t.turn_id")),
            Counter(links),
            frozenset(
                (table, row[0]) for table in DREAMS if table in tables for row in ask(f"MATCH (n:{table}) RETURN n.id")
            ),
        )


def overlaid(side: Side, written: Iterable[Memory]) -> Side:
    """A side with what the agent has written to it since it was read."""
    memories = {**side.memories, **{key_of(memory): plain(memory) for memory in written}}
    return Side(memories, side.copies, side.edges, side.turns, side.links, side.dreams)
