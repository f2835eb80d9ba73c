"""Text search in the target against SQLite's own index: 10 hits for each of 50 words, in one process.

`python benchmarks/searching.py SOURCE TARGET` prints one JSON line: the median of each, in ms.
"""

import json
import random
import re
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ladybug

WORDS = 50
HITS = 10
_POOL = 512 << 20
_ADDRESS_SPACE = 1 << 36


def main(source: Path, target: Path) -> None:
    sqlite = sqlite3.connect(f"file:{source}?mode=ro", uri=True)
    database = ladybug.Database(
        str(target), read_only=True, buffer_pool_size=_POOL, max_num_threads=2, max_db_size=_ADDRESS_SPACE
    )
    connection = ladybug.Connection(database)

    def fts5(word: str) -> int:
        query = (
            "SELECT n.id, n.timestamp, n.layer, n.who, n.text, n.summary FROM memory_fts f "
            "JOIN memory_nodes n ON n.id = f.rowid WHERE memory_fts MATCH ? ORDER BY rank LIMIT ?"
        )
        return len(sqlite.execute(query, (word, HITS)).fetchall())

    def contains(word: str) -> int:
        query = (
            "MATCH (n:MemoryNode) WHERE n.text CONTAINS $q OR n.summary CONTAINS $q "
            f"RETURN n.id, n.timestamp, n.layer, n.who, n.text, n.summary LIMIT {HITS}"
        )
        result = connection.execute(query, {"q": word})
        return len(result.get_all())

    words = _words(sqlite)
    _all(fts5, words), _all(contains, words)  # both have their pages in memory after this
    print(json.dumps({"fts5_ms": _all(fts5, words), "contains_ms": _all(contains, words)}))
    connection.close()
    database.close()


def _words(sqlite: sqlite3.Connection) -> list[str]:
    """Words as they are written: one of four letters or more from each of 50 texts."""
    rng = random.Random(8)
    texts = sqlite.execute("SELECT text FROM memory_nodes WHERE length(text) > 0 ORDER BY id").fetchall()
    return [rng.choice(re.findall(r"\b[a-z]{4,}\b", text)) for (text,) in rng.sample(texts, WORDS)]


def _all(ask: Callable[[str], int], words: list[str]) -> float:
    taken = []
    for word in words:
        began = time.perf_counter()
        hits = ask(word)
        taken.append((time.perf_counter() - began) * 1e3)
        if not hits:
            raise SystemExit(f"nobody wrote of {word!r}")
    return statistics.median(taken)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
