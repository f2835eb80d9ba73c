"""The floor: one process that bare-COPYs the same tables, with no safety, no checks and no verification.

Run by `compare.py` as a program of its own: `python benchmarks/floor.py SOURCE TARGET`.
"""

import sqlite3
import struct
import sys
from pathlib import Path

import ladybug
import pyarrow as pa

NODE_COLUMNS = (
    "id INT64 PRIMARY KEY, timestamp INT64, layer STRING, text STRING, summary STRING, who STRING, affect_json STRING, "
    "session_key STRING, conversation_id STRING, turn_id STRING, created_at STRING, fe_score DOUBLE, "
    "embedding FLOAT[{n}], strength DOUBLE, decay_rate DOUBLE, last_accessed INT64, is_ghost INT64, "
    "dismissal_count INT64, themes STRING"
)
TYPES = {"INT64": pa.int64(), "STRING": pa.string(), "DOUBLE": pa.float64()}


def main(source: Path, target: Path) -> None:
    sqlite = sqlite3.connect(f"file:{source}?mode=ro", uri=True)
    blob = sqlite.execute("SELECT embedding FROM memory_nodes WHERE embedding IS NOT NULL LIMIT 1").fetchone()[0]
    floats = len(blob) // struct.calcsize("f")
    declared = NODE_COLUMNS.format(n=floats)
    database = ladybug.Database(str(target), buffer_pool_size=512 << 20, max_num_threads=2, max_db_size=1 << 34)
    connection = ladybug.Connection(database)
    connection.execute(f"CREATE NODE TABLE MemoryNode({declared})")
    connection.execute(
        "CREATE NODE TABLE Turn(id INT64 PRIMARY KEY, turn_id STRING, timestamp INT64, affect_json STRING, "
        "created_at STRING)"
    )
    connection.execute(
        "CREATE REL TABLE relates_to(FROM MemoryNode TO MemoryNode, edge_id INT64, relation STRING, weight DOUBLE, "
        "created_at STRING)"
    )
    _copy_nodes(sqlite, connection, declared, floats)
    _copy(sqlite, connection, "Turn", "id, turn_id, timestamp, affect_json, created_at FROM memory_turns")
    _copy(sqlite, connection, "relates_to", "source_id, target_id, id, relation, weight, created_at FROM memory_edges")
    for kind in ("input", "contemplation", "output"):
        connection.execute(f"CREATE REL TABLE has_{kind}(FROM Turn TO MemoryNode)")
        column = f"{kind}_node_id"
        _copy(sqlite, connection, f"has_{kind}", f"id, {column} FROM memory_turns WHERE {column} IS NOT NULL")
    connection.close()
    database.close()


def _copy_nodes(sqlite: sqlite3.Connection, connection: ladybug.Connection, declared: str, floats: int) -> None:
    names = [part.split()[0] for part in declared.split(", ")]
    kinds = [part.split()[1] for part in declared.split(", ")]
    rows = sqlite.execute(f"SELECT {', '.join(names)} FROM memory_nodes ORDER BY id").fetchall()
    arrays = []
    for index, kind in enumerate(kinds):
        values = [row[index] for row in rows]
        if kind.startswith("FLOAT"):
            empty = bytes(4 * floats)
            buffer = pa.py_buffer(b"".join(value or empty for value in values))
            flat = pa.Array.from_buffers(pa.float32(), len(values) * floats, [None, buffer])
            missing = pa.array([value is None for value in values])
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, floats, mask=missing))
        else:
            arrays.append(pa.array(values, TYPES[kind]))
    batch = pa.table(arrays, names=names)
    connection.execute("COPY MemoryNode FROM batch")
    del batch  # the engine found it by its name


def _copy(sqlite: sqlite3.Connection, connection: ladybug.Connection, what: str, query: str) -> None:
    columns = list(zip(*sqlite.execute(f"SELECT {query}"), strict=True))
    batch = pa.table([pa.array(column) for column in columns], names=[f"c{i}" for i in range(len(columns))])
    connection.execute(f"COPY {what} FROM batch")
    del batch  # the engine found it by its name


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
