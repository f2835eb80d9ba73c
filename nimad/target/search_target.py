"""Search in a target, by text and by embedding."""

from typing import Any

from nimad.target import ddl as t
from nimad.target.database import Database
from nimad.target.parameters import named

_COLUMNS = "n.id, n.layer, n.who, n.text, n.summary"


def text(database: Database, question: str, limit: int) -> dict[str, Any]:
    """Newest memories whose text or summary contains `question`."""
    wanted, given = named("question", question)
    rows = database.ask(
        f"MATCH (n:{t.NODE_TABLE}) WHERE n.text CONTAINS {wanted} OR n.summary CONTAINS {wanted} "
        f"RETURN {_COLUMNS} ORDER BY n.timestamp DESC, n.id DESC LIMIT {limit}",
        question=given,
    )
    return {"hits": [_hit(row) for row in rows]}


def like(database: Database, node: int, limit: int) -> dict[str, Any]:
    """Memories whose embedding is nearest to that of `node`, by cosine, computed exactly."""
    known = database.ask(f"MATCH (q:{t.NODE_TABLE} {{id: $node}}) RETURN q.embedding IS NOT NULL", node=node)
    if known != [[True]]:
        return {"why_not": f"memory {node} has no embedding" if known else f"there is no memory {node} in it"}
    rows = database.ask(
        f"MATCH (q:{t.NODE_TABLE} {{id: $node}}), (n:{t.NODE_TABLE}) "
        "WHERE n.embedding IS NOT NULL AND n.id <> q.id "
        "WITH n, array_cosine_similarity(n.embedding, q.embedding) AS nearness "
        f"RETURN {_COLUMNS}, nearness ORDER BY nearness DESC, n.id LIMIT {limit}",
        node=node,
    )
    return {"hits": [{**_hit(row), "nearness": row[5]} for row in rows]}


def _hit(row: list[Any]) -> dict[str, Any]:
    return {"id": row[0], "layer": row[1], "who": row[2], "text": row[3], "summary": row[4]}
