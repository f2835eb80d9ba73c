"""The command as people type it: in a pipe, on a terminal, and with what it leaves behind."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden"
#: The guide's stamp: local time and level.
STAMP = re.compile(r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\] \[(DEBUG|INFO|WARN|ERROR)\] ")
TIMEOUT_S = 60


@dataclass(frozen=True)
class Ran:
    """A run of the command that ended. Its folder is the source's."""

    folder: Path
    code: int
    out: str
    err: str

    @property
    def log(self) -> str:
        return (self.folder / "migration.log").read_text()

    @property
    def error(self) -> str:
        """The text of the one line on stderr, which has the guide's stamp and level."""
        line = re.fullmatch(STAMP.pattern + r"([^\n]+)\n", self.err)
        assert line, f"not one line of the guide's form:\n{self.err}"
        assert line[2] == "ERROR"
        return line[3]


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process's environment, but with a home of its own and nothing that names a memory."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("NIMA", "OPENCLAW"))}
    return ours | {"HOME": str(home)} | more


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "nimad", *map(str, words)]


def nimad(folder: Path, *words: str | Path, prefix: Sequence[str] = (), **more: str) -> Ran:
    """Run the command in `folder`, with its output piped."""
    done = subprocess.run(
        [*prefix, *command(*words)],
        cwd=folder,
        env=environment(folder, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Ran(folder, done.returncode, done.stdout.decode(), done.stderr.decode())


class running:  # noqa: N801 - reads as what it does
    """The command while it runs; ended with the block."""

    def __init__(self, folder: Path, *words: str | Path, prefix: Sequence[str] = (), **more: str) -> None:
        self._process = subprocess.Popen(
            [*prefix, *command(*words)],
            cwd=folder,
            env=environment(folder, **more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def read_until(process: subprocess.Popen[bytes], words: str) -> None:
    assert process.stdout
    for line in process.stdout:
        if words in line.decode():
            return
    pytest.fail(f"the run ended without saying {words!r}")


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def working(supervisor: int) -> Iterator[int]:
    """Its children that have their job: the supervisor has closed its end of their stdin."""
    for child in children(supervisor):
        try:
            stdin = Path(f"/proc/{child}/fd/0").readlink()
            held = [link.readlink() for link in Path(f"/proc/{supervisor}/fd").iterdir()]
        except OSError:
            continue
        if stdin.name.startswith("pipe:") and stdin not in held:
            yield child


def on_a_terminal(folder: Path, *words: str | Path) -> tuple[int, str]:
    """Run the command on a pseudo-terminal of 80 columns; return its exit code and what was drawn."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(*words), cwd=folder, env=environment(folder, TERM="xterm"), stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        drawn = b""
        while piece := _read_terminal(ours):
            drawn += piece
        os.close(ours)
    return process.returncode, drawn.decode()


def _read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # how Linux says that the other end was closed
        return b""


def assert_complete(folder: Path) -> None:
    assert (folder / "migration.log").read_text().endswith("[INFO] ✅ Migration completed successfully!\n")
    assert (folder / "graph.ladybug").exists()
