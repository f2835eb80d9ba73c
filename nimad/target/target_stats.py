"""Stats of a target, in the form of those of its source."""

from nimad.source.stats import CONTRIBUTORS, MemoryStats, finite, named
from nimad.target import ddl as t
from nimad.target.database import Database

#: The kind of the index that each table has for its key.
_KEY_INDEX = "HASH"


def stats_of(database: Database, since_ms: int) -> MemoryStats | None:
    """The figures of an open file, `recent` from `since_ms` on; None where it has no memories' table."""
    tables = sorted(database.tables())
    if t.NODE_TABLE not in tables:
        return None
    columns = {str(row[0]) for row in database.ask(f"CALL table_info('{t.NODE_TABLE}') RETURN name")}

    def column(name: str, otherwise: str) -> str:
        return f"n.{name}" if name in columns else otherwise

    moment = column("timestamp", "CAST(NULL AS INT64)")
    row = database.ask(
        f"MATCH (n:{t.NODE_TABLE}) RETURN count(*), count({column('embedding', 'CAST(NULL AS STRING)')}), "
        f"sum(CASE WHEN {moment} >= {since_ms} THEN 1 ELSE 0 END), min({moment}), max({moment}), "
        f"avg({column('fe_score', 'CAST(NULL AS DOUBLE)')}), count({column('is_ghost', 'n.id')})"
    )[0]
    text, vectors = _indices(database)
    return MemoryStats(
        nodes=row[0],
        turns=_count(database, t.TURN_TABLE, f"(n:{t.TURN_TABLE})", tables),
        edges=_count(database, t.EDGE_TABLE, f"()-[n:{t.EDGE_TABLE}]->()", tables),
        embeddings=row[1],
        recent=int(row[2] or 0),
        first_ms=row[3],
        last_ms=row[4],
        layers=_groups(database, "layer", columns),
        contributors=_groups(database, "who", columns, f"LIMIT {CONTRIBUTORS}"),
        mean_fe_score=finite(row[5]),
        tables=tables,
        full_text_index=text,
        vector_index=vectors,
        hidden=row[0] - row[6],
    )


def _count(database: Database, table: str, pattern: str, tables: list[str]) -> int:
    return int(database.ask(f"MATCH {pattern} RETURN count(*)")[0][0]) if table in tables else 0


def _groups(database: Database, name: str, columns: set[str], limit: str = "") -> dict[str, int]:
    if name not in columns:
        return {}
    return named(
        database.ask(
            f"MATCH (n:{t.NODE_TABLE}) RETURN n.{name} AS value, count(*) AS rows ORDER BY rows DESC, value {limit}"
        )
    )


def _indices(database: Database) -> tuple[bool, bool]:
    """Whether there is an index of texts, and one of vectors; both are an extension's, which need not be loaded."""
    kinds = {str(row[0]).upper() for row in database.ask("CALL show_indexes() RETURN index_type")} - {_KEY_INDEX}
    return "FTS" in kinds, bool(kinds - {"FTS"})
