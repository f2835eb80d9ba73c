"""As nima-core 2.x migrates: one process, `UNWIND … MERGE` of 500 dicts, for nodes, turns, edges and links.

Written from its documented behaviour: `python benchmarks/upstream2.py SOURCE TARGET`
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tables import LINKS, Memory, Target, named

BATCH = 500


def main(source: Path, path: Path) -> None:
    memory = Memory(source)
    target = Target(path, memory)
    target.create(memory)
    changes = ", ".join(f"n.{name} = {_cast(memory, name)}" for name in memory.names[1:])
    _each(target, f"MERGE (n:MemoryNode {{id: row.id}}) SET {changes}", named(memory.names, memory.nodes()))
    turn = ["id", "turn_id", "timestamp", "affect_json", "created_at"]
    changes = ", ".join(f"t.{name} = row.{name}" for name in turn[1:])
    _each(target, f"MERGE (t:Turn {{id: row.id}}) SET {changes}", named(turn, memory.turns()))
    edge = ["source", "target", "id", "relation", "weight", "created_at"]
    _each(
        target,
        "MATCH (a:MemoryNode), (b:MemoryNode) WHERE a.id = row.source AND b.id = row.target "
        "MERGE (a)-[r:relates_to {edge_id: row.id}]->(b) "
        "SET r.relation = row.relation, r.weight = row.weight, r.created_at = row.created_at",
        named(edge, memory.edges()),
    )
    for kind in LINKS:
        match = "MATCH (t:Turn), (n:MemoryNode) WHERE t.id = row.turn AND n.id = row.node"
        _each(target, f"{match} MERGE (t)-[:has_{kind}]->(n)", named(["turn", "node"], memory.links(kind)))
    target.close()


def _cast(memory: Memory, name: str) -> str:
    """A value of a row; what is NULL in every row of a batch has no type of its own."""
    return f"CAST(row.{name} AS {memory.kinds[memory.names.index(name)]})"


def _each(target: Target, statement: str, rows: Sequence[dict[str, Any]]) -> None:
    for start in range(0, len(rows), BATCH):
        target.run(f"UNWIND $rows AS row {statement}", rows=rows[start : start + BATCH])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
