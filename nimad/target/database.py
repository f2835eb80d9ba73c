"""The LadybugDB file: opened with explicit limits, closed in order, synced to disk."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from nimad.host import malloc
from nimad.host.disk import is_hollow, logs, sync
from nimad.source.batch import Batch
from nimad.source.schema import ValueKind
from nimad.target import parameters
from nimad.target.destination import Destination, cypher_name
from nimad.target.engine import has_arrow


@dataclass(frozen=True)
class EngineLimits:
    """What the engine may take. Its own defaults are 80 % of RAM and 8 TiB of address space: wrong for a Pi."""

    pool_bytes: int
    address_space_bytes: int  # a power of two
    threads: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


#: The engine's word for memory that it cannot give back to the kernel.
FRAME_RELEASE = "Releasing physical memory"


class Database:
    """One open connection. `ask` gives rows, `columns` whole columns, `run` nothing.

    Batches go in and columns come out by way of Arrow; without pyarrow, by parameters and row by row.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.has_arrow = has_arrow()
        self.complaint = ""  # what the engine said of a write that may have arrived all the same

    def run(self, cypher: str, **parameters: Any) -> None:
        self._connection.execute(cypher, parameters or None).close()

    def tables(self) -> dict[str, str]:
        """Every table of the file with its kind, `NODE` or `REL`."""
        return {str(name): str(kind) for name, kind in self.ask("CALL show_tables() RETURN name, type")}

    def ask(self, cypher: str, **parameters: Any) -> list[list[Any]]:
        result = self._connection.execute(cypher, parameters or None)
        try:
            rows: list[list[Any]] = result.get_all()
        finally:
            result.close()
        return rows

    def columns(self, cypher: str, kinds: Sequence[ValueKind]) -> list[list[Any]]:
        """The answer column by column, each value as the source would have it: embeddings as bytes."""
        if not self.has_arrow:
            rows = self.ask(cypher)
            return [[_plain(row[index], kind) for row in rows] for index, kind in enumerate(kinds)]
        from nimad.source import arrow

        result = self._connection.execute(cypher)
        try:
            # By default room for some ten million values is reserved at once, and a malloc that fails is a crash.
            table = result.get_as_arrow(chunk_size=0)
        finally:
            result.close()
        return [arrow.values(table.column(index), kind) for index, kind in enumerate(kinds)]

    def copy(self, into: Destination, batch: Batch) -> None:
        """COPY a batch, and checkpoint.

        COPY data is not in the write-ahead log: until the checkpoint after it has finished, a kill loses all of
        it and nothing else. It is done when a later process has counted it, never because this call returned.
        """
        if self.has_arrow:
            from nimad.source import arrow

            arrow_table = arrow.table(batch)  # which the engine finds by its name in this frame
            with self._complaints():
                self._connection.execute(f"COPY {into} FROM arrow_table").close()
            del arrow_table
        else:
            self._run_all(parameters.inserts(into, batch))
        self.checkpoint()

    def copy_all(self, into: Destination, batches: Iterable[Batch], folder: Path) -> int:
        """COPY batches as one, of which only one is in memory at a time; return how many rows that were.

        They wait on the disk of `folder`. As with `copy`, all arrive or none, and who knows is a later process.
        """
        from nimad.source import arrow

        with arrow.Spool(folder) as spool:
            for batch in batches:
                spool.add(batch)
            spool.finish()
            malloc.give_back()
            if spool.rows:
                with self._complaints():
                    self._connection.execute(f"COPY {into} FROM '{spool.path}' (file_format='parquet')").close()
        self.checkpoint()
        return spool.rows

    def update(self, into: Destination, batch: Batch) -> None:
        """Set the properties of nodes by their id, in transactions that the write-ahead log covers; and checkpoint."""
        if self.has_arrow:
            from nimad.source import arrow

            arrow_table = arrow.table(batch)
            changes = ", ".join(f"n.{cypher_name(name)} = c{i}" for i, name in enumerate(into.properties) if i)
            match = f"MATCH (n:{cypher_name(into.table)}) WHERE n.id = c0 SET {changes}"
            self._connection.execute(f"LOAD FROM arrow_table {match}").close()
            del arrow_table
        else:
            self._run_all(parameters.updates(into, batch))
        self.checkpoint()

    def _run_all(self, statements: Iterator[tuple[str, list[dict[str, Any]]]]) -> None:
        """Run statements in one transaction, and so with one checkpoint.

        0.15.3 wrote an index that takes down whoever opens the file when there were many (9,770 nodes, 50 statements).
        """
        with self.transaction():
            self.run_each(statements)

    def run_each(self, statements: Iterable[tuple[str, list[dict[str, Any]]]]) -> None:
        """Run statements, each with the rows for its UNWIND."""
        for statement, rows in statements:
            self.run(statement, rows=rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing of what is run in it, as far as the write-ahead log covers that: never a COPY."""
        self.run("BEGIN TRANSACTION")
        try:
            yield
        except BaseException:
            with suppress(RuntimeError):  # what went wrong may have undone it already
                self.run("ROLLBACK")
            raise
        with self._complaints():
            self.run("COMMIT")

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


def _plain(value: Any, kind: ValueKind) -> Any:
    return parameters.vector_bytes(value) if kind is ValueKind.VECTOR and value is not None else value


class UnopenedError(RuntimeError):
    """The engine cannot open the file; the message is its own."""


@contextmanager
def open_database(
    engine: ModuleType, path: Path, limits: EngineLimits, *, read_only: bool = False
) -> Iterator[Database]:
    """Open `path`, creating it unless `read_only`. Closed, and synced to disk when it was written, at the end."""
    for piece in (path, *logs(path)):  # the engine would wait for a pipe, and read a device without end
        if piece.exists() and not piece.is_file():
            raise UnopenedError(f"{piece} is not a plain file")
        if piece.exists() and is_hollow(piece):
            raise UnopenedError(f"nearly all of its {piece.stat().st_size:,} bytes are holes")
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
        for piece in (path, *logs(path)):
            sync(piece)
        sync(path.parent)
