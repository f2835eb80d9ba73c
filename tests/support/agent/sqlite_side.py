"""The agent's statements in SQLite."""

import json
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from support.agent.steps import LAYERS, Backfill, Dream, Edit, Forget, Key, Prune, Recall, Store

#: Seconds that the agent waits for SQLite's lock.
TIMEOUT_S = 5.0

RELATIONS = ("triggered", "produced", "responded_to")
_NODE = (
    "INSERT INTO memory_nodes (timestamp, layer, text, summary, who, affect_json, session_key, conversation_id,"
    " turn_id, fe_score) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_EDGE = "INSERT INTO memory_edges (source_id, target_id, relation, weight) VALUES (?, ?, ?, 1.0)"
_TURN = (
    "INSERT INTO memory_turns (turn_id, input_node_id, contemplation_node_id, output_node_id, timestamp, affect_json)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)
_DREAM_TABLES = (
    "CREATE TABLE IF NOT EXISTS nima_insights (id TEXT PRIMARY KEY, type TEXT, content TEXT NOT NULL,"
    " confidence REAL DEFAULT 0.5, sources TEXT, domains TEXT, timestamp TEXT, importance REAL DEFAULT 0.5)",
    "CREATE TABLE IF NOT EXISTS nima_patterns (id TEXT PRIMARY KEY, name TEXT, description TEXT,"
    " occurrences INTEGER DEFAULT 1, domains TEXT, examples TEXT, first_seen TEXT, last_seen TEXT,"
    " strength REAL DEFAULT 0.5)",
)

#: Runs one statement with its values and gives its rows.
Run = Callable[..., list[Any]]


@contextmanager
def transaction(path: str, count: Callable[[], None]) -> Iterator[Run]:
    """One transaction in a file that is opened for it; `count` is called before each statement."""
    with closing(sqlite3.connect(path, timeout=TIMEOUT_S, isolation_level=None)) as connection:

        def run(sql: str, *values: Any) -> list[Any]:
            count()
            return connection.execute(sql, values).fetchall()

        run("BEGIN IMMEDIATE")
        try:
            yield run
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        run("COMMIT")


def store(run: Run, step: Store) -> list[int]:
    """Add a turn; returns the ids of its memories."""
    ids: list[int] = []
    for layer, text, summary in zip(LAYERS, step.texts, step.summaries, strict=True):
        who = step.who if layer == "input" else "self"
        values = (step.at, layer, text, summary, who, step.affect, "session", "conversation", step.turn, 0.5)
        ids.append(int(run(f"{_NODE} RETURNING id", *values)[0][0]))
    for place, relation in enumerate(RELATIONS):
        run(_EDGE, ids[place], ids[(place + 1) % 3], relation)
    run(_TURN, step.turn, *ids, step.at, step.affect)
    return ids


def recall(run: Run, step: Recall) -> None:
    moment = ", last_accessed = ?" if step.notes_access else ""
    for turn, layer in step.memories:
        run(
            f"UPDATE memory_nodes SET strength = min(1.0, coalesce(strength, 1.0) + 0.1),"
            f" decay_rate = max(0.001, coalesce(decay_rate, 0.01) * 0.9){moment} WHERE turn_id = ? AND layer = ?",
            *([step.at] if step.notes_access else []),
            turn,
            layer,
        )


def prune(run: Run, step: Prune) -> None:
    for turn, layer in step.memories:
        run(
            "UPDATE memory_nodes SET is_ghost = 1, dismissal_count = coalesce(dismissal_count, 0) + 1"
            " WHERE turn_id = ? AND layer = ? AND coalesce(is_ghost, 0) = 0",
            turn,
            layer,
        )


def dream(run: Run, step: Dream) -> None:
    for table in _DREAM_TABLES:
        run(table)
    run(
        "INSERT OR IGNORE INTO nima_insights (id, type, content, confidence, sources, domains, timestamp, importance)"
        " VALUES (?, 'insight', ?, 0.75, '[\"1\"]', '[]', '2026-11-30T00:00:00', 0.5)",
        f"insight_{step.name}",
        f"insight of {step.name}",
    )
    run(
        "INSERT INTO nima_patterns (id, name, description, domains, examples, first_seen, last_seen)"
        " VALUES (?, ?, 'a habit', '[]', '[]', '2026-11-30', '2026-11-30')"
        " ON CONFLICT (id) DO UPDATE SET occurrences = occurrences + 1",
        f"pattern_{step.name}",
        step.name,
    )


def backfill(run: Run, step: Backfill) -> int:
    """Returns how many memories got an embedding."""
    if "embedding" not in [row[1] for row in run("PRAGMA table_info(memory_nodes)")]:
        run("ALTER TABLE memory_nodes ADD COLUMN embedding BLOB DEFAULT NULL")
    rows = run("SELECT id, text FROM memory_nodes WHERE embedding IS NULL")
    for key, text in rows:
        blob = struct.pack(f"<{step.dimension}f", *embedding(text or "", step.dimension))
        run("UPDATE memory_nodes SET embedding = ? WHERE id = ?", blob, key)
    return len(rows)


def embedding(text: str, dimension: int) -> list[float]:
    """The same floats for the same text, exact in 32 bits."""
    seed = sum(map(ord, text))
    return [float((seed * (place + 3)) % 251) / 8.0 for place in range(dimension)]


def edit(run: Run, step: Edit) -> None:
    run("UPDATE memory_nodes SET text = ? WHERE turn_id = ? AND layer = ?", step.text, *step.memory)


def forget(run: Run, step: Forget) -> None:
    ids = json.dumps([key for memory in step.memories for key in _ids(run, memory)])
    for statement in (
        "DELETE FROM memory_edges WHERE source_id IN (SELECT value FROM json_each(?1))"
        " OR target_id IN (SELECT value FROM json_each(?1))",
        "DELETE FROM memory_turns WHERE input_node_id IN (SELECT value FROM json_each(?1))"
        " OR contemplation_node_id IN (SELECT value FROM json_each(?1))"
        " OR output_node_id IN (SELECT value FROM json_each(?1))",
        "DELETE FROM memory_nodes WHERE id IN (SELECT value FROM json_each(?1))",
    ):
        run(statement, ids)


def _ids(run: Run, memory: Key) -> Sequence[int]:
    return [row[0] for row in run("SELECT id FROM memory_nodes WHERE turn_id = ? AND layer = ?", *memory)]
