"""Obstacles of a rollback: triggers and indexes that need an extension of the agent's.

SQLite compiles what a trigger does with the statement that fires it. So `EXPLAIN` of a statement, which writes nothing,
fails as the statement itself would.
"""

import re
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from nimad.source.row_numbers import is_numbered
from nimad.source.schema import Schema, Table, generated
from nimad.source.sql import sql_name
from nimad.source.stand_ins import Reading

#: The last word of «no such module: vec0» and the like names what is missing.
_MISSING = re.compile(r"(?:no such|unknown) [a-z ]+: (?:\w+\.)?(.+?)(?:\(\))?")


#: SQLite's shell, where a text of the memory may tell it nothing but SQL.
_SHELL = ("sqlite3", "-safe")


def obstacle(connection: sqlite3.Connection, path: Path, target: Path, schema: Schema) -> str:
    """Why a row cannot be added or changed, and the way out; empty where each table takes rows."""
    if odd := [table.name for table in schema.tables() if not _has_ids(connection, table.name)]:
        aside = shlex.join(["mv", str(target), f"{target}.aside"])
        return (
            f"{path} has a table {odd[0]} whose id is not its INTEGER PRIMARY KEY, as no release of nima-core makes "
            f"it; nothing is written to it. Stay with {target}, or do without what is listed: stop the agent, and then "
            f"{aside}"
        )
    if isinstance(connection, Reading) and connection.reads_past_definitions:
        return (
            f"{path} has a definition that SQLite {sqlite3.sqlite_version} cannot parse, so it is read and not written "
            "to; roll back with a Python that has the agent's SQLite, or newer"
        )
    # Its triggers write to an index of texts, which SQLite up to 3.40 lets no schema do that is not trusted; nothing is
    # run, and the writer's connection trusts it, too.
    connection.execute("PRAGMA trusted_schema = 1")
    for table in schema.tables():
        for statement in _statements(table, set(generated(connection, table.name))):
            try:
                connection.execute(f"EXPLAIN {statement}").fetchall()
            except sqlite3.Error as error:
                return _explained(connection, path, table, str(error))
    return ""


def _has_ids(connection: sqlite3.Connection, table: str) -> bool:
    """Whether a row can be added to a table as the agent adds one, and its id is the table's own."""
    query = "SELECT lower(name), upper(type) FROM pragma_table_info(?, 'main') WHERE pk"
    keys = connection.execute(query, (table,)).fetchall()
    return keys == [("id", "INTEGER")] and not is_numbered(connection, table)


def _statements(table: Table, computed: set[str]) -> Iterator[str]:
    yield f"INSERT INTO main.{sql_name(table.name)} ({sql_name(table.key)}) VALUES (1)"
    columns = {*table.ends, *(column.name for column in table.columns)} - computed
    if changes := ", ".join(f"{sql_name(name)} = NULL" for name in sorted(columns)):
        yield f"UPDATE main.{sql_name(table.name)} SET {changes} WHERE {sql_name(table.key)} = 1"


def _explained(connection: sqlite3.Connection, path: Path, table: Table, error: str) -> str:
    triggers = _triggers(connection, table.name, error)
    if not triggers:
        return (
            f"SQLite cannot write to {table.name} of {path} ({error}): that needs what only the agent's program has. "
            "Nothing can be copied back by this command; stay with LadybugDB, or have that program's maker add it"
        )
    names = " and ".join(triggers)
    listed = ", ".join("'" + name.replace("'", "''") + "'" for name in triggers)
    kept = (
        f"~/{shlex.quote(f'{path.name}.triggers.sql')}"  # in the home of whom types it, where no link leads elsewhere
    )
    query = f"SELECT sql || ';' FROM sqlite_master WHERE type = 'trigger' AND name IN ({listed})"
    drop = "; ".join(f"DROP TRIGGER {sql_name(name)}" for name in triggers)
    safe = [*_SHELL, str(path)]
    keep = f"{shlex.join([*safe, query])} > {kept}"
    return (
        f"the trigger {names} of {table.name} needs an extension that only the agent's program loads ({error}), so "
        f"SQLite takes no row. Stop the agent; keep the trigger's text and drop it with: {keep} && "
        f"{shlex.join([*safe, drop])} ; then roll back, and make it again with: {shlex.join(safe)} < {kept}. "
        "What the trigger fills lacks the rows that were copied back until the agent rebuilds it"
    )


def _triggers(connection: sqlite3.Connection, table: str, error: str) -> list[str]:
    """The triggers of a table that may be at fault: those that use what is missing, or all."""
    rows = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND lower(tbl_name) = lower(?) ORDER BY name",
        (table,),
    ).fetchall()
    missing = _MISSING.fullmatch(error)
    if missing is None:
        return [str(name) for name, _ in rows]
    users = connection.execute(
        "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND instr(lower(sql), lower(?))", (missing[1],)
    ).fetchall()
    words = {missing[1].lower(), *(str(name).lower() for (name,) in users)} - {table.lower()}
    return [str(name) for name, sql in rows if any(_has_word(str(sql).lower(), word) for word in words)]


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None
