"""The result of sync, and what the state file and the quarantine say after it."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nimad.source.ranges import FIRST_KEY
from nimad.source.schema import (
    EDGES,
    NODES,
    TARGET_TABLES,
    TURNS,
    Schema,
)
from nimad.state import target_state
from nimad.state.paths import Files, replace_bytes
from nimad.state.quarantine import entry_of, line_key, lines
from nimad.sync.round import RoundResult


@dataclass(frozen=True)
class SyncResult:
    """What a catching-up came to. `added`, `changed`, `removed`: memories; `edges`, `turns`: added or changed."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    edges: int = 0
    turns: int = 0
    quarantined: int = 0  # lines of the quarantine that are new
    nodes: int = 0  # in the target now
    left_alone: str = ""  # why nothing was written, where something may have to be
    moved: bool = False  # whether rows changed while they were brought, so that there is more to bring
    counted: bool = field(default=False, compare=False)  # whether `nodes` was counted, and is not what was noted before

    @property
    def anything(self) -> bool:
        return any((self.added, self.changed, self.removed, self.edges, self.turns, self.quarantined))


def total(one: SyncResult, other: SyncResult) -> SyncResult:
    """What two looks came to, one after the other."""
    names = ("added", "changed", "removed", "edges", "turns", "quarantined")
    counted = one.counted or other.counted
    return replace(
        other, moved=False, counted=counted, **{name: getattr(one, name) + getattr(other, name) for name in names}
    )


def result_of(made: Mapping[str, Any], done: RoundResult, quarantined: int) -> SyncResult:
    def count(sets: Mapping[str, set[int]], table: str) -> int:
        return len(sets.get(table, ()))

    both = {table: done.added.get(table, set()) | done.changed.get(table, set()) for table in (EDGES, TURNS)}
    return SyncResult(
        added=count(done.added, NODES),
        changed=count({NODES: done.changed.get(NODES, set()) - done.added.get(NODES, set())}, NODES),
        removed=count(done.removed, NODES),
        edges=count(both, EDGES),
        turns=count(both, TURNS),
        quarantined=max(0, quarantined),
        nodes=nodes_in(made),
        counted=True,
    )


def nodes_in(made: Mapping[str, Any]) -> int:
    return int(made.get("published", {}).get(TARGET_TABLES[NODES], 0))


def facts_after(
    made: Mapping[str, Any], done: RoundResult, quarantined: int, schema: Schema, stamps: Mapping[str, Any]
) -> dict[str, Any]:
    """What the state file is to say of the target now."""
    bounds = dict(made.get("bounds", {}))
    for table, keys in done.settled.items():
        if keys:
            bounds[table] = max(*keys, bounds.get(table, FIRST_KEY))
    if done.dimension:
        schema = replace(schema, dimension=done.dimension)
    return {
        "bounds": bounds,
        "published": {**made.get("published", {}), **done.counts},
        "quarantined": made.get("quarantined", 0) + quarantined,
        "followed": {
            "at": target_state.stamp(time.time()),
            "recalled": done.since,
            **target_state.which_of(stamps["file"]),
        },
        **stamps,
        "schema": schema.to_json(),
        **({"distrust": False} if made.get("distrust") else {}),
    }


def drop_settled(files: Files, done: RoundResult) -> None:
    """Take out of the quarantine what it says of rows that were judged anew since."""

    def kept() -> Iterator[bytes]:
        everything = lines(files.quarantine)
        return (line for line in everything if line_key(line) in done.rejected or not _is_settled(entry_of(line), done))

    left = sum(1 for _ in kept())
    if left == sum(1 for _ in lines(files.quarantine)):
        return
    if left:
        replace_bytes(files.quarantine, kept())
    else:
        files.quarantine.unlink()


def _is_settled(entry: Mapping[str, Any] | None, done: RoundResult) -> bool:
    if entry is None or entry["part"] == "range" or not isinstance(entry["id"], int):
        return False
    return entry["id"] in done.settled.get(entry["table"], ())
