"""The tables of each release of NIMA, as SQL."""

import sqlite3

from nimad.errors import NimadError
from nimad.sample.request import check_shape

_NODES_1_0 = """CREATE TABLE memory_nodes (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp INTEGER,
    layer TEXT CHECK (layer IN ('input', 'contemplation', 'output', 'legacy_vsa')),
    text TEXT, summary TEXT, who TEXT, affect_json TEXT, session_key TEXT, conversation_id TEXT, turn_id TEXT,
    created_at TEXT DEFAULT (datetime('now')))"""
_NODES_3_0 = """CREATE TABLE memory_nodes (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp INTEGER,
    layer TEXT, text TEXT, summary TEXT, who TEXT, affect_json TEXT, session_key TEXT,
    conversation_id TEXT, turn_id TEXT,
    fe_score REAL DEFAULT 0.5, embedding BLOB, strength REAL DEFAULT 1.0, decay_rate REAL DEFAULT 0.01,
    last_accessed INTEGER, is_ghost INTEGER DEFAULT 0, dismissal_count INTEGER DEFAULT 0,
    created_at TEXT DEFAULT (datetime('now')))"""
_EDGES = """CREATE TABLE memory_edges (id INTEGER PRIMARY KEY AUTOINCREMENT,
    source_id INTEGER, target_id INTEGER, relation TEXT, weight REAL{})"""
_TURNS = """CREATE TABLE memory_turns (id INTEGER PRIMARY KEY AUTOINCREMENT, turn_id TEXT UNIQUE,
    input_node_id INTEGER, contemplation_node_id INTEGER, output_node_id INTEGER,
    timestamp INTEGER, affect_json TEXT{})"""
_CREATED_AT = ", created_at TEXT DEFAULT (datetime('now'))"
_FULL_TEXT_INDEX = """CREATE VIRTUAL TABLE memory_fts
    USING fts5 (text, summary, who, layer, content='memory_nodes', content_rowid='id')"""

#: Release → the columns that its ``ALTER TABLE`` put behind those of the first ``CREATE``, as SQL.
_ADDED_COLUMNS = {
    "2.0": "fe_score REAL DEFAULT 0.5",
    "2.2": "embedding BLOB, strength REAL DEFAULT 1.0, decay_rate REAL DEFAULT 0.01, last_accessed INTEGER, "
    "is_ghost INTEGER DEFAULT 0, dismissal_count INTEGER DEFAULT 0",
    "3.1": "themes TEXT",
}
_TABLES_3_1 = """
nima_insights (id TEXT PRIMARY KEY, content TEXT, type TEXT, confidence REAL, sources TEXT, domains TEXT,
    timestamp TEXT, importance REAL, validated INTEGER);
nima_patterns (id TEXT PRIMARY KEY, name TEXT, description TEXT, occurrences INTEGER, domains TEXT,
    examples TEXT, first_seen TEXT, last_seen TEXT, strength REAL);
nima_dream_runs (id TEXT PRIMARY KEY, date TEXT, narrative TEXT, source_count INTEGER, created_at TEXT);
nima_suppressed_memories (memory_id INTEGER PRIMARY KEY, reason TEXT, suppressed_at TEXT);
nima_pruner_runs (id INTEGER PRIMARY KEY, started_at TEXT, examined INTEGER, suppressed INTEGER);
nima_lucid_moments (id INTEGER PRIMARY KEY, memory_id INTEGER, message TEXT, delivered_at TEXT)
"""


def create_schema(connection: sqlite3.Connection, shape: str) -> None:
    """Create the empty tables as release ``shape`` leaves them, without the full-text index."""
    check_shape(shape)
    fresh = shape >= "3.0"
    connection.execute(_NODES_3_0 if fresh else _NODES_1_0)
    connection.execute(_EDGES.format(_CREATED_AT if fresh else ""))
    connection.execute(_TURNS.format(_CREATED_AT if fresh else ""))
    for release, columns in _ADDED_COLUMNS.items():
        if release <= shape and (release > "3.0" or not fresh):
            for column in columns.split(", "):
                connection.execute(f"ALTER TABLE memory_nodes ADD COLUMN {column}")
    if shape == "3.1":
        for table in _TABLES_3_1.split(";"):
            connection.execute(f"CREATE TABLE {table}")


def index_texts(connection: sqlite3.Connection) -> None:
    try:
        connection.execute(_FULL_TEXT_INDEX)
    except sqlite3.OperationalError as error:
        raise NimadError(
            f"the SQLite {sqlite3.sqlite_version} of this Python cannot make memory_fts ({error}): "
            "use a Python whose SQLite has FTS5, or ask for a sample with full_text_index=False"
        ) from error
    connection.execute("INSERT INTO memory_fts (memory_fts) VALUES ('rebuild')")
