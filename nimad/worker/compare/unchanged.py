"""Rows of the target that are exactly as they were copied."""

from collections.abc import Collection, Mapping

from nimad.source.schema import EDGES, NODES, Schema
from nimad.state.ledger import check_of
from nimad.target import upsert
from nimad.target.database import Database


def still_as_copied(
    database: Database,
    schema: Schema,
    name: str,
    at: Mapping[int, int],
    bases: Mapping[int, Mapping[str, bytes] | None],
    turns: Collection[int],
) -> set[int]:
    """Which rows are as they were reconciled. `at`: the target's ids by the source's keys; `turns`: the source's.

    A row without a base, or with a value in a column that the source lacks, is not known to be as it was. Nor is a
    node that an edge or a link of the agent's leads to: it would go with the node.
    """
    table = schema.table(name)
    rows = upsert.rows_of(database, schema, table, sorted(at.values()))
    columns = [column.target for column in table.columns]
    skip = len(table.ends) if name == EDGES else 0
    found = set()
    for key, id_ in at.items():
        there, base = rows.get(id_, []), bases.get(key)
        if len(there) == 1 and base is not None:
            values = zip(columns, there[0][skip:], strict=True)
            if all(base.get(column) == check_of(value) for column, value in values):
                found.add(key)
    others = upsert.written_beyond(database, table, [at[key] for key in found])
    if name == NODES:
        others |= upsert.held_by_others(database, [at[key] for key in found], turns)
    return {key for key in found if at[key] not in others}
