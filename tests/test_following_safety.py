"""A published target that is kept up to date loses nothing that is nowhere else, whoever wrote it."""

import subprocess
import sys
from pathlib import Path

import pytest
from support import ENGINE_LIMITS, change, migrate
from test_following import Following, ask, follow, made, new_turn, source
from torture import state_of

from nimad.errors import RefusedError
from nimad.migration.state import is_untouched

__all__ = ("follow", "made", "source")  # fixtures

#: What nima-core writes to the target alone, and leaves in the log when it is killed.
KILLED_AGENT = f"""
import ladybug, os, sys
database = ladybug.Database(sys.argv[1], **{ENGINE_LIMITS!r})
connection = ladybug.Connection(database)
for key in range(500, 504):
    connection.execute(
        "CREATE (:MemoryNode {{id: $id, layer: 'input', turn_id: $turn, text: $text}})",
        {{"id": key, "turn": f"a{{key}}", "text": "agent only " * 30}},
    )
os._exit(0)
"""


def written_by_killed_agent(target: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED_AGENT, str(target)], check=True)


def of_agent(target: Path) -> list[int]:
    rows = ask(target, "MATCH (n:MemoryNode) WHERE n.id >= 500 RETURN n.id ORDER BY n.id")
    return [row[0] for row in rows]


def test_what_the_agent_left_in_a_log_is_not_forgotten_by_a_pass(follow: Following) -> None:
    change(follow.source, "INSERT INTO memory_nodes (id, timestamp, text) VALUES (70, 'noon', 'x')")
    follow()
    written_by_killed_agent(follow.target)
    for number in (100, 101):
        new_turn(follow.source, number)
        assert follow().added == 3
        assert not is_untouched(follow.target, state_of(follow.target))
    change(follow.source, "UPDATE memory_nodes SET timestamp = 5 WHERE id = 70")
    with pytest.raises(RefusedError, match="was written to since it was made"):
        migrate(follow.source, retry=True, reader_python=Path("none"))
    assert of_agent(follow.target) == [500, 501, 502, 503]
