"""The log of a service: entries with the run's fields, and a file that outlives logrotate and many runs."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.journald import Journald
from test_log import journald, log, log_of, said, source, texts

from nimad.host import root_helper
from nimad.report.level import Level
from nimad.report.log.sinks import Log

__all__ = ["journald", "log", "said", "source"]  # fixtures

#: Some user other than root, whom the system need not know.
SHE = 54_321
TIMEOUT_S = 60
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root works for others")
#: `nimad`, with the journal at the socket named last.
ELSEWHERE = """
import sys
from pathlib import Path
from nimad.cli import main, migrate
from nimad.report.log import journal, sinks

path = Path(sys.argv.pop())

class Elsewhere(journal.Journal):
    @classmethod
    def of_streams(cls, streams):
        return super().of_streams(streams, path)

migrate.Journal = sinks.Journal = Elsewhere
main()
"""


def as_a_unit(folder: Path, journald: Journald, *words: str | Path) -> tuple[int, str]:
    """Run the command with both its streams in the journal; return its exit code and what went to them as text."""
    stream = folder / "stream"
    with stream.open("wb") as file:
        status = os.fstat(file.fileno())
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE, *map(str, words), str(journald.path)],
            cwd=folder,
            env=os.environ | {"HOME": str(folder), "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            timeout=TIMEOUT_S,
            check=False,
        )
    return done.returncode, stream.read_text()


def test_migrate_as_a_unit_speaks_to_the_journal_alone(journald: Journald, source: Path) -> None:
    code, text = as_a_unit(source.parent, journald, "migrate", "--source", source, "--nodes-only", "--verify", "none")
    assert (code, text) == (0, "")
    assert journald.messages[0] == "Analyzing source database..."
    assert journald.messages[-1] == "✅ Migration completed successfully!"
    assert "Batch 1/1 (100.0% complete, ETA: 0s)" in journald.messages
    assert len({entry["NIMA_RUN"] for entry in journald.entries}) == 1
    assert texts(log_of(source).read_text())[-1] == "[INFO] ✅ Migration completed successfully!"


@pytest.mark.parametrize("words", [("migrate", "--source", "missing"), ("search", "--target", "missing", "x")])
def test_an_error_of_a_unit_is_said_once(journald: Journald, tmp_path: Path, words: tuple[str, ...]) -> None:
    code, text = as_a_unit(tmp_path, journald, *words)
    assert code
    # By the stream, which journald ties to the unit even when the process has ended by then; `<3>` is its priority.
    assert text.startswith("<3>there is no ")
    assert (text.count("\n"), journald.entries) == (1, [])


def test_with_json_a_units_stdout_is_events_all_the_same(journald: Journald, source: Path) -> None:
    code, text = as_a_unit(source.parent, journald, "migrate", "--source", source, "--json", "--dry-run")
    assert (code, journald.entries) == (0, [])
    assert all(line.startswith('{"event": ') for line in text.splitlines())
    assert text


def test_the_log_of_a_service_needs_little_memory() -> None:
    code = (
        "import sys; from nimad.report import listener; from nimad.report.log import journal, sinks;"
        "assert not {'rich', 'pyarrow', 'ladybug', 'logging.handlers'} & set(sys.modules);"
        "print(open('/proc/self/status').read().split('VmRSS:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=TIMEOUT_S)
    assert int(done.stdout) < 40_000


@only_root
@pytest.mark.parametrize(
    "gone", [Path.unlink, lambda path: path.rename(path.with_name("old"))], ids=["removed", "moved"]
)
def test_in_a_folder_of_roots_a_helper_makes_it_anew_for_the_memorys_owner(
    source: Path, tmp_path: Path, said: list[str], gone: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    connections: list[root_helper._Connection] = []
    monkeypatch.setattr(root_helper, "_connections", connections)
    path = tmp_path / "nima.log"
    root_helper.start([path], (SHE, SHE))
    log = Log("INFO", said.append, source)
    log.open(path)
    for _ in range(2):
        log.write(Level.INFO, "a line")
        status = path.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (SHE, SHE, 0o600)
        gone(path)
    log.close()
    connections[0].channel.close()
    assert texts(said) == ["[INFO] a line"] * 2
