"""Whether the source is there, and is a memory."""

import threading
from pathlib import Path

from nimad.source.header import check_source
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import read_schema


def check_readable(path: Path, stop: threading.Event) -> None:
    """Raise `SourceError` where there is no memory, or one that is just being made."""
    check_source(path)
    source = SourceFile(path, stop)
    source.read(lambda connection: read_schema(connection, source, nodes_only=True))
