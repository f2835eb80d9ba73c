"""The catalog of an engine's file: its tables and their columns, whoever made them.

Names may be anybody's, and are quoted here.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from nimad.target.database import Database
from nimad.target.destination import cypher_name

#: The tables that an index of vectors makes for itself, and those of an index of texts, by the ends of their names.
_VECTORS = r"_(\d+_)?{}_(UPPER|LOWER)"  # older engines leave out the number
_TEXTS = r"\d+_{}_(docs|terms|appears_in|stopwords)"
#: The words that every index of texts leaves out.
_STOP_WORDS = "default_english_stopwords"


@dataclass(frozen=True)
class Declared:
    """A column as its table declares it. `type` and `default` are the engine's words; `NULL` where there is none."""

    name: str
    type: str
    default: str
    is_key: bool = False

    @property
    def _default(self) -> str:
        """The default as a statement has it, empty for none: so the engine gives back the expression.

        A text has its quotes, of either kind. A column that numbers its rows (`SERIAL`) has an empty one.
        """
        return "" if self.default == "NULL" else self.default

    @property
    def has_default(self) -> bool:
        """Whether a row that is given nothing for this column has something there."""
        return bool(self._default)

    @property
    def declaration(self) -> str:
        """The column, as a statement that makes its table declares it."""
        default = f" DEFAULT {self._default}" if self._default else ""
        return f"{cypher_name(self.name)} {self.type}{default}"

    def is_written(self, of: str) -> str:
        """The condition that `of`, a name for a row, has something of its own here, and not just the default."""
        value = f"{of}.{cypher_name(self.name)}"
        # Cast, for a column of 32 bits holds another 0.01.
        beside = f" AND {value} <> CAST({self._default} AS {self.type})" if self._default else ""
        return f"{value} IS NOT NULL{beside}"


@dataclass(frozen=True, order=True)
class Joined:
    """Two tables that a relationship joins, with their keys."""

    start: str
    end: str
    start_key: str
    end_key: str


def of_indexes(database: Database) -> set[str]:
    """The tables that hold an index, and nothing that anybody wrote.

    Told by the indexes that there are: a name that only looks alike may be the agent's. An index is listed also where
    its extension is not loaded.
    """
    try:
        rows = database.ask("CALL show_indexes() RETURN index_name")
    except RuntimeError:  # an engine that lists none
        return tables_of_indexes(database.tables(), None)
    return tables_of_indexes(database.tables(), [str(name) for (name,) in rows])


def tables_of_indexes(names: Collection[str], indexes: Iterable[str] | None) -> set[str]:
    """Which of these tables are of these indexes; of any index where it is not known which there are."""
    found = [".+"] if indexes is None else [re.escape(index) for index in indexes]
    shapes = [re.compile(shape.format(index)) for index in found for shape in (_VECTORS, _TEXTS)]
    own = {name for name in names if any(shape.fullmatch(name) for shape in shapes)}
    return own | ({_STOP_WORDS} & set(names) if any(name.endswith("_docs") for name in own) else set())


def columns(database: Database, table: str) -> list[Declared]:
    """The columns of a table, in order. A relationship has no key."""
    rows = database.ask(f"CALL table_info({as_text(table)}) RETURN *")
    return [_declared(*row) for row in rows]


def _declared(_number: Any, name: Any, kind: Any, default: Any, is_key: Any = False, *_others: Any) -> Declared:
    return Declared(str(name), str(kind), str(default), is_key is True)  # of a relationship, its direction


def joins(database: Database, table: str) -> list[Joined]:
    """The pairs of tables that a relationship joins."""
    return [Joined(*map(str, row)) for row in database.ask(f"CALL show_connection({as_text(table)}) RETURN *")]


def as_text(name: str) -> str:
    """A name as a text of Cypher."""
    return "'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'"
