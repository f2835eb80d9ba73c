"""A trial: rows loaded into a target that nobody keeps, to see whether they take their worker down."""

from nimad.source.rows import Judged
from nimad.source.schema import EDGES, NODES, Schema
from nimad.target import loading
from nimad.target import schema as target_schema
from nimad.target.database import Database

#: The id of the one node of a trial without rows, which shows whether anything can be loaded at all.
CONTROL_ID = 0


def load(database: Database, schema: Schema, judged: Judged | None) -> None:
    """Load rows, or a node that is nothing but an id. Of nodes at the ends of edges and turns, the id suffices."""
    target_schema.create(database, schema)
    if judged is None:
        loading.load_node_ids(database, [CONTROL_ID])
    elif judged.rows.table.name == NODES:
        loading.load_nodes(database, schema, judged)
    elif judged.rows.table.name == EDGES:
        nodes = _load_ends(database, judged)
        loading.load_edges(database, schema, loading.with_both_ends(judged, nodes)[0])
    else:
        nodes = _load_ends(database, judged)
        loading.load_nodes(database, schema, judged)
        for link, pairs in loading.link_pairs(judged, nodes)[0].items():
            loading.load_links(database, link, pairs)


def _load_ends(database: Database, judged: Judged) -> set[int]:
    ends = judged.columns[: len(judged.rows.table.ends)]
    nodes = {node for column in ends for node in column if node is not None}
    loading.load_node_ids(database, sorted(nodes))
    return nodes
