"""The agent's statements in LadybugDB. Each commits by itself, so a kill leaves what came before it."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from support.agent.sqlite_side import RELATIONS, embedding
from support.agent.steps import COLUMNS, LAYERS, Backfill, Capture, Dream, Key, Merge, Prune, Recall, Search, Store

LIMITS = {"buffer_pool_size": 256 * 1024**2, "max_db_size": 1 << 34, "max_num_threads": 2}
#: Characters that a text and a summary keep on this side, the sign of the cut included.
TEXT_LENGTH, SUMMARY_LENGTH = 2_000, 500
#: Words in the engine's errors by which the agent takes its log for broken, wherever they stand.
_BROKEN_LOG = ("wal", "corrupted")

_MATCH = "MATCH (n:MemoryNode) WHERE n.turn_id = $turn AND n.layer = $layer"
_EDGE = (
    "MATCH (a:MemoryNode {id: $a}), (b:MemoryNode {id: $b})"
    " CREATE (a)-[:relates_to {relation: $relation, weight: 1.0}]->(b)"
)
_PATTERNS = (
    "CREATE NODE TABLE IF NOT EXISTS PatternNode(id STRING PRIMARY KEY, name STRING, description STRING,"
    " occurrences INT64, domains STRING, examples STRING, first_seen STRING, last_seen STRING, strength DOUBLE)"
)
_DREAMS = (
    "CREATE NODE TABLE IF NOT EXISTS DreamNode(id STRING PRIMARY KEY, date STRING, narrative STRING,"
    " source_count INT64, created_at STRING)"
)

#: Runs one statement with its parameters and gives its rows.
Ask = Callable[..., list[list[Any]]]
#: The columns of a memory, and its id.
Row = dict[str, Any]


@contextmanager
def opened(module: str, path: str, count: Callable[[], None]) -> Iterator[Ask]:
    """The database, opened for writing as every part of the agent opens it; `count` is called before each statement.

    Raises the engine's error where another process has it open.
    """
    engine = import_module(module)
    database = _open(engine, path)
    connection = engine.Connection(database)

    def ask(cypher: str, **parameters: Any) -> list[list[Any]]:
        count()
        result = connection.execute(cypher, parameters or None)
        rows: list[list[Any]] = result.get_all()
        result.close()
        return rows

    try:
        yield ask
    finally:
        connection.close()
        database.close()


def _open(engine: Any, path: str) -> Any:
    """Open the file; a log that the error seems to mean is moved away, and the file opened without it."""
    log = f"{path}.wal"
    try:
        return engine.Database(path, **LIMITS)
    except RuntimeError as error:
        if not (any(word in str(error).lower() for word in _BROKEN_LOG) and os.path.exists(log)):  # noqa: PTH110
            raise
    os.rename(log, f"{log}.bak_{int(time.time())}")  # noqa: PTH104
    return engine.Database(path, **LIMITS)


def store(ask: Ask, step: Store) -> list[Row]:
    """Add a turn under the next free ids. What it wrote goes again when a statement fails."""
    first = _next_id(ask)
    written: list[int] = []
    try:
        for place, layer in enumerate(LAYERS):
            _create(ask, step, first + place, layer)
            written.append(first + place)
        for place, relation in enumerate(RELATIONS):
            ask(_EDGE, a=first + place, b=first + (place + 1) % 3, relation=relation)
        ask(
            "CREATE (:Turn {id: $at, turn_id: $turn, timestamp: $at, affect_json: $affect})",
            at=step.at,
            turn=step.turn,
            affect=step.affect,
        )
    except RuntimeError:
        for key in written:
            ask("MATCH (n:MemoryNode {id: $id}) DETACH DELETE n", id=key)
        raise
    return rows(ask, written)


def _create(ask: Ask, step: Store, key: int, layer: str) -> None:
    place = LAYERS.index(layer)
    ask(
        "CREATE (:MemoryNode {id: $id, timestamp: $at, layer: $layer, text: $text, summary: $summary, who: $who,"
        " affect_json: $affect, session_key: 'session', conversation_id: 'conversation', turn_id: $turn,"
        " fe_score: 0.5})",
        id=key,
        at=step.at,
        layer=layer,
        text=cut(step.texts[place], TEXT_LENGTH),
        summary=cut(step.summaries[place], SUMMARY_LENGTH),
        who=step.who if layer == "input" else "self",
        affect=step.affect,
        turn=step.turn,
    )


def cut(text: str, length: int) -> str:
    """A text as this side keeps it: three dots stand for what is missing."""
    return text if len(text) <= length else text[: length - 3] + "..."


def _next_id(ask: Ask) -> int:
    return int(ask("MATCH (n:MemoryNode) RETURN max(n.id)")[0][0] or 0) + 1


def recall(ask: Ask, step: Recall) -> list[Row]:
    ids = _ids(ask, step.memories)
    moment = f", n.last_accessed = {step.at}" if step.notes_access else ""
    ask(
        f"MATCH (n:MemoryNode) WHERE n.id IN {ids} SET"
        " n.strength = CASE WHEN n.strength + 0.1 > 1.0 THEN 1.0 ELSE n.strength + 0.1 END,"
        " n.decay_rate = CASE WHEN n.decay_rate * 0.9 < 0.001 THEN 0.001 ELSE n.decay_rate * 0.9 END" + moment
    )
    return rows(ask, ids)


def prune(ask: Ask, step: Prune) -> list[Row]:
    ids = _ids(ask, step.memories)
    ask(
        f"MATCH (n:MemoryNode) WHERE n.id IN {ids} AND n.is_ghost = false"
        " SET n.is_ghost = true, n.dismissal_count = n.dismissal_count + 1"
    )
    return rows(ask, ids)


def merge(ask: Ask, step: Merge) -> list[Row]:
    (survivor,) = _ids(ask, (step.survivor,))
    others = _ids(ask, step.others)
    found = ask(f"MATCH (n:MemoryNode) WHERE n.id IN {[survivor, *others]} RETURN n.id, n.strength")
    strength = {key: 1.0 if value is None else value for key, value in found}
    absorbed = min(1.0, strength[survivor] + sum(strength[key] for key in others) * 0.2)
    ask(
        f"MATCH (n:MemoryNode) WHERE n.id IN {others}"
        f" SET n.is_ghost = true, n.text = '[Ghosted: Merged into {survivor}]', n.strength = 0.0"
    )
    ask(
        f"MATCH (n:MemoryNode) WHERE n.id = {survivor} SET n.strength = $strength, n.last_accessed = {step.at}",
        strength=absorbed,
    )
    return rows(ask, [survivor, *others])


def capture(ask: Ask, step: Capture) -> list[Row]:
    """Add a memory without a turn. It is linked to the three with the highest ids before it."""
    key = _next_id(ask)
    ask(
        "CREATE (:MemoryNode {id: $id, timestamp: $at, layer: 'output', text: $text, summary: $summary, who: $who,"
        " fe_score: 0.7, source_agent: $name, model: 'unknown', strength: 1.0, is_ghost: false})",
        id=key,
        at=step.at,
        text=step.text[:TEXT_LENGTH],
        summary=step.text[:200],
        who=f"agent:{step.name}",
        name=step.name,
    )
    for before in range(max(1, key - 3), key):
        ask(_EDGE, a=key, b=before, relation="co_occurrence")
    return rows(ask, [key])


def dream(ask: Ask, step: Dream) -> int:
    """Returns how many of the three were lost: an insight is, where no setup has made its table."""
    lost = 0
    for part in (_insight, _pattern, _narrative):
        try:
            part(ask, step.name)
        except RuntimeError:
            lost += 1
    return lost


def _insight(ask: Ask, name: str) -> None:
    if not ask("MATCH (n:InsightNode) WHERE n.id = $id RETURN n.id", id=f"insight_{name}"):
        ask(
            "CREATE (:InsightNode {id: $id, content: $content, type: 'insight', confidence: 0.75, sources: '1',"
            " domains: '', timestamp: '2026-11-30T00:00:00', importance: 0.5, validated: false})",
            id=f"insight_{name}",
            content=f"insight of {name}",
        )


def _pattern(ask: Ask, name: str) -> None:
    ask(_PATTERNS)
    if found := ask("MATCH (n:PatternNode) WHERE n.id = $id RETURN n.occurrences", id=f"pattern_{name}"):
        ask(
            "MATCH (n:PatternNode) WHERE n.id = $id SET n.occurrences = $times, n.last_seen = '2026-11-30'",
            id=f"pattern_{name}",
            times=int(found[0][0]) + 1,
        )
    else:
        ask(
            "CREATE (:PatternNode {id: $id, name: $name, description: 'a habit', occurrences: 1, domains: '',"
            " examples: '', first_seen: '2026-11-30', last_seen: '2026-11-30', strength: 0.5})",
            id=f"pattern_{name}",
            name=name,
        )


def _narrative(ask: Ask, name: str) -> None:
    ask(_DREAMS)
    if not ask("MATCH (n:DreamNode) WHERE n.id = $id RETURN n.id", id=f"dream_{name}"):
        ask(
            "CREATE (:DreamNode {id: $id, date: $name, narrative: 'a dream', source_count: 1, created_at: '2026'})",
            id=f"dream_{name}",
            name=name,
        )


def backfill(ask: Ask, step: Backfill) -> int:
    """Returns how many memories got an embedding."""
    found = ask("MATCH (n:MemoryNode) WHERE n.embedding IS NULL RETURN n.id, n.text")
    for key, text in found:
        ask(
            f"MATCH (n:MemoryNode {{id: $id}}) SET n.embedding = CAST($vector AS FLOAT[{step.dimension}])",
            id=key,
            vector=embedding(text or "", step.dimension),
        )
    return len(found)


def rows(ask: Ask, ids: list[int]) -> list[Row]:
    """The memories as they are now."""
    names = ("id", *COLUMNS)
    wanted = ", ".join(f"n.{name}" for name in names)
    found = ask(f"MATCH (n:MemoryNode) WHERE n.id IN {ids} RETURN {wanted} ORDER BY n.id")
    return [dict(zip(names, row, strict=True)) for row in found]


def visible(ask: Ask) -> list[list[Any]]:
    return ask("MATCH (n:MemoryNode) WHERE n.is_ghost = false RETURN coalesce(n.turn_id, n.text), n.layer")


def search(ask: Ask, step: Search) -> list[str]:
    found = ask(
        "MATCH (n:MemoryNode) WHERE (n.text CONTAINS $word OR n.summary CONTAINS $word) AND n.timestamp >= $since"
        " RETURN n.text ORDER BY n.timestamp, n.id",
        word=step.word,
        since=step.since,
    )
    return [row[0] for row in found]


def _ids(ask: Ask, memories: tuple[Key, ...]) -> list[int]:
    return [int(row[0]) for turn, layer in memories for row in ask(f"{_MATCH} RETURN n.id", turn=turn, layer=layer)]
