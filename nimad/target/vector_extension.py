"""The vector index of embeddings, built by the engine's VECTOR extension.

The extension is a library of its own that is not part of the engine's package; one of another release can end the
process that loads it. The statements are those of the engine's documentation (docs.ladybugdb.com/extensions/vector).
"""

from pathlib import Path
from types import ModuleType

from nimad.engines import probe_script
from nimad.target import ddl as t
from nimad.target import row_counts
from nimad.target.database import Database, EngineLimits, open_database
from nimad.target.row_counts import Count

#: The name that the readers ask for.
INDEX = "embedding_idx"
_METRIC = "cosine"


def load(database: Database, extension: str) -> None:
    """Load the extension: the file that is named, or the one that is installed."""
    database.run(probe_script.loading(extension))


def build(engine: ModuleType, path: Path, extension: str, limits: EngineLimits) -> dict[str, Count]:
    """Make the index in a file, open that anew, and ask it once; return its counts. Raises when any of it fails."""
    with open_database(engine, path, limits) as database:
        load(database, extension)
        database.run(f"CALL CREATE_VECTOR_INDEX('{t.NODE_TABLE}', '{INDEX}', 'embedding', metric := '{_METRIC}')")
        database.checkpoint()
    with open_database(engine, path, limits, read_only=True) as database:
        load(database, extension)
        _ask(database)
        return row_counts.count(database)


def _ask(database: Database) -> None:
    """Ask the index for what is nearest to one memory, which has to be itself or its equal."""
    rows = database.ask(f"MATCH (n:{t.NODE_TABLE}) WHERE n.embedding IS NOT NULL RETURN n.id, n.embedding LIMIT 1")
    if not rows:
        return
    vector = rows[0][1]
    hits = database.ask(
        f"CALL QUERY_VECTOR_INDEX('{t.NODE_TABLE}', '{INDEX}', CAST($vector AS FLOAT[{len(vector)}]), 1) "
        "RETURN node.id, distance",
        vector=vector,
    )
    if not hits:
        raise RuntimeError(f"the index answers a question about memory {rows[0][0]} with nothing")
