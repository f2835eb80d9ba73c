"""The house stands: a room knows the rooms before it and none after, and the engine stays in the workers."""

import ast
from collections.abc import Iterator
from pathlib import Path

import nimad

PACKAGE = Path(nimad.__file__).parent
ROOMS = ("config", "source", "target", "worker", "migration", "service", "desk", "report", "cli")
#: What each room must not import, besides the rooms after it.
FORBIDDEN = {
    "config": {"sqlite3", "pyarrow", "ladybug"},
    "source": {"ladybug"},
    "migration": {"nimad.target", "pyarrow", "ladybug", "nimad.worker.tasks", "nimad.source.arrow", "loguru", "click"},
    "service": {"sqlite3", "nimad.source", "nimad.target", "pyarrow", "ladybug", "loguru", "click"},
    "desk": {"sqlite3", "nimad.target", "nimad.worker.tasks", "pyarrow", "ladybug", "loguru", "click"},
    "report": {"sqlite3", "nimad.target", "pyarrow", "ladybug"},
    "cli": {"sqlite3", "nimad.target", "pyarrow", "ladybug"},
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
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ROOMS)


def test_no_room_knows_a_later_one_or_what_is_not_its_business() -> None:
    assert [breach for room in ROOMS for breach in breaches(room)] == []
