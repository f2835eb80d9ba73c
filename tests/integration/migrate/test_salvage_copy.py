"""Damaged pages: a row that SQLite still yields is copied as it is, any other lies in a range that is named."""

import shlex
import subprocess
from pathlib import Path

from support.memories import make_memory
from test_salvage import path

from nimad.source.header import rescue

__all__ = ["path"]  # fixtures


def test_what_is_told_of_a_file_that_cannot_be_saved_works_on_a_copy(tmp_path: Path) -> None:
    folder = tmp_path / "Ada's agent"
    folder.mkdir()
    source = make_memory(folder / "graph.sqlite", nodes=[{"id": 1, "text": "x"}])
    source.with_name("graph.sqlite-wal").write_bytes(b"what came last")
    copying, recovering = rescue(source).partition("with: ")[2].rsplit(" && ", 1)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    subprocess.run(["sh", "-c", copying], check=True)
    assert {path: path.read_bytes() for path in before} == before
    assert source.with_name("graph.sqlite.copy").read_bytes() == before[source]
    assert source.with_name("graph.sqlite.copy-wal").read_bytes() == b"what came last"
    reading, writing = recovering.split(" | ")
    assert shlex.split(reading) == ["sqlite3", f"{source}.copy", ".recover"]
    assert shlex.split(writing) == ["sqlite3", f"{source}.recovered"]
