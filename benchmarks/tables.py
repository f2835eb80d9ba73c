"""The target that every contestant fills: the same tables, in a file opened with the same limits."""

import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ladybug

NODE_COLUMNS = (
    "id INT64 PRIMARY KEY, timestamp INT64, layer STRING, text STRING, summary STRING, who STRING, affect_json STRING, "
    "session_key STRING, conversation_id STRING, turn_id STRING, created_at STRING, fe_score DOUBLE, "
    "embedding FLOAT[{n}], strength DOUBLE, decay_rate DOUBLE, last_accessed INT64, is_ghost INT64, "
    "dismissal_count INT64, themes STRING"
)
TURN_COLUMNS = "id INT64 PRIMARY KEY, turn_id STRING, timestamp INT64, affect_json STRING, created_at STRING"
EDGE_COLUMNS = "edge_id INT64, relation STRING, weight DOUBLE, created_at STRING"
LINKS = ("input", "contemplation", "output")
#: Bytes of buffer pool for each byte of SQLite; the least that a COPY of everything gets through with is 5.
_POOL_FACTOR = 7
_LEAST_POOL = 512 << 20
_ADDRESS_SPACE = 1 << 36


class Memory:
    """A sample memory in SQLite. `names`: the columns of a node; `kinds`: their types in the target."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sqlite = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        blob = self.sqlite.execute("SELECT embedding FROM memory_nodes WHERE embedding IS NOT NULL LIMIT 1").fetchone()
        self.floats = len(blob[0]) // struct.calcsize("f")
        self.declared = NODE_COLUMNS.format(n=self.floats)
        self.names = [part.split()[0] for part in self.declared.split(", ")]
        self.kinds = [part.split()[1] for part in self.declared.split(", ")]

    def nodes(self, after: int = -1, limit: int = -1) -> list[tuple[Any, ...]]:
        """Nodes with higher ids than `after`, in their order; a `limit` of -1 is none."""
        query = f"SELECT {', '.join(self.names)} FROM memory_nodes WHERE id > ? ORDER BY id LIMIT ?"
        return self.sqlite.execute(query, (after, limit)).fetchall()

    def edges(self) -> list[tuple[Any, ...]]:
        query = "SELECT source_id, target_id, id, relation, weight, created_at FROM memory_edges ORDER BY id"
        return self.sqlite.execute(query).fetchall()

    def turns(self) -> list[tuple[Any, ...]]:
        query = "SELECT id, turn_id, timestamp, affect_json, created_at FROM memory_turns ORDER BY id"
        return self.sqlite.execute(query).fetchall()

    def links(self, kind: str) -> list[tuple[Any, ...]]:
        column = f"{kind}_node_id"
        return self.sqlite.execute(f"SELECT id, {column} FROM memory_turns WHERE {column} IS NOT NULL").fetchall()


class Target:
    """A target that is open for writing."""

    def __init__(self, path: Path, memory: Memory) -> None:
        pool = max(_LEAST_POOL, _POOL_FACTOR * memory.path.stat().st_size)
        self.database = ladybug.Database(
            str(path), buffer_pool_size=pool, max_num_threads=2, max_db_size=_ADDRESS_SPACE
        )
        self.connection = ladybug.Connection(self.database)

    def create(self, memory: Memory) -> None:
        self.run(f"CREATE NODE TABLE MemoryNode({memory.declared})")
        self.run(f"CREATE NODE TABLE Turn({TURN_COLUMNS})")
        self.run(f"CREATE REL TABLE relates_to(FROM MemoryNode TO MemoryNode, {EDGE_COLUMNS})")
        for kind in LINKS:
            self.run(f"CREATE REL TABLE has_{kind}(FROM Turn TO MemoryNode)")

    def run(self, cypher: str, **parameters: Any) -> None:
        self.connection.execute(cypher, parameters or None).close()

    def close(self) -> None:
        self.connection.close()
        self.database.close()


def floats(blob: bytes | None) -> list[float] | None:
    """An embedding as the numbers that a statement takes for it."""
    return None if blob is None else list(struct.unpack(f"<{len(blob) // 4}f", blob))


def named(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Rows as dicts, with embeddings as lists."""
    at = columns.index("embedding") if "embedding" in columns else -1
    found = []
    for row in rows:
        values = dict(zip(columns, row, strict=True))
        if at >= 0:
            values["embedding"] = floats(row[at])
        found.append(values)
    return found
