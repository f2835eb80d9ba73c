"""The house stands: a room knows the rooms before it and none after, and the engine stays in the workers."""

import ast
from collections.abc import Iterator
from pathlib import Path

import nimad

PACKAGE = Path(nimad.__file__).parent
ROOMS = ("config", "source", "target", "worker", "writeback", "migration", "service", "desk", "report", "cli")
#: What has a folder and is no room: of all rooms, only the last one needs it.
OUTSIDE = ("sample",)
#: What each room must not import, besides the rooms after it.
FORBIDDEN = {
    "config": {"sqlite3", "pyarrow", "ladybug"},
    "source": {"ladybug"},
    "writeback": {"nimad.target", "nimad.worker", "pyarrow", "ladybug"},
    "migration": {
        *("nimad.target", "nimad.source.arrow", "nimad.worker.tasks", "nimad.worker.load_batch"),
        *("pyarrow", "ladybug", "loguru", "click"),
    },
    "service": {"nimad.writeback", "sqlite3", "nimad.source", "nimad.target", "pyarrow", "ladybug", "loguru", "click"},
    "desk": {
        *("nimad.writeback", "sqlite3", "nimad.target", "nimad.worker.tasks", "nimad.worker.load_batch"),
        *("pyarrow", "ladybug", "loguru", "click"),
    },
    "report": {"nimad.writeback", "sqlite3", "nimad.target", "pyarrow", "ladybug"},
    "cli": {"nimad.writeback", "sqlite3", "nimad.target", "pyarrow", "ladybug"},
}


def imports(file: Path) -> Iterator[str]:
    for statement in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield statement.module
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)


def breaches(room: str) -> list[str]:
    later = {f"nimad.{name}" for name in ROOMS[ROOMS.index(room) + 1 :]}
    forbidden = later | FORBIDDEN.get(room, set())
    return [
        f"{file.relative_to(PACKAGE)} imports {name}"
        for file in sorted((PACKAGE / room).rglob("*.py"))
        for name in imports(file)
        if any(name == bad or name.startswith(f"{bad}.") for bad in forbidden)
    ]


def test_every_room_of_the_house_is_there() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == {*ROOMS, *OUTSIDE}


def test_no_room_knows_a_later_one_or_what_is_not_its_business() -> None:
    assert [breach for room in ROOMS for breach in breaches(room)] == []


def test_only_a_rollback_may_write_to_sqlite() -> None:
    others = [
        f"{file.relative_to(PACKAGE)} imports {name}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for name in imports(file)
        if name.startswith("nimad.writeback") and file.parent.name != "writeback"
    ]
    assert {other.split(" ")[0] for other in others} == {"rollback/rollback.py"}


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
