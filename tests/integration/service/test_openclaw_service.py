"""OpenClaw's file: we read what OpenClaw takes and tell what it refuses, and what we tell people to write it."""

from pathlib import Path

from support.memories import make_memory, node
from support.services import WAIT_S, service
from test_openclaw import FORMS, home, written

__all__ = ["home"]  # fixtures


def test_the_service_waits_for_as_long_as_openclaw_does_not_run_the_plugin(home: Path) -> None:
    written(home, FORMS["slot-of-another"])
    with service(home, "--trigger", "openclaw", "--after", "exit") as running:
        running.wait_for_status("^Waiting for .+ in openclaw.json$")
        assert 'plugins.slots.memory is "memory-core", not "nima-memory"' in running.log
        written(home, FORMS["config"])
        running.wait_for_status("^Waiting for a memory at ")
        make_memory(home / "graph.sqlite", nodes=[node(1)])
        assert running.process.wait(WAIT_S) == 0
    assert (home / "graph.ladybug").exists()
