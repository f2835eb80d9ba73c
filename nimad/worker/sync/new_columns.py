"""Columns that SQLite got after the target was made: fitting ones are added, others are named."""

from dataclasses import dataclass, replace

from nimad.source import embeddings
from nimad.source.schema import NODE_DEFAULTS, NODES, TARGET_TABLES, Schema, ValueKind
from nimad.source.sqlite_file import SourceFile
from nimad.target import ddl as target_schema
from nimad.target.database import Database
from nimad.target.destination import cypher_name
from nimad.worker.compare.shared_schema import VECTOR, types


@dataclass(frozen=True)
class Unfit:
    """A column of the source, by its name there, that the target's own column of that name cannot hold."""

    table: str
    column: str
    why: str


def settle(database: Database, schema: Schema, source: SourceFile) -> tuple[Schema, list[Unfit]]:
    """Give the target's tables the columns that they lack, and return the schema that holds there.

    The target's embeddings get the source's number of floats for as long as it has none. Nothing is changed where a
    column does not fit.
    """
    schema = _with_embeddings(database, schema, source)
    changes, unfit = list[str](), list[Unfit]()
    wanted = {table.name: table for table in target_schema.tables(schema)}
    for table in schema.tables():
        name = TARGET_TABLES[table.name]
        there = types(database, name)
        alike = {each.lower(): each for each in there}  # the engine does not tell names apart by their case
        for column in table.columns:
            kind, own = wanted[name].columns[column.target], cypher_name(column.target)
            if (named := alike.get(column.target.lower(), column.target)) != column.target:
                unfit.append(Unfit(table.name, column.name, f"the target has a column {named}"))
            elif there.get(column.target) == kind:
                continue
            elif column.target not in there or (
                column.kind is ValueKind.VECTOR and not _has_values(database, name, own)
            ):
                drop = [f"ALTER TABLE {name} DROP {own}"] if column.target in there else []
                default = NODE_DEFAULTS.get(column.target) if table.name == NODES else None
                added = f"{own} {kind}" + ("" if default is None else f" DEFAULT {default}")
                changes += [*drop, f"ALTER TABLE {name} ADD {added}"]
            else:
                why = f"the target's column is {there[column.target]}, and SQLite's is {kind}"
                unfit.append(Unfit(table.name, column.name, why))
    for change in changes if not unfit else ():
        database.run(change)
    return schema, unfit


def _with_embeddings(database: Database, schema: Schema, source: SourceFile) -> Schema:
    """The schema with embeddings as the target has them, or as the source has them while the target has none."""
    column = next((column for column in schema.nodes.columns if column.kind is ValueKind.VECTOR), None)
    name, nodes = TARGET_TABLES[NODES], schema.nodes
    if column is None:
        return schema
    there = types(database, name).get(column.target, "")
    if there and _has_values(database, name, cypher_name(column.target)):
        vector = VECTOR.fullmatch(there)
        return replace(schema, dimension=int(vector[1])) if vector else schema
    stored = source.read(lambda connection: embeddings.look_at_embeddings(connection, nodes))
    return replace(schema, dimension=stored.dimension, widths=stored.widths)


def _has_values(database: Database, table: str, column: str) -> bool:
    return bool(database.ask(f"MATCH (n:{table}) WHERE n.{column} IS NOT NULL RETURN 1 LIMIT 1"))
