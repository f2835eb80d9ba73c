"""The trial load: rows are loaded into a target that is discarded, to see whether they take the worker down."""

from nimad.source.rows import ConvertedRows
from nimad.source.schema import EDGES, NODES, Schema
from nimad.target import copy_rows
from nimad.target import ddl as target_schema
from nimad.target.database import Database

#: The id of the one node of a trial without rows, which shows whether anything can be loaded at all.
CONTROL_ID = 0


def load(database: Database, schema: Schema, judged: ConvertedRows | None) -> None:
    """Load rows, or a node that is nothing but an id. Of nodes at the ends of edges and turns, the id suffices."""
    target_schema.create(database, schema)
    if judged is None:
        copy_rows.load_node_ids(database, [CONTROL_ID])
    elif judged.rows.table.name == NODES:
        copy_rows.load_nodes(database, schema, judged)
    elif judged.rows.table.name == EDGES:
        nodes = _load_ends(database, judged)
        copy_rows.load_edges(database, schema, copy_rows.with_both_ends(judged, nodes)[0])
    else:
        nodes = _load_ends(database, judged)
        copy_rows.load_nodes(database, schema, judged)
        for link, pairs in copy_rows.link_pairs(judged, nodes)[0].items():
            copy_rows.load_links(database, link, pairs)


def _load_ends(database: Database, judged: ConvertedRows) -> set[int]:
    ends = judged.columns[: len(judged.rows.table.ends)]
    nodes = {node for column in ends for node in column if node is not None}
    copy_rows.load_node_ids(database, sorted(nodes))
    return nodes
