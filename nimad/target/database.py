"""The LadybugDB file: opened with explicit limits, closed in the right order, synced to disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from nimad.disk import sync


@dataclass(frozen=True)
class Limits:
    """What the engine may take. Its own defaults are 80 % of RAM and 8 TiB of address space: wrong for a Pi."""

    pool_bytes: int
    address_space_bytes: int  # a power of two
    threads: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Database:
    """One open connection. `ask` gives rows, `arrow` a pyarrow table, `run` nothing."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def run(self, cypher: str, **parameters: Any) -> None:
        self._connection.execute(cypher, parameters or None).close()

    def ask(self, cypher: str, **parameters: Any) -> list[list[Any]]:
        result = self._connection.execute(cypher, parameters or None)
        try:
            rows: list[list[Any]] = result.get_all()
        finally:
            result.close()
        return rows

    def arrow(self, cypher: str, **parameters: Any) -> Any:
        result = self._connection.execute(cypher, parameters or None)
        try:
            return result.get_as_arrow()
        finally:
            result.close()

    def copy(self, what: str, batch: Any) -> None:  # noqa: ARG002 - see below
        """COPY an Arrow table, and checkpoint.

        COPY data is not in the write-ahead log: until the checkpoint after it has finished, a kill loses all of
        it and nothing else. It is done when a later process has counted it, never because this call returned.
        """
        # The engine finds `batch` by name in this frame.
        self._connection.execute(f"COPY {what} FROM batch").close()
        self.checkpoint()

    def load(self, cypher: str, batch: Any) -> None:  # noqa: ARG002 - found by name, as in `copy`
        """Run `LOAD FROM batch …` in one transaction, which the write-ahead log covers."""
        self._connection.execute(f"LOAD FROM batch {cypher}").close()

    def checkpoint(self) -> None:
        self._connection.execute("CHECKPOINT").close()


@contextmanager
def open_database(engine: ModuleType, path: Path, limits: Limits, *, read_only: bool = False) -> Iterator[Database]:
    """Open `path`, creating it unless `read_only`. Closed, and synced to disk when it was written, at the end."""
    database = engine.Database(
        str(path),
        buffer_pool_size=limits.pool_bytes,
        max_num_threads=limits.threads,
        max_db_size=limits.address_space_bytes,
        read_only=read_only,
    )
    try:
        connection = engine.Connection(database)
        try:
            yield Database(connection)
        finally:
            connection.close()
    finally:
        database.close()
    if not read_only:
        sync(path)
        sync(path.parent)
