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


#: The engine's word for memory that it cannot give back to the kernel.
FRAME_RELEASE = "Releasing physical memory"


class Database:
    """One open connection. `ask` gives rows, `arrow` a pyarrow table, `run` nothing."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.complaint = ""  # what the engine said of a write that may have arrived all the same

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
            # By default room for some ten million values is reserved at once, and a malloc that fails is a crash.
            return result.get_as_arrow(chunk_size=0)
        finally:
            result.close()

    def copy(self, what: str, batch: Any) -> None:  # noqa: ARG002 - see below
        """COPY an Arrow table, and checkpoint.

        COPY data is not in the write-ahead log: until the checkpoint after it has finished, a kill loses all of
        it and nothing else. It is done when a later process has counted it, never because this call returned.
        """
        with self._complaints():
            # The engine finds `batch` by name in this frame.
            self._connection.execute(f"COPY {what} FROM batch").close()
        self.checkpoint()

    def load(self, cypher: str, batch: Any) -> None:  # noqa: ARG002 - found by name, as in `copy`
        """Run `LOAD FROM batch …` in one transaction, which the write-ahead log covers."""
        self._connection.execute(f"LOAD FROM batch {cypher}").close()

    def checkpoint(self) -> None:
        with self._complaints():
            self._connection.execute("CHECKPOINT").close()

    def leave_no_log(self) -> None:
        """Close without a checkpoint of what is on the disk already, so that nothing is left beside the file."""
        self._connection.execute("CALL force_checkpoint_on_close=false").close()

    @contextmanager
    def _complaints(self) -> Iterator[None]:
        """Note, and go on, where an engine before 0.18 cannot give memory back on pages of 16 KiB.

        It says so in the last step of a checkpoint, once everything is in the file (checkpointer.cpp of 0.15.3).
        Whether it is, the next process counts, as always.
        """
        try:
            yield
        except RuntimeError as error:
            if FRAME_RELEASE not in str(error):
                raise
            self.complaint = str(error)


class UnopenedError(RuntimeError):
    """The engine cannot open the file; the message is its own."""


@contextmanager
def open_database(engine: ModuleType, path: Path, limits: Limits, *, read_only: bool = False) -> Iterator[Database]:
    """Open `path`, creating it unless `read_only`. Closed, and synced to disk when it was written, at the end."""
    try:
        database = engine.Database(
            str(path),
            buffer_pool_size=limits.pool_bytes,
            max_num_threads=limits.threads,
            max_db_size=limits.address_space_bytes,
            read_only=read_only,
        )
    except (RuntimeError, MemoryError, ValueError) as error:  # a damaged file makes it say any of these
        raise UnopenedError(str(error) or type(error).__name__) from error
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
