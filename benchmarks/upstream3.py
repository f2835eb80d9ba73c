"""As nima-core 3.1 migrates: one process, and for each row one lookup and one CREATE.

Written from its documented behaviour: `python benchmarks/upstream3.py SOURCE TARGET`
"""

import sys
from pathlib import Path

from tables import LINKS, Memory, Target, named


def main(source: Path, path: Path) -> None:
    memory = Memory(source)
    target = Target(path, memory)
    target.create(memory)
    _nodes(memory, target)
    turn = ["id", "turn_id", "timestamp", "affect_json", "created_at"]
    values = ", ".join(f"{name}: ${name}" for name in turn)
    for row in named(turn, memory.turns()):
        if not _there(target, "Turn", row["id"]):
            target.run(f"CREATE (:Turn {{{values}}})", **row)
    for one, other, key, relation, weight, created in memory.edges():
        ends = {"one": one, "other": other}
        if not _connected(target, "MemoryNode", f"relates_to {{edge_id: {key}}}", ends):
            target.run(
                "MATCH (a:MemoryNode {id: $one}), (b:MemoryNode {id: $other}) CREATE (a)-[:relates_to "
                "{edge_id: $key, relation: $relation, weight: $weight, created_at: $created}]->(b)",
                **ends, key=key, relation=relation, weight=weight, created=created,
            )  # fmt: skip
    for kind in LINKS:
        for one, other in memory.links(kind):
            ends = {"one": one, "other": other}
            if not _connected(target, "Turn", f"has_{kind}", ends):
                match = "MATCH (t:Turn {id: $one}), (n:MemoryNode {id: $other})"
                target.run(f"{match} CREATE (t)-[:has_{kind}]->(n)", **ends)
    target.close()


def _nodes(memory: Memory, target: Target) -> None:
    for row in named(memory.names, memory.nodes()):
        if _there(target, "MemoryNode", row["id"]):
            continue
        given = {name: value for name, value in row.items() if value is not None}
        kinds = dict(zip(memory.names, memory.kinds, strict=True))
        values = ", ".join(f"{name}: CAST(${name} AS {kinds[name]})" for name in given)
        target.run(f"CREATE (:MemoryNode {{{values}}})", **given)


def _there(target: Target, table: str, key: int) -> bool:
    found = target.connection.execute(f"MATCH (n:{table} {{id: $key}}) RETURN n.id", {"key": key})
    return bool(found.has_next())


def _connected(target: Target, table: str, relation: str, ends: dict[str, int]) -> bool:
    match = f"MATCH (a:{table} {{id: $one}})-[r:{relation}]->(b:MemoryNode {{id: $other}}) RETURN r"
    return bool(target.connection.execute(match, ends).has_next())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
