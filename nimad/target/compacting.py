"""Compacting: the same rows in a new file without the holes that many checkpoints leave."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from nimad.target import counting
from nimad.target.counting import Count
from nimad.target.database import Limits, open_database


def compact(engine: ModuleType, path: Path, copy_to: Path, limits: Limits) -> Mapping[str, Count]:
    """Copy `path` into the new file `copy_to` by way of Parquet files beside it; return what was copied.

    `path` stays as it is. What an earlier attempt left under the names used here is thrown away.
    """
    folder = copy_to.with_name(copy_to.name + ".export")
    _discard(copy_to)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with open_database(engine, path, limits, read_only=True) as database:
            counts = counting.count(database)
            database.run(f"EXPORT DATABASE {_literal(folder)} (format='parquet')")
        with open_database(engine, copy_to, limits) as database:
            database.run(f"IMPORT DATABASE {_literal(folder)}")
            database.checkpoint()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return counts


def _discard(path: Path) -> None:
    for suffix in ("", ".wal", ".shadow"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _literal(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
