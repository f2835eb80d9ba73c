"""Compacting: the same rows in a new file without the holes that many checkpoints leave."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from nimad.disk import discard, export_folder
from nimad.target import counting
from nimad.target.counting import Count
from nimad.target.database import Limits, open_database


def compact(engine: ModuleType, path: Path, copy_to: Path, limits: Limits) -> Mapping[str, Count]:
    """Copy `path` into the new file `copy_to` by way of Parquet files beside it; return what was copied.

    `path` stays as it is. What an earlier attempt left under the names used here is thrown away.
    """
    folder = export_folder(copy_to)
    discard(copy_to)
    shutil.rmtree(folder, ignore_errors=True)
    os.chdir(
        folder.parent
    )  # a worker's own: the engine is given a name without the folders above, which may hold quotes
    try:
        with open_database(engine, path, limits, read_only=True) as database:
            counts = counting.count(database)
            database.run(f"EXPORT DATABASE '{folder.name}' (format='parquet')")
        with open_database(engine, copy_to, limits) as database:
            database.run(f"IMPORT DATABASE '{folder.name}'")
            database.checkpoint()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return counts
