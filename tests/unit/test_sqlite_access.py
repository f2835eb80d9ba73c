"""SQLite is opened for writing in one place alone. Import contracts are checked by `make lint`."""

from pathlib import Path

import nimad

PACKAGE = Path(nimad.__file__).parent


def test_a_memory_is_opened_for_writing_in_one_place_alone() -> None:
    """Wherever else SQLite is opened, it is read-only, or a file of our own making."""
    opened = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if "sqlite3.connect(" in file.read_text("utf-8")
    }
    assert opened == {
        "sample/write.py",  # makes one
        "source/bounds.py",  # none, in memory: what functions SQLite has
        "source/sqlite_file.py",  # mode=ro
        "source/foreign_wal.py",  # mode=ro, without the log
        "source/salvage.py",  # a copy of what can be read
        "rollback/backup.py",  # a copy, too
        "rollback/writer.py",
    }
    for file in ("source/sqlite_file.py", "source/foreign_wal.py"):
        assert "mode=ro" in (PACKAGE / file).read_text("utf-8")
