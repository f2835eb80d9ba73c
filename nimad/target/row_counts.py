"""Row counts of the target: the only measure of progress."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nimad.target import ddl as t
from nimad.target.database import Database


@dataclass(frozen=True)
class Count:
    """Rows of one table, and the highest key among them."""

    rows: int
    last: int | None


#: How each table is counted by the source's key.
_QUERIES: Mapping[str, str] = {
    t.NODE_TABLE: f"MATCH (n:{t.NODE_TABLE}) RETURN count(*), max(n.id)",
    t.TURN_TABLE: f"MATCH (n:{t.TURN_TABLE}) RETURN count(*), max(n.id)",
    t.EDGE_TABLE: f"MATCH ()-[r:{t.EDGE_TABLE}]->() RETURN count(*), max(r.edge_id)",
    **{name: f"MATCH (n:{t.TURN_TABLE})-[:{name}]->() RETURN count(*), max(n.id)" for name in t.LINK_TABLES},
}


def count(database: Database) -> dict[str, Count]:
    """Count every table of the target that is there."""
    present = database.tables()
    found = {}
    for name, query in _QUERIES.items():
        if name in present:
            rows, last = database.ask(query)[0]
            found[name] = Count(rows, last)
    return found


def to_json(counts: Mapping[str, Count]) -> dict[str, Any]:
    return {name: asdict(count) for name, count in counts.items()}


def frees_twice(database: Database) -> bool:
    """Whether a free page of the file is listed twice: what is written next would overwrite what is written after it.

    Measured with 0.15.3: as soon as two free places that touch each other are noted, both stay listed beside their sum;
    three small transactions later the file does not open any more. 0.18.3 and later do not.
    """
    seen = set[int]()
    for row in database.ask("CALL fsm_info() RETURN *"):
        pages = range(int(row[0]), int(row[0]) + int(row[1]))
        if not seen.isdisjoint(pages):
            return True
        seen.update(pages)
    return False


def page_use(database: Database) -> tuple[int, int]:
    """Pages of the file that hold nothing, and bytes of a page."""
    free = database.ask("CALL fsm_info() RETURN *")
    return sum(int(row[1]) for row in free), 4096
